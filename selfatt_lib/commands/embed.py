"""``selfatt embed``: the sentence embedding of each text, for other programs."""

import zipfile
from contextlib import ExitStack
from itertools import chain

import click

from selfatt_lib.commands import new_file, one_sentence, reading_options, written
from selfatt_lib.commands.lines import read_lines

CHUNK = 2_000  # texts


@click.command()
@click.argument("run")
@click.option(
    "--file",
    metavar="IN",
    help="A CSV, JSON lines or Parquet file, plain, .gz or .zst. By default lines of "
    "standard input.",
)
@click.option("--out", metavar="OUT", required=True, help="Where to: a name in .npz.")
@reading_options
@click.option("--overwrite", is_flag=True, help="Replace OUT.")
def embed(run, file, out, overwrite, **given):
    """Write the sentence embedding of each text with the run directory RUN.

    OUT holds an array "embedding" of the shape (texts, hops, 2 * hidden_size), in the
    order of IN: numpy.load(OUT)["embedding"]. A row without a text has NaN there.
    """
    with one_sentence(), ExitStack() as stack:
        from selfatt_lib.prediction import Classifier

        out = new_file(out, [".npz"], overwrite)
        classifier = Classifier.load(run)
        if file is None:
            texts = [*chain.from_iterable(read_lines())]
            starts = range(0, len(texts), CHUNK)
            count, chunks = len(texts), (texts[n : n + CHUNK] for n in starts)
        else:
            from selfatt_lib.commands import tables

            table = stack.enter_context(tables.opened(file, run, given))
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
