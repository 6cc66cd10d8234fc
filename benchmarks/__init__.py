"""How fast the library is, beside the tutorial's own way and beside PyTorch.

``python -m benchmarks`` answers five questions, each in a module of its name: `pipeline`, `step`, `epoch`, `inference`, `memory`.
What they time stands in `ours`, `tutorial`, `pytorch` and `matrices`; `harness` runs these side by side, `report` shows what came out.
"""
