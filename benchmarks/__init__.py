"""How fast the library is, beside the tutorial's own way and beside PyTorch.

``python -m benchmarks`` answers the questions of `questions`. What they time stands in
`ours` (all that is asked of the library), `tutorial` and `pytorch`; `settings` and
`reviews` hold what these share. `harness` runs them in processes of their own, in turn;
`report` keeps and shows what came out.
"""
