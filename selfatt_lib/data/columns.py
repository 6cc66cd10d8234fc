"""Which columns of a file are text and label."""

import reprlib
from itertools import islice

# As data sets spell them, without case, underscores, blanks and hyphens
SPELLINGS = {
    "text": "text texts review reviews reviewtext reviewbody reviewcontent sentence "
    "content comment commenttext body tweet document message",
    "label": "label labels stars starrating reviewrating rating ratings score overall "
    "sentiment class category target polarity",
}
PLAIN = {"text", "texts", "label", "labels", "stars"}  # need not be said


def choose_columns(names, text_column=None, label_column=None, where="the file"):
    """Find the columns with the text and the label of each review.

    Parameters
    ----------
    names : list of str
        Of all columns.
    text_column, label_column : str, optional
        Which they are; by default, the one with a usual name, such as ``review_text``
        or ``Score``.
    where : str
        Begins the message of an error.

    Returns
    -------
    columns : list of int
        The numbers of the text's column and of the label's.
    guessed : bool
        Whether one was found by a name other than ``text``, ``label`` or ``stars``.

    Raises
    ------
    ValueError
        A column is not there, or more than one could be meant.

    Examples
    --------
    >>> choose_columns(["Id", "Score", "Summary", "Text"])
    ([3, 1], True)
    """
    given = {"text": text_column, "label": label_column}
    columns = [choose_column(names, what, name, where) for what, name in given.items()]
    if columns[0] == columns[1]:
        raise ValueError(f"{where}: text and label are both {names[columns[0]]!r}")
    guesses = [names[i] for i, name in zip(columns, given.values()) if name is None]
    return columns, not PLAIN.issuperset(guesses)


def choose_column(names, what, given=None, where="the file", option=None):
    """Find one of them, "text" or "label": its number.

    ValueError: as `choose_columns`; `option` is what the message calls the parameter.
    """
    if given is not None:
        found = [i for i, name in enumerate(names) if name == given]
        sought = repr(given)
    else:
        spelled = ["".join(c for c in name.lower() if c not in "_ -") for name in names]
        usual = SPELLINGS[what].split()
        found = [i for i, name in enumerate(spelled) if name in usual]
        sought = f"{what!r}, nor another usual name for it"
        # a column of this very name is meant, whatever else is there
        exact = [i for i in found if names[i].lower() in (what, f"{what}s")]
        found = exact if len(exact) == 1 else found
    if len(found) == 1:
        return found[0]
    shown = ", ".join(map(reprlib.repr, islice(names, 20))) or "nothing"
    several = list(dict.fromkeys(names[i] for i in found))
    if len(several) == 1:
        raise ValueError(f"{where} has {several[0]!r} more than once; it has: {shown}")
    said = ", ".join(map(reprlib.repr, several[:5]))
    said = f"could mean {said} by {what}" if found else f"has no {sought}"
    raise ValueError(
        f"{where} {said}; it has: {shown}. "
        f"Say which column is the {what}, by {option or f'{what}_column='}."
    )
