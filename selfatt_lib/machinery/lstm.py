"""The bidirectional LSTM on a CPU: equations (1) to (4) of the paper, their gradient.

MXNet's own was written for cuDNN. On a CPU it computes one direction after the other,
and on padding too. Here a batch is packed: its reviews are sorted, longest first, so
that the words at one place of all reviews lie side by side and nothing is padding. One
loop over the places serves both directions, which run at the same time. Numba compiles
it.

B are the reviews, T the places of the padded batch, N the words in it, I the numbers
that a word comes with, u the units. Gates lie below each other in MXNet's order, as in
`reference`: i, f, g, o.
"""

import ctypes
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from numba import njit
from numba.core.compiler_lock import global_compiler_lock

from selfatt_lib.machinery.runtime import THREADS, mx, mxnet_lock
from selfatt_lib.machinery.threads import at_fork, one_thread_for_blas

# with fewer reviews, or smaller products, another thread costs more than it brings
REVIEWS_WORTH_A_THREAD = 16
PRODUCT_WORTH_A_THREAD = 2_000_000  # multiplications of words and weights

# The compiler may reorder sums, but not assume that all numbers are finite.
_compiled = njit(
    nogil=True,
    cache=True,
    fastmath={"reassoc", "contract", "arcp", "nsz"},
    error_model="numpy",
)
_threads = ThreadPoolExecutor(THREADS)
_one_layer_at_a_time = threading.Lock()


def _before_fork():
    """Wait until no thread computes, which may compile, then let none compile."""
    mxnet_lock.acquire()
    try:
        mx.nd.waitall()
    finally:
        global_compiler_lock.acquire()


def _after_fork():
    for lock in (global_compiler_lock, mxnet_lock):
        with suppress(RuntimeError):  # registered while a fork was under way
            lock.release()


def _after_fork_in_child():
    global _threads
    _threads = ThreadPoolExecutor(THREADS)  # the parent's threads are not here
    _after_fork()


at_fork(
    before=_before_fork,
    after_in_parent=_after_fork,
    after_in_child=_after_fork_in_child,
)

one_thread_for_blas()  # a direction is a thread, and must not start others


def bilstm(F, inputs, valid_length, weights):
    """Run one layer over a padded batch: (B, T, I) to (B, T, 2u), with 0 at padding.

    `F` is ``mxnet.nd`` or ``mxnet.sym``; lengths are from 1 to T; `weights` are the i2h
    weight (4u, I), h2h weight (4u, u), i2h bias (4u,) and h2h bias (4u,), forward and
    then backward. What is wrong shows when the result is read.
    """
    return F.Custom(inputs, valid_length, *weights, op_type="selfatt_bilstm")


class _Direction(NamedTuple):
    """One direction over some of a batch's reviews."""

    # (N,), the rows that are words in arrays of B * T rows: place by place, the longest
    # review first
    words: np.ndarray
    starts: np.ndarray  # (T + 1,): words at place t are words[starts[t]:starts[t + 1]]
    places: np.ndarray  # (T,), in the order in which they are read
    weights: tuple  # the direction's four
    column: int  # of the 2u columns, the first that is this direction's


def _lambert(terms):
    """Return p and q of tanh(x) = x p(x²) / q(x²), highest power first.

    Lambert's fraction: tanh(x) = x / (1 + x² / (3 + x² / (5 + …))).
    """
    square = np.polynomial.Polynomial([0, 1])
    p, q = np.polynomial.Polynomial([1]), np.polynomial.Polynomial([2 * terms - 1])
    for odd in range(2 * terms - 3, 0, -2):
        p, q = q, odd * q + square * p
    return [
        tuple(map(np.float32, polynomial.coef[::-1] / q.coef[0]))
        for polynomial in (p, q)
    ]


_P, _Q = _lambert(13)  # as exact as float32 is, up to 9, where tanh is 1
_BOUND = np.float32(9)


