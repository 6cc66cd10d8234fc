"""What the tutorial and the paper claim, tested: the runs of the chapter *evidence*.

================  ====================================================================
`experiments`     which runs test which claim, and the command that makes all of them
`measures`        what is asked of the trained models, beyond their scores
`results`         the tables as files, written and read
`statistics`      how far a difference is from chance
================  ====================================================================
"""

from pathlib import Path

# The chapter's, in the repository, and where the library is installed without it
RESULTS = Path(__file__).parents[2] / "book" / "results"
if not RESULTS.parent.is_dir():
    RESULTS = Path(__file__).with_name("tables")
