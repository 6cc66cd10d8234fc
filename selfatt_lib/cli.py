"""The command ``selfatt``: train, use a trained run, look at a machine."""

import sys

import click

from selfatt_lib.commands.embed import embed
from selfatt_lib.commands.evaluate import evaluate
from selfatt_lib.commands.evidence import evidence
from selfatt_lib.commands.explain import explain
from selfatt_lib.commands.export import export
from selfatt_lib.commands.predict import predict
from selfatt_lib.commands.summary import summary
from selfatt_lib.commands.sweep import sweep
from selfatt_lib.commands.train import train


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main():
    """Train, use a trained run, or look at the machine."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # they may be closed
        # the encoding that Windows gives to files and pipes has no "★"
        stream.reconfigure(encoding="utf-8", errors=stream.errors)


@click.command()
def doctor():
    """Print what a bug report should say: Python, engines, driver, GPUs, libraries.

    The exit status is 1 if neither MXNet nor PyTorch can be imported.
    """
    from selfatt_lib.engines import choose
    from selfatt_lib.machinery.doctor import main as print_report

    sys.exit(print_report(choose))


commands = train, sweep, summary, predict, evaluate, explain, embed, export
commands += evidence, doctor
for command in commands:
    main.add_command(command)
