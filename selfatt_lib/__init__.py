"""Structured self-attention (Lin et al., 2017), reproducible: the library of the book.

The way through it, in the order of the chapters:

================  ====================================================================
`reference`       the paper in NumPy: forward pass, penalty, loss
`labels`          stars, numbers or texts, and the numbers of their classes
`data`            reviews → tokens → numbers → batches: ``sources``, ``split``,
                  ``tokens``, ``vocabulary``, ``vectors``, ``batches``
`model`           the same forward pass in Gluon, which trains
`penalty`         the training objective: weighted cross-entropy and the penalty
`encoders`        other ways to make one vector of a review, to compare with
`pytorch`         model and penalty once more, in PyTorch
`config`          the parameters of a run, checked before any work
`run`             the run directory: JSON and arrays, no code
`training`        data made ready, and the loop over an engine
`engines`         what computes the steps: ``mxnet``, ``pytorch``
`sweep`           many runs with other parameters, each in a folder
`torchrun`        one run that several processes share
`results`         scores, baselines, what a run leaves of them
`prediction`      a trained run: texts in; labels, attention and embeddings out
`onnx`            a trained model as one ONNX file, for other programs
`web`             a trained model as a page that a sentence can be typed into
`visualization`   heat maps, shaded texts, curves
`evidence`        what the tutorial and the paper claim, tested: ``experiments``,
                  ``measures``, ``results``, ``statistics``
`commands`        what ``selfatt`` does: ``train``, ``sweep``, ``summary``, ``predict``,
                  ``evaluate``, ``explain``, ``embed``, ``export``, ``evidence``
`cli`             the command ``selfatt``
`book`            shows the chapters this source
`machinery`       what keeps it alive and fast, and need not be read
================  ====================================================================
"""
