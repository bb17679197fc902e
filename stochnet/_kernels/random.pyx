"""Counter-based random numbers (csrc/philox.h, csrc/noise.c)."""
import numpy as np

from libc.stdint cimport int32_t, int64_t, uint32_t
from stochnet._kernels.arrays cimport const_floats, floats
from stochnet._kernels.engine cimport (
    SN_DROPOUT, SN_GAUSSIAN, SN_LOGISTIC, SN_NO_NOISE, SN_PROBE, SN_SAMPLING,
    SN_TRAINING, SN_UNIFORM, SN_WEIGHTS,
    engine, sn_draw, sn_noise,
)

from stochnet._kernels.arrays import row_length

MODES = {"training": SN_TRAINING, "sampling": SN_SAMPLING}
PURPOSES = {
    "gates": SN_UNIFORM, "dropout": SN_DROPOUT, "probe": SN_PROBE,
    "weights": SN_WEIGHTS,
}
ADDITIVE = {None: SN_NO_NOISE, "gaussian": SN_GAUSSIAN, "logistic": SN_LOGISTIC}

#: Weights that threads share: fewer take less time than to wake a thread.
MIN_SHARED_WEIGHTS = 1 << 16


cdef sn_noise noise_of(object noise) except *:
    """C's view of a `stochnet.gaters.Noise`, which must outlive it."""
    cdef sn_noise out
    quantiles = noise.quantiles
    n = 0 if quantiles is None else quantiles.shape[0]
    out.additive = ADDITIVE[noise.additive]
    out.scale = noise.scale
    out.quantiles = const_floats(quantiles, n)
    out.n_quantiles = n
    out.mean = noise.mean
    out.draw_only = noise.draw_only
    return out


cdef sn_draw draw_of(
    object key, object step, object layer, object mode, object row
) except *:
    cdef sn_draw draw
    if row % 4:
        raise ValueError(f"row must be a multiple of 4, got {row}.")
    draw.key[0], draw.key[1] = key
    draw.step, draw.layer, draw.mode, draw.row = step, layer, MODES[mode], row
    return draw


def philox4x32(counter, key):
    """Philox4x32-10.

    Parameters
    ----------
    counter : sequence of 4 int, each in [0, 2^32)
    key : sequence of 2 int, each in [0, 2^32)

    Returns
    -------
    ndarray of shape (4,), uint32
    """
    cdef uint32_t[::1] c = np.array(counter, dtype=np.uint32)
    cdef uint32_t[::1] k = np.array(key, dtype=np.uint32)
    cdef uint32_t[::1] out = np.empty(4, dtype=np.uint32)
    if c.shape[0] != 4 or k.shape[0] != 2:
        raise ValueError("counter takes 4 words and key 2.")
    engine.philox(&out[0], &c[0], &k[0])
    return np.asarray(out)


def uniform(n_units, n_rows, key, *, step=0, layer=0, mode="training", row=0,
            purpose="gates"):
    """The uniforms in (0, 1) that decide whether gates fire, inputs are kept, or gates
    that did not fire are probed, and those of initial weights.

    Parameters
    ----------
    n_units, n_rows : int
    key : pair of int in [0, 2^32)
    step, layer : int
        Mini-batch (draw, in sampling) and layer.
    mode : {"training", "sampling"}
    row : int
        First row, a multiple of 4.
    purpose : {"gates", "dropout", "probe", "weights"}
        For dropout, units are the rows of the mini-batch and rows its inputs; for
        weights, rows are a unit's weights and the step is the number of the matrix.

    Returns
    -------
    ndarray of shape (n_units, n_rows), float32
    """
    cdef sn_draw draw = draw_of(key, step, layer, mode, row)
    length = row_length(n_rows)
    out = np.empty((n_units, length), dtype=np.float32)
    cdef float *start = floats(out, out.size)
    cdef Py_ssize_t n = length, unit
    cdef uint32_t what = PURPOSES[purpose]
    for unit in range(n_units):
        engine.uniform(start + unit * n, &draw, what, <uint32_t>unit, n)
    return out[:, :n_rows]


def additive(n_units, n_rows, noise, key, *, step=0, layer=0, mode="training", row=0):
    """The noise that is added to pre-activations.

    Parameters are those of `uniform`, and `noise`, a `stochnet.gaters.Noise`.

    Returns
    -------
    ndarray of shape (n_units, n_rows), float32
    """
    cdef sn_draw draw = draw_of(key, step, layer, mode, row)
    cdef sn_noise c_noise = noise_of(noise)
    length = row_length(n_rows)
    out = np.empty((n_units, length), dtype=np.float32)
    cdef float *start = floats(out, out.size)
    cdef Py_ssize_t n = length, unit
    for unit in range(n_units):
        engine.additive(start + unit * n, &c_noise, &draw, <uint32_t>unit, 1, n)
    return out[:, :n_rows]


def fill_uniform(weight, n, limit, key, *, number, n_threads=1):
    """Draw a matrix of weights, uniform on +-limit.

    Parameters
    ----------
    weight : ndarray of shape (n_units, row_length(n)), float32
        Written in place, zeros after the first n columns.
    n : int
    limit : float
    key : pair of int in [0, 2^32)
    number : int
        Of the matrix: each has its own draws.
    n_threads : int
    """
    cdef sn_draw draw = draw_of(key, number, 0, "training", 0)
    cdef int64_t n_units = weight.shape[0], ld = weight.shape[1], n_weights = n
    cdef float c_limit = limit
    cdef int32_t threads = n_threads if weight.size > MIN_SHARED_WEIGHTS else 1
    if ld != row_length(n):
        raise ValueError(f"Rows must have {row_length(n)} floats, got {ld}.")
    cdef float *start = floats(weight, weight.size)
    with nogil:
        engine.uniform_weights(start, ld, &draw, c_limit, n_units, n_weights, threads)
