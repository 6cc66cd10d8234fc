"""The labels of a data set: whole numbers, numbers or texts, each a class."""

import re

import numpy as np

MOST = 1000  # classes


def label_text(label):
    """Return a label as a file would have it: "5" for 5, 5.0, "5" and "05".

    Examples
    --------
    >>> label_text(5.0), label_text("4.50"), label_text(" good "), label_text(True)
    ('5', '4.5', 'good', 'true')
    """
    text = str(label).strip()
    if isinstance(label, bool):
        return text.lower()
    if whole := re.fullmatch(r"(-?)0*([0-9]+)", text):
        return whole[1] + whole[2]
    if re.fullmatch(r"(?i)[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", text):
        number = float(text)
        return str(int(number) if number.is_integer() else number)
    return text


def label_key(label):
    """Return what is equal for the spellings of one label, whatever their case.

    Examples
    --------
    >>> label_key("GOOD") == label_key(" good "), label_key("05") == label_key(5.0)
    (True, True)
    """
    return label_text(label).casefold()


def are_stars(labels):
    """Tell whether labels are star ratings: whole numbers from 1 to 5, both there.

    Examples
    --------
    >>> are_stars([1, 2, 3, 4, 5]), are_stars([1, 2]), are_stars(["1", "5"])
    (True, False, False)
    """
    return {1, 5} <= {*labels} <= {1, 2, 3, 4, 5}


def shown(label, labels):
    """Return a label as people read it: stars where all labels are, else its name.

    Examples
    --------
    >>> shown(4, [1, 2, 3, 4, 5]), shown("positive", ["negative", "positive"])
    ('★★★★☆', 'positive')
    """
    return "★" * label + "☆" * (5 - label) if are_stars(labels) else str(label)


def class_numbers(given, labels):
    """Return the number of each label's class, from 0: ndarray of int32.

    Parameters
    ----------
    given : sequence of labels
    labels : list
        All classes, in their order. Case does not count, nor whether 5 is a text.

    Raises
    ------
    ValueError
        A label is none of them.

    Examples
    --------
    >>> class_numbers(["good", "bad", "good"], ["bad", "good"])
    array([1, 0, 1], dtype=int32)
    """
    number_of = {label_key(each): n for n, each in enumerate(labels)}
    texts = [label_key(label) for label in given]
    if unknown := sorted({*texts} - {*number_of}):
        raise ValueError(
            f"labels that are none of the classes {listed(labels)}: {listed(unknown)}"
        )
    return np.fromiter(map(number_of.get, texts), np.int32)


def listed(labels):
    """Return a dozen labels at most, as an error says them: str."""
    first = [repr(label)[:40] for label in [*labels][:12]]
    more = len(labels) - len(first)
    return ", ".join(first) + f" and {more:,} more" * bool(more)
