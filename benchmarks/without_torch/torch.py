"""Stands before PyTorch on the path of every side but PyTorch's: spaCy would load it."""

raise ImportError("left out of this process")
