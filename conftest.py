"""For tests and chapters alike: what differs from run to run or by machine is off."""

import os

from tools.reproducibly import settle

settle(os.environ)

# GPUs: the stored outputs are the CPU's. tests/test_gpu.py brings them back.
if "CUDA_VISIBLE_DEVICES" in os.environ:
    os.environ["HIDDEN_CUDA_VISIBLE_DEVICES"] = os.environ["CUDA_VISIBLE_DEVICES"]
os.environ["CUDA_VISIBLE_DEVICES"] = ""
