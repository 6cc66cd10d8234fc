"""What the tutorial and the paper claim, tested.

================  ====================================================================
`experiments`     which runs test which claim, and the command that makes all of them
`measures`        what is asked of the trained models, beyond their scores
`results`         the tables as files, written and read
`statistics`      how far a difference is from chance
================  ====================================================================
"""

from pathlib import Path

RESULTS = Path(__file__).parents[2] / "book" / "results"  # the tables of the book
