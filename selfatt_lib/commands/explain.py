"""``selfatt explain``: which words of a text the model attended to."""

import warnings

import click

from selfatt_lib.commands import new_file, one_sentence, padded, written
from selfatt_lib.machinery import printable

LONGEST_BAR = 20
LONGEST_TOKEN = 40
# a picture of more would be too wide to be looked at; a page is not
MOST_IN_A_PICTURE = 100


@click.command()
@click.argument("run")
@click.argument("text")
@click.option("--html", metavar="OUT", help="Shade the words, on a page: a .html file.")
@click.option("--svg", metavar="OUT", help="Draw the attention of each hop: .svg.")
@click.option("--png", metavar="OUT", help="The same as .png.")
@click.option("--overwrite", is_flag=True, help="Replace OUT.")
def explain(run, text, html, svg, png, overwrite):
    """Show which words of TEXT the run directory RUN attends to.

    Without an OUT, each word is printed with its attention, summed over the hops: all
    weights add up to the number of hops.
    """
    with one_sentence():
        from selfatt_lib.prediction import Classifier

        page = html and new_file(html, [".html"], overwrite)
        given = (svg and (svg, [".svg"]), png and (png, [".png"]))
        pictures = [new_file(*each, overwrite) for each in given if each]
        [prediction] = Classifier.load(run).predict([text])
        if not (page or pictures):
            click.echo(_words(prediction))
        if page:
            from selfatt_lib.visualization import attention_html

            with written(page) as temporary:
                html = attention_html([prediction])
                temporary.write_text(html, encoding="utf-8", newline="\n")
            click.echo(page)
        for picture in pictures:
            _draw(picture, prediction)
            click.echo(picture)


def _draw(path, prediction):
    import matplotlib.pyplot as plt

    from selfatt_lib.visualization import attention_heatmap

    tokens = prediction.tokens
    if len(tokens) > MOST_IN_A_PICTURE:
        raise ValueError(
            f"a picture has room for {MOST_IN_A_PICTURE} tokens, and the model read "
            f"{len(tokens)} of this text. --html shows any number."
        )
    plt.switch_backend("agg")  # no window, whatever the user has set
    with written(path) as temporary, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        axes = attention_heatmap(prediction.attention, tokens)
        axes.figure.savefig(temporary, format=path.suffix[1:].lower())
    if said:  # for each character
        click.echo(
            f"{path}: matplotlib's font lacks some characters of this text, and draws "
            "boxes. --html shows all.",
            err=True,
        )


def _words(prediction):
    """Return a line for each token, with its weight as a number and a bar: str."""
    weights = prediction.attention.sum(axis=0)
    name = padded(prediction.labels)[prediction.label].strip()
    clipped = "; not all of it was read" * prediction.clipped
    lines = [f"{name}  {prediction.probabilities.max():.2f}{clipped}"]
    for token, known, weight in zip(prediction.tokens, prediction.known, weights):
        shown = printable(token)
        if len(shown) > LONGEST_TOKEN:
            shown = f"{shown[:LONGEST_TOKEN]}…"
        bar = "█" * round(LONGEST_BAR * weight / weights.max())
        unknown = "" if known else "  (not in the vocabulary)"
        lines.append(f"  {weight:5.2f}  {bar:<{LONGEST_BAR}}  {shown}{unknown}")
    return "\n".join(lines)
