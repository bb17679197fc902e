"""Dense layers of the gater at prediction (csrc/dense.c)."""
import numpy as np

from stochnet._kernels.arrays cimport const_floats, floats
from stochnet._kernels.engine cimport engine

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
    x, weight = padded_rows(x), padded_rows(weight)
    out = np.empty((len(weight), len(x)), dtype=np.float32)
    engine.dense_forward(
        floats(out, out.size), len(x), 1, const_floats(weight, weight.size),
        weight.shape[1], len(weight), const_floats(x, x.size), x.shape[1], len(x),
        x.shape[1]
    )
    return out


def tanh(x):
    """Hyperbolic tangent of a vector, float32."""
    out = padded_rows(x)
    engine.tanh(floats(out, out.size), out.size)
    return out[:len(x)]
