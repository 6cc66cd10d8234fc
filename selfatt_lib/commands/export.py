"""``selfatt export``: the model of a run for other programs, or as a page."""

from pathlib import Path

import click

from selfatt_lib.commands import new_file, one_sentence, written


@click.command()
@click.argument("run")
@click.argument("out")
@click.option("--web", is_flag=True, help="Write a page into the folder OUT instead.")
@click.option("--overwrite", is_flag=True, help="Replace OUT, or files in it.")
def export(run, out, web, overwrite):
    """Write the model of the run directory RUN as ONNX, or as a page.

    OUT, a name in .onnx, holds all that is needed to predict: the weights, the
    vocabulary, the labels, and how texts are split into words. With --web, OUT is a
    folder, whose index.html opens in a browser, by itself and without a network, and
    shades what is typed.
    """
    with one_sentence():
        if web:
            from selfatt_lib.web import write_page

            folder = Path(out)
            if folder.exists() and not (overwrite and folder.is_dir()):
                raise FileExistsError(
                    f"{out} exists. Name another folder, or write the page into it by "
                    "--overwrite."
                )
            size = write_page(run, folder)
            click.echo(f"page with {size / 1e6:.1f} MB: {folder / 'index.html'}")
            return
        if Path(out).suffix.lower() in (".json", ".params"):
            raise ValueError(
                f"{out}: MXNet's own format, symbol and parameters, is not written: it "
                "needs MXNet, which is retired. ONNX is read everywhere: name a .onnx "
                "file."
            )
        out = new_file(out, [".onnx"], overwrite)
        from selfatt_lib.onnx import onnx_model
        from selfatt_lib.prediction import Classifier

        model = onnx_model(Classifier.load(run))
        content = model.SerializeToString(deterministic=True)
        with written(out) as temporary:
            temporary.write_bytes(content)
        click.echo(f"ONNX model of {len(content) / 1e6:.1f} MB: {out}")
