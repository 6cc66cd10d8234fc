"""Structured self-attention (Lin et al., 2017), reproducible: the library behind the book.

One module a chapter, in the order of the paper: `data`, `model`, `penalty`, `training`, `visualization`; `runtime` beneath them
makes MXNet importable, `prediction` uses what was trained, and `book`
shows the chapters this source.
"""