@_compiled
def _tanh(x):
    """tanh(x): a processor computes eight such at a time, but not the C library's."""
    x = min(x, _BOUND)
    x = max(x, -_BOUND)
    square = x * x
    p = q = np.float32(0)
    for coefficient in _P:
        p = p * square + coefficient
    for coefficient in _Q:
        q = q * square + coefficient
    return x * p / q


@_compiled
def _sigmoid(x):
    half = np.float32(0.5)
    return half + half * _tanh(half * x)


class _States(NamedTuple):
    """What one direction's gradient needs of its reading; `_gradient` overwrites it."""

    inputs: np.ndarray  # (N, I)
    gates: np.ndarray  # (N, 4u)
    cell: np.ndarray  # (N, u)
    tanh_cell: np.ndarray  # (N, u)
    hidden: np.ndarray  # (N, u)

    @classmethod
    def empty(cls, words, size, units):
        """Have NumPy ask for memory: in large pages, as Numba would not."""
        columns = size, 4 * units, units, units, units
        return cls(*(np.empty((words, each), np.float32) for each in columns))


@_compiled
def _read(direction, inputs, states, outputs):
    """Read `inputs` (B * T, I) into `states`, and into `outputs` (B * T, 2u)."""
    words, starts, places, weights, column = direction
    i2h_weight, h2h_weight, i2h_bias, h2h_bias = weights
    packed, gates, cell, tanh_cell, hidden = states
    u = h2h_weight.shape[1]
    for n in range(len(words)):
        packed[n] = inputs[words[n]]
    np.dot(packed, i2h_weight.T, gates)
    bias = i2h_bias + h2h_bias
    h2h = np.ascontiguousarray(h2h_weight.T)
    recurrent = np.empty((starts[1], 4 * u), np.float32)
    before, reading = 0, 0
    for place in places:
        start, stop = starts[place], starts[place + 1]
        # reviews that have read a word before; the others start from a state of zeros
        under_way = min(stop - start, reading)
        reading = stop - start
        np.dot(hidden[before : before + under_way], h2h, recurrent[:under_way])
        recurrent[under_way:reading] = 0
        for b in range(reading):
            n = start + b
            gate, more = gates[n], recurrent[b]
            i, f, g, o = gate[:u], gate[u : 2 * u], gate[2 * u : 3 * u], gate[3 * u :]
            c, t, h = cell[n], tanh_cell[n], hidden[n]
            for j in range(4 * u):
                gate[j] += more[j] + bias[j]
            for j in range(u):
                i[j], f[j], o[j] = _sigmoid(i[j]), _sigmoid(f[j]), _sigmoid(o[j])
                g[j] = _tanh(g[j])
                c[j] = i[j] * g[j]  # c_t = f_t c_{t-1} + i_t g_t
            if b < under_way:
                earlier = cell[before + b]
                for j in range(u):
                    c[j] += f[j] * earlier[j]
            for j in range(u):
                t[j] = _tanh(c[j])
                h[j] = o[j] * t[j]  # h_t = o_t tanh(c_t)
            outputs[words[n], column : column + u] = h
        before = start


