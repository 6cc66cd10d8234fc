"""Checked settings, and what people and programs write for a value."""

import ast
import os
from contextlib import suppress
from typing import get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

LARGEST = 2**31 - 1
WORDS = {"true": True, "false": False, "null": None, "none": None}


def meant(value, kind, of_texts=False):
    """Return the plain value that YAML's, a shell's, NumPy's or pathlib's stands for.

    What cannot be understood is returned as it is; `kind` is the parameter's type, and
    `of_texts` tells that a list of it may have texts, of which "none" is one.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, str) and kind is not str:
        text = value.strip()
        with suppress(ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            # 1e-3 is a text to YAML, null to papermill
            value = WORDS.get(text.lower(), text)
            value = ast.literal_eval(text) if value is text else value
    if isinstance(value, list | tuple):
        value = [meant(each, str if of_texts else kind) for each in value]
    if isinstance(value, dict):
        value = {str(key): each for key, each in value.items()}
    if isinstance(value, float) and value.is_integer() and kind is not float:
        kinds = [getattr(each, "__origin__", each) for each in get_args(kind)]
        if value != 1 or float not in kinds:  # of a share, 1.0 is not one review
            value = int(value)
    return value


class Settings(BaseModel):
    """Values of the right kind only, which cannot be changed."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False
    )

    def __init__(self, /, **given):
        try:
            super().__init__(**given)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ValueError(self._complaint(first, given)) from None

    @classmethod
    def _complaint(cls, error, given):
        if "error" in error.get("ctx", {}):  # one of our own
            return str(error["ctx"]["error"])
        name = error["loc"][0]
        if error["type"] == "extra_forbidden":
            return f"there is no setting {name[:80]!r}"
        if error["type"] == "missing":
            return f"{name} is missing"
        field = cls.model_fields[name]
        expected = field.description
        if choices := getattr(field.annotation, "__args__", ()):
            expected = expected or f"one of {', '.join(map(repr, choices))}"
        if error.get("ctx", {}).get("le") == LARGEST:
            expected += f", and of at most {LARGEST}"
        value = cls._meant(given[name], field.annotation)
        if expected is None:
            return f"{name}: {error['msg']}; got {value!r:.200}"
        return f"{name} must be {expected}; got {value!r:.200}"

    @staticmethod
    def _meant(value, kind):
        return value
