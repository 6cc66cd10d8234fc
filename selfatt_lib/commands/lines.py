"""Texts on standard input, one a line."""

import os
import sys

import click

READ = 2**18  # bytes at a time
LONGEST_LINE = 2**24  # bytes


def read_lines():
    """Yield lists of the lines that have come; name the first that cannot be read."""
    if sys.stdin is None:
        raise ValueError("no text was given, and standard input is closed")
    if sys.stdin.isatty():
        keys = "Ctrl-Z and Enter end" if os.name == "nt" else "Ctrl-D ends"
        click.echo(f"One text a line; {keys}.", err=True)
    stream = sys.stdin.buffer
    number, rest, ended = 0, b"", False
    while not ended:
        some = stream.read1(READ)
        ended = not some
        *lines, rest = (rest + some).split(b"\n")
        if ended and rest:
            lines.append(rest)
        texts = []
        try:
            for line in lines:
                number += 1
                encoding = "utf-8-sig" if number == 1 else "utf-8"
                texts.append(line.removesuffix(b"\r").decode(encoding))
            if len(rest) > LONGEST_LINE:
                number += 1
                raise ValueError(f"it has more than {LONGEST_LINE:,} bytes")
        except ValueError as error:
            yield texts
            mend = ""
            if isinstance(error, UnicodeDecodeError):
                mend = ". To convert them, for example: iconv -f LATIN1 -t UTF-8"
            raise ValueError(
                f"line {number} of standard input cannot be read: {error}. Texts are "
                f"expected in UTF-8, one a line{mend}"
            ) from error
        yield texts
