"""The command line: ``python -m benchmarks [QUESTION ...] [--quick]``."""

import time
from pathlib import Path

import click

from benchmarks import epoch, inference, memory, pipeline, report, step
from benchmarks.harness import WITH_TORCH

QUESTIONS = {
    "pipeline": pipeline.measure,
    "step": step.measure,
    "epoch": epoch.measure,
    "inference": inference.measure,
    "memory": memory.measure,
}


@click.command()
@click.argument("questions", nargs=-1, type=click.Choice(list(QUESTIONS)))
@click.option("--quick", is_flag=True, help="Small sizes: does everything work?")
@click.option("--sizes", help="Reviews for memory, as in 250000,1000000.")
@click.option(
    "--out",
    default=report.FOLDER,
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    help="Folder of the results.",
)
def main(questions, quick, sizes, out):
    """Measure how fast the library is: all QUESTIONS, or those named."""
    machine = report.describe_machine()
    for name, value in machine.items():
        print(f"{name:15} {value}")
    if not WITH_TORCH:
        print("PyTorch is left out: it is not installed (pip install .[bench])")
    if quick:
        print("--quick: too small and too few runs for figures to rely on")
    started = time.perf_counter()
    rows = []
    for question in questions or QUESTIONS:
        options = {"quick": quick}
        if question == "memory" and sizes:
            options["sizes"] = [int(size) for size in sizes.split(",")]
        others = report.watch()
        answers = QUESTIONS[question](**options)
        about = {"quick": quick, "measured": machine["date"], "others": others()}
        rows += [answer | about for answer in answers]
    everything = report.keep(rows, machine, out)
    report.draw(everything, machine, out / "results.png")
    print(f"\n{report.table(rows)}\n")
    print("ratio: how many times better ours is. spread: of the runs.")
    if doubts := report.doubts(rows, machine):
        print("\nThe machine was busy, and the figures marked ? are uncertain:")
        print("\n".join(doubts))
    print(f"\n{time.perf_counter() - started:.0f} s; results.json in {out}")


if __name__ == "__main__":
    main()
