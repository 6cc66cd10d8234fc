"""Structured self-attention (Lin et al., 2017), reproducible: the library behind the book.

One module a chapter, in the order of the paper: `data`, `model`, `penalty`, `training`, `visualization`; beneath them, `tokens` splits
texts, `lstm` reads them on a CPU, `compat` makes MXNet importable (`hook` where it is imported without us), with `cuda` where there is a
GPU, and `runtime` imports it; `prediction` uses what was trained; `book` shows the chapters this source; `progress` has the bars;
`install` fills up a hosted notebook; `doctor` says what is wrong with a machine.
"""
