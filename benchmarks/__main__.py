"""The command line: ``python -m benchmarks [QUESTION ...] [--quick]``."""

import time

import click

from benchmarks import questions, report

QUESTIONS = ("pipeline", "step", "epoch", "inference", "memory", "processes", "gpu")


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(QUESTIONS))
@click.option("--quick", is_flag=True, help="Does all work? Small sizes, not kept.")
def main(names, quick):
    """Measure how fast the library is: all questions, or those named."""
    machine = report.describe_machine()
    for name, value in machine.items():
        print(f"{name:15} {value}")
    if "pytorch" not in questions.INSTALLED:
        print(
            "PyTorch is left out: it is not installed (.venv/bin/uv pip install torch)"
        )
    started = time.perf_counter()
    rows = []
    for name in names or QUESTIONS:
        before = report.processor_seconds()
        answers = getattr(questions, name)(quick)
        everything, others = report.processor_seconds() - before
        others = round(max(0.0, float(others / everything)), 3)
        about = {"measured": machine["date"], "others": others}
        rows += [answer | about for answer in answers]
    print(f"\n{report.table(rows)}\n")
    print("ratio: how many times better ours is. spread: of the runs.")
    if doubts := report.doubts(rows):
        print("\nThe machine was busy, and the figures marked ? are uncertain:")
        print("\n".join(doubts))
    kept = "nothing" if quick else report.keep(rows, machine)
    print(f"\n{time.perf_counter() - started:.0f} s; kept: {kept}")


if __name__ == "__main__":
    main()
