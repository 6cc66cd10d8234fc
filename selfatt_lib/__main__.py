"""The command ``selfatt`` as ``python -m selfatt_lib``."""

from selfatt_lib.cli import main

main(prog_name="selfatt")
