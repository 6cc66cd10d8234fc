"""Engines: what computes the steps of training, and predicts in large.

An engine is a module with two things in it.

``Engine(config, vectors, class_weights=None, devices=None)`` is a model in training.
A batch is ``(tokens (B, T), valid_length (B,), stars (B,))`` in arrays of NumPy;
weights and states are dicts of NumPy arrays, the weights named as in `reference`.

- ``step(batch)`` moves the weights once, ``evaluate(batch)`` does not. Both return a
  handle at once; its ``read()`` waits, and gives loss (B,) and logits (B, C).
- ``replay(batch)`` draws the random numbers that a step on the batch draws.
- ``seed(seed)``, ``set_learning_rate(rate)``
- ``weights()``, ``load_weights(weights)``; ``state()``, ``load_state(state)``: the
  weights with all that the optimizer remembers.
- ``devices``: list of what it computes on.

Where the memory does not suffice, it raises MemoryError.

``predictor(settings, weights, device)`` returns a function from ``(tokens,
valid_length)`` to logits (B, C) and attention (B, r, T).
"""

from selfatt_lib.machinery.threads import importing


def build(config, vectors, class_weights=None, devices=None):
    """Return the engine for a run, with weights drawn from its seed."""
    with importing():
        from selfatt_lib.engines.mxnet import Engine

    return Engine(config, vectors, class_weights, devices)


def devices(name="auto"):
    """Return what a run computes on: as `machinery.runtime.choose_devices` says."""
    with importing():
        from selfatt_lib.machinery.runtime import choose_devices

    return choose_devices(name)
