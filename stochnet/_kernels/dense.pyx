"""Products of all rows: the gater's dense layers, and experts of which none is left out
(csrc/product.c, csrc/sparse.c, csrc/sums.c).
"""
import numpy as np

from libc.stdint cimport int64_t
from stochnet._kernels.arrays cimport Nonzeros, Rows, const_floats, floats, integers
from stochnet._kernels.engine cimport UPDATE_UNITS, engine

from stochnet._kernels.arrays import padded_rows


def forward(x, weight):
    """weight @ x.T, unit-major; a row's bits do not depend on the other rows.

    Parameters
    ----------
    x : array-like of shape (n_rows, n_inputs)
    weight : array-like of shape (n_units, n_inputs)

    Returns
    -------
    ndarray of shape (n_units, n_rows), float32
    """
    if np.shape(x)[1] != np.shape(weight)[1]:
        raise ValueError(f"x is {np.shape(x)} and weight {np.shape(weight)}.")
    x, weight = padded_rows(x), padded_rows(weight)
    out = np.empty((len(weight), len(x)), dtype=np.float32)
    rows = np.arange(len(x), dtype=np.int32)
    cdef Rows inputs = Rows(x)
    engine.dot_products(
        floats(out, out.size), len(x), 1, const_floats(weight, weight.size),
        weight.shape[1], NULL, len(weight), &inputs.c, integers(rows, len(x)), len(x),
        x.shape[1]
    )
    return out


def sparse_forward(x, weight, bias, unit_major=True):
    """weight @ x.T + bias[:, np.newaxis] from the nonzeros of x.

    Parameters
    ----------
    x : array-like of shape (n_rows, n_inputs)
        At most half of each row's inputs, padded to a multiple of 16, are nonzero.
    weight : array-like of shape (n_units, n_inputs)
    bias : array-like of shape (n_units,)
    unit_major : bool
        How the result lies in memory.

    Returns
    -------
    ndarray of shape (n_units, n_rows), float32
    """
    x, weight = padded_rows(x), padded_rows(weight)
    bias = np.array(bias, dtype=np.float32)
    cdef int64_t n_units = len(weight), n_rows = len(x), n = x.shape[1]
    if weight.shape[1] != n or bias.shape != (n_units,):
        raise ValueError(f"x is {x.shape}, weight {weight.shape}, bias {bias.shape}.")
    lines = (n_units, n_rows) if unit_major else (n_rows, n_units)
    cdef int64_t ld_unit = n_rows if unit_major else 1
    cdef int64_t ld_row = 1 if unit_major else n_units
    out = np.empty(lines, dtype=np.float32)
    panel = np.empty(UPDATE_UNITS * n, dtype=np.float32)
    cdef Nonzeros inputs = Nonzeros(n_rows, n)
    inputs.find(x)
    engine.sparse_products(
        floats(out, out.size), ld_unit, ld_row, const_floats(weight, weight.size), n,
        const_floats(bias, n_units), n_units, &inputs.c, 0, n_rows, n,
        floats(panel, panel.size)
    )
    return out if unit_major else out.T


def weighted_sum(coefficients, rows):
    """coefficients @ rows.

    Parameters
    ----------
    coefficients : array-like of shape (n_units, n_rows)
    rows : array-like of shape (n_rows, n)

    Returns
    -------
    ndarray of shape (n_units, n), float32
    """
    c = np.array(coefficients, dtype=np.float32)
    if c.shape[1] != len(rows):
        raise ValueError(f"coefficients are {c.shape}, but there are {len(rows)} rows.")
    n = np.shape(rows)[1]
    v = padded_rows(rows)
    out = padded_rows(np.zeros((len(c), n)))
    cdef Rows summands = Rows(v)
    indices = np.arange(max(c.shape), dtype=np.int32)
    engine.weighted_sums(
        floats(out, out.size), out.shape[1], integers(indices, len(c)), len(c),
        const_floats(c, c.size), c.shape[1], 1, &summands.c,
        integers(indices, len(v)), len(v), out.shape[1], 1.0
    )
    return out[:, :n]


def tanh(x):
    """Hyperbolic tangent of a vector, float32."""
    out = padded_rows(x)
    engine.tanh(floats(out, out.size), out.size)
    return out[:len(x)]