@_compiled
def _gradient(direction, states, d_outputs, with_inputs):
    """Go back through a direction; return the gradients of its weights, and of a bias.

    `states` is overwritten: the gates with the gradients of the sums that they come
    from, the cell with the state that a word was read with, and the inputs, if wanted,
    with their gradients.
    """
    words, starts, places, weights, column = direction
    i2h_weight, h2h_weight, _, _ = weights
    inputs, gates, cell, tanh_cell, hidden = states
    u = h2h_weight.shape[1]
    d_hidden = np.zeros((starts[1], u), np.float32)  # by way of words read later
    d_cell = np.zeros((starts[1], u), np.float32)
    after = 0
    for step in range(len(places) - 1, -1, -1):
        start = starts[places[step]]
        reading = starts[places[step] + 1] - start
        d_hidden[after:reading] = 0
        d_cell[after:reading] = 0
        before, under_way = 0, 0
        if step:
            before = starts[places[step - 1]]
            under_way = min(reading, starts[places[step - 1] + 1] - before)
        for b in range(reading):
            n = start + b
            gate, c, t = gates[n], cell[n], tanh_cell[n]
            i, f, g, o = gate[:u], gate[u : 2 * u], gate[2 * u : 3 * u], gate[3 * u :]
            d_h, d_c = d_hidden[b], d_cell[b]
            d_output = d_outputs[words[n], column : column + u]
            for j in range(u):
                d_h[j] += d_output[j]
                d_c[j] += d_h[j] * o[j] * (1 - t[j] * t[j])
                o[j] = d_h[j] * t[j] * o[j] * (1 - o[j])
                d_g = d_c[j] * i[j] * (1 - g[j] * g[j])
                i[j] = d_c[j] * g[j] * i[j] * (1 - i[j])
                g[j] = d_g
            if b < under_way:
                earlier = cell[before + b]
                for j in range(u):
                    d_f = d_c[j] * earlier[j] * f[j] * (1 - f[j])
                    d_c[j] *= f[j]
                    f[j] = d_f
                c[:] = hidden[before + b]
            else:
                f[:] = 0
                c[:] = 0
        np.dot(gates[start : start + under_way], h2h_weight, d_hidden[:under_way])
        after = under_way
    d_bias = np.zeros(4 * u, np.float32)
    for n in range(len(words)):
        d_bias += gates[n]
    d_i2h, d_h2h = np.dot(gates.T, inputs), np.dot(gates.T, cell)
    if with_inputs:
        np.dot(gates, i2h_weight, inputs)
    return d_i2h, d_h2h, d_bias


@_compiled
def _add_unpacked(padded, words, forward, backward):
    """Add two arrays (N, I) to where their words stand in a padded one (B * T, I)."""
    for n in range(len(words)):
        row, one, other = padded[words[n]], forward[n], backward[n]
        for j in range(len(row)):
            row[j] += one[j] + other[j]


