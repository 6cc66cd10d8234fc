"""Damage that comes to files: bits, bytes or arrays changed, no longer a plain file."""

import os

from hypothesis import strategies as st
from safetensors.numpy import load_file

from selfatt_lib.machinery.files import read_layout, write_arrays


@st.composite
def damaged(draw, data):
    """Draw other bytes than the given ones, which they come from by a few changes."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(changed) - 1, 0)))
        match draw(st.sampled_from(["turn", "cut", "insert", "end"])):
            case "turn" if changed:
                changed[place] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del changed[place : place + draw(st.integers(1, 64))]
            case "insert":
                changed[place:place] = draw(st.binary(min_size=1, max_size=16))
            case "end":
                del changed[place:]
    return bytes(changed)


def cut(path):
    """Leave the first half of a file."""
    os.truncate(path, path.stat().st_size // 2)


def turn_a_bit(path):
    """Turn a bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def as_link(path):
    """Put a link to the file in its place."""
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def as_pipe(path):
    """Put a pipe in a file's place."""
    path.unlink()
    os.mkfifo(path)


def as_folder(path):
    """Put a folder in a file's place."""
    path.unlink()
    path.mkdir()


def alter(path, change):
    """Write the arrays that `change` makes of those in a file; its marks stay."""
    write_arrays(path, change(load_file(path)), **read_layout(path)[1])
