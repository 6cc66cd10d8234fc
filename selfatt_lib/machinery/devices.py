"""What the name of a device means, for both engines."""

import re


def gpu_numbers(device):
    """Return the GPUs that a device's name means: list of int, empty if none.

    ValueError: it is no device's name.
    """
    if device in ("auto", "cpu", "mps"):
        return []
    parts = device.split(",") if isinstance(device, str) else []
    gpus = [re.fullmatch(r"(?:gpu|cuda)(?::(\d+))?", part.strip()) for part in parts]
    numbers = [int(gpu[1] or 0) for gpu in gpus if gpu]
    if not numbers or len(set(numbers)) < len(parts):
        raise ValueError(
            "device must be 'auto', 'cpu', 'mps', 'gpu', 'gpu:N' with a whole number "
            f"N, or several different GPUs as in 'gpu:0,gpu:1'; got {device!r}"
        )
    return numbers


def usable(name, problem_of):
    """Return the devices that a name means: list of str.

    `problem_of` tells what an engine has against a device, or None. RuntimeError: it
    has something against one that was asked for.
    """
    devices = [f"gpu:{number}" for number in gpu_numbers(name)] or [name]
    for device in devices:
        if problem := problem_of(device):
            raise RuntimeError(
                f"device={name!r} was asked for, and {device} cannot be used: "
                f"{problem}. Or use device='cpu' or 'auto'."
            )
    return devices
