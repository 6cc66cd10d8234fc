"""``selfatt export``: the model of a run as one file, for other programs."""

from pathlib import Path

import click

from selfatt_lib.commands import new_file, one_sentence, written


@click.command()
@click.argument("run")
@click.argument("out")
@click.option("--overwrite", is_flag=True, help="Replace OUT.")
def export(run, out, overwrite):
    """Write the model of the run directory RUN as ONNX.

    OUT, a name in .onnx, holds all that is needed to predict: the weights, the
    vocabulary, the labels, and how texts are split into words.
    """
    with one_sentence():
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
