"""The tables of the experiments, as files that the chapter reads."""

import json

import pandas as pd

from selfatt_lib.evidence import RESULTS
from selfatt_lib.machinery.files import read_json, write_text
from selfatt_lib.machinery.places import locate

FORMAT = 1


def write_results(folder, tables, about):
    """Write each table as CSV, and last, as ``about.json``, how they were made."""
    folder = locate(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        path = folder / f"{name}.csv"
        write_text(path, table.to_csv(index=False, float_format="%.6g"))
    content = {"format": FORMAT, "tables": [*tables]} | about
    write_text(folder / "about.json", json.dumps(content, indent=2))


def read_results(folder=None):
    """Read what ``selfatt evidence`` wrote.

    Parameters
    ----------
    folder : str or Path, optional
        By default ``book/results``, those of the book.

    Returns
    -------
    about : dict
        When, from what and with which versions the tables were made.
    tables : dict of DataFrame
        One for each experiment, by its name.

    Raises
    ------
    FileNotFoundError
        There are no results, or one table is missing.
    ValueError
        They are of another edition of the book.
    """
    folder = RESULTS if folder is None else folder
    path = locate(folder) / "about.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{str(folder)!r} has no results: it has no about.json. 'selfatt evidence' "
            "makes them."
        )
    about = read_json(path)
    if about.get("format") != FORMAT:
        raise ValueError(
            f"{path} is of another edition of the book: of format "
            f"{about.get('format')!r}, not {FORMAT}. Make it anew with 'selfatt "
            "evidence'; what is trained already is not trained again."
        )
    return about, {
        name: pd.read_csv(path.with_name(f"{name}.csv")) for name in about["tables"]
    }
