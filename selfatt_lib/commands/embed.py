"""``selfatt embed``: the sentence embedding of each text, for other programs."""

import zipfile
from itertools import chain

import click

from selfatt_lib.commands import new_file, one_sentence, written
from selfatt_lib.commands.lines import read_lines

CHUNK = 2_000  # texts


@click.command()
@click.argument("run")
@click.option(
    "--file",
    metavar="IN",
    help="A CSV (with a header), JSON lines or Parquet file, plain or .gz. By default "
    "lines of standard input.",
)
@click.option("--out", metavar="OUT", required=True, help="Where to: a name in .npz.")
@click.option("--text-column", metavar="NAME", help="By default as in training.")
@click.option("--overwrite", is_flag=True, help="Replace OUT.")
def embed(run, file, out, text_column, overwrite):
    """Write the sentence embedding of each text with the run directory RUN.

    OUT holds an array "embedding" of the shape (texts, hops, 2 * hidden_size), in the
    order of IN: numpy.load(OUT)["embedding"]. A row without a text has NaN there.
    """
    with one_sentence():
        from selfatt_lib.prediction import Classifier

        out = new_file(out, [".npz"], overwrite)
        classifier = Classifier.load(run)
        if file is None:
            texts = [*chain.from_iterable(read_lines())]
            starts = range(0, len(texts), CHUNK)
            count, chunks = len(texts), (texts[n : n + CHUNK] for n in starts)
        else:
            from selfatt_lib.commands import tables

            table = tables.Table(file, tables.name_of_text(run, text_column))
            count, chunks = table.count, table.texts(CHUNK)
        shape = _write(out, classifier, chunks, count)
        click.echo(f"embedding of shape {shape}: {out}")


def _write(out, classifier, chunks, count):
    """Write the embeddings as they come; return the shape of all."""
    from numpy.lib.format import write_array_header_1_0

    from selfatt_lib.machinery.progress import tqdm

    settings = classifier.settings
    shape = count, settings.attention_hops, 2 * settings.hidden_size
    bar = tqdm(total=count, desc="embedding", unit="text", leave=False)
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with (
        written(out) as temporary,
        zipfile.ZipFile(temporary, "w") as archive,
        archive.open("embedding.npy", "w", force_zip64=True) as file,
        bar,
    ):
        write_array_header_1_0(file, header)
        for texts in chunks:
            embeddings = classifier.embed(texts, on_invalid="skip")
            file.write(embeddings.astype("<f4").tobytes())
            bar.update(len(embeddings))
    return shape