def _directions(lengths, places, weights):
    """Return both directions for each share of the reviews worth a thread: list."""
    if lengths.min() < 1 or lengths.max() > places:
        raise ValueError(
            f"valid_length must be from 1 to {places}, the length of the batch; "
            f"got {lengths.tolist()}"
        )
    batch_size = len(lengths)
    longest_first = np.argsort(-lengths, kind="stable")
    shares = max(1, min(THREADS // 2, batch_size // REVIEWS_WORTH_A_THREAD))
    units = weights[1].shape[1]
    directions = []
    for share in range(shares):
        reviews = longest_first[share::shares]
        place = np.arange(lengths[reviews[0]])
        reading = (lengths[reviews] > place[:, None]).sum(axis=1)
        starts = np.concatenate([[0], reading.cumsum()])
        rank = np.arange(starts[-1]) - np.repeat(starts[:-1], reading)
        words = reviews[rank] * places + np.repeat(place, reading)
        forward, backward = tuple(weights[:4]), tuple(weights[4:])
        directions += [
            _Direction(words, starts, place, forward, 0),
            _Direction(words, starts, place[::-1].copy(), backward, units),
        ]
    return directions


def _in_threads(function, directions, *others):
    """Return a function's results, each from a thread of its own if that pays."""
    words, i2h_weight = directions[0].words, directions[0].weights[0]
    few = len(words) * i2h_weight.size < PRODUCT_WORTH_A_THREAD
    with _one_layer_at_a_time:
        try:
            return list((map if few else _threads.map)(function, directions, *others))
        except RuntimeError:  # Python is ending, and its threads have ended
            return list(map(function, directions, *others))


def _on_same_memory(array, shape, dtype=np.float32):
    """Return an MXNet array on a CPU as one of NumPy's, with nothing copied."""
    pointer = ctypes.c_void_p()
    mx.base.check_call(
        mx.base._LIB.MXNDArrayGetData(array.handle, ctypes.byref(pointer))
    )
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = (ctypes.c_byte * size).from_address(pointer.value)
    return np.frombuffer(memory, dtype).reshape(shape)


def _put(array, value, request):
    """Do with a result what MXNet asks for: write it, add it, or nothing."""
    if request != "null":
        memory = _on_same_memory(array, value.shape)
        memory[...] = memory + value if request == "add" else value


class _BiLSTM(mx.operator.CustomOp):
    """The layer as an operator: MXNet makes one a batch, kept until its gradient."""

    def __init__(self, shapes):
        super().__init__()
        self.shapes = shapes
        batch_size, self.places, self.size = shapes[0]
        self.rows = batch_size * self.places
        self.width = 2 * shapes[3][1]

    def forward(self, is_train, req, in_data, out_data, aux):
        dtypes = [np.float32, in_data[1].dtype] + 8 * [np.float32]
        inputs, lengths, *weights = map(_on_same_memory, in_data, self.shapes, dtypes)
        inputs = inputs.reshape(self.rows, self.size)
        outputs = _on_same_memory(out_data[0], (self.rows, self.width))
        directions = _directions(lengths.astype(int), self.places, weights)
        outputs[...] = 0  # at padding
        states = [
            _States.empty(len(direction.words), self.size, self.width // 2)
            for direction in directions
        ]
        _in_threads(
            lambda direction, empty: _read(direction, inputs, empty, outputs),
            directions,
            states,
        )
        self.kept = (directions, states) if is_train else None

    def backward(self, req, out_grad, in_data, out_data, in_grad, aux):
        directions, states = self.kept
        d_outputs = _on_same_memory(out_grad[0], (self.rows, self.width))
        with_inputs = req[0] != "null"
        gradients = _in_threads(
            lambda direction, state: _gradient(
                direction, state, d_outputs, with_inputs
            ),
            directions,
            states,
        )
        if with_inputs:
            d_inputs = _on_same_memory(in_grad[0], (self.rows, self.size))
            if req[0] != "add":
                d_inputs[...] = 0
            for number in range(0, len(directions), 2):
                forward, backward = states[number : number + 2]
                words = directions[number].words
                _add_unpacked(d_inputs, words, forward.inputs, backward.inputs)
        for number, first in ((0, 2), (1, 6)):
            d_i2h, d_h2h, d_bias = map(sum, zip(*gradients[number::2]))
            for place, value in enumerate((d_i2h, d_h2h, d_bias, d_bias), first):
                _put(in_grad[place], value, req[place])
        self.kept = None


@mx.operator.register("selfatt_bilstm")
class _BiLSTMProp(mx.operator.CustomOpProp):
    """What MXNet asks about the operator before it makes one."""

    def list_arguments(self):
        weights = ("i2h_weight", "h2h_weight", "i2h_bias", "h2h_bias")
        return ["inputs", "valid_length"] + [
            f"{direction}_{weight}"
            for direction in ("forward", "backward")
            for weight in weights
        ]

    def infer_shape(self, in_shape):
        (batch_size, places, _), (_, units) = in_shape[0], in_shape[3]
        return in_shape, [(batch_size, places, 2 * units)], []

    def infer_type(self, in_type):
        if any(np.dtype(given) != np.float32 for given in in_type[:1] + in_type[2:]):
            raise TypeError("this LSTM computes in float32 only")
        return in_type, [np.float32], []

    def declare_backward_dependency(self, out_grad, in_data, out_data):
        return [out_grad[0], *in_data]

    def create_operator(self, ctx, shapes, dtypes):
        if not str(ctx).startswith("cpu"):
            raise ValueError(
                f"this LSTM computes on a CPU, not on {ctx}. Call hybridize() again "
                "after moving a model."
            )
        return _BiLSTM(shapes)
