"""The rate that the processor reaches at what costs a step most: float32 matrix products, with NumPy's BLAS on all cores."""

import numpy as np


class MatrixProduct:
    def __init__(self, size=3000):
        rng = np.random.default_rng(0)
        self.a, self.b = rng.random((2, size, size), dtype=np.float32)

    def run(self):
        self.a @ self.b
