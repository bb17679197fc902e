"""Exact expectations over all configurations of gates (csrc/enumeration.c)."""
import numpy as np

from libc.stdint cimport int32_t, int64_t
from stochnet._kernels.engine cimport engine

#: Beyond that, 2^K configurations take too long.
MOST_GATES = 20


def enumerate_gates(base, contribution, probability, value, target):
    """Expected cross-entropy of each example, and its exact derivatives.

    In example b, gate k is value[b, k] with probability probability[b, k] and else 0,
    independently; the logits are base[b] plus the gates times contribution[b, k].

    Parameters
    ----------
    base : array-like of shape (n_rows, n_classes)
    contribution : array-like of shape (n_rows, n_gates, n_classes)
    probability, value : array-like of shape (n_rows, n_gates)
    target : array-like of shape (n_rows,)
        Class indices.

    Returns
    -------
    loss : ndarray of shape (n_rows,), float64
    probability_gradient, value_gradient : ndarray of shape (n_rows, n_gates), float64
        Derivatives of each example's expected loss.

    Raises
    ------
    ValueError
        If there are more than `MOST_GATES` gates, or shapes do not fit.
    """
    cdef const double[:, :, ::1] c = np.array(contribution, dtype=float, order="C")
    cdef int64_t n_rows = c.shape[0], K = c.shape[1], C = c.shape[2], b, label
    if K > MOST_GATES:
        raise ValueError(f"Enumeration takes at most {MOST_GATES} gates, got {K}.")
    shapes = [np.shape(array) for array in (base, probability, value, target)]
    if shapes != [(n_rows, C), (n_rows, K), (n_rows, K), (n_rows,)] or K == 0 or C == 0:
        raise ValueError(f"Shapes do not fit: {np.shape(contribution)} and {shapes}.")
    cdef const double[:, ::1] logits = np.array(base, dtype=float, order="C")
    cdef const double[:, ::1] p = np.array(probability, dtype=float, order="C")
    cdef const double[:, ::1] v = np.array(value, dtype=float, order="C")
    cdef const int64_t[::1] y = np.array(target, dtype=np.int64)
    if n_rows and not 0 <= np.min(target) <= np.max(target) < C:
        raise ValueError(f"target holds values outside [0, {C}).")
    loss, dp, dv = np.empty(n_rows), np.empty((n_rows, K)), np.empty((n_rows, K))
    cdef double[::1] out = loss
    cdef double[:, ::1] dp_rows = dp, dv_rows = dv
    cdef double[::1] scratch = np.empty((K + 1) * C)
    cdef int32_t[::1] active = np.empty(K, dtype=np.int32)
    with nogil:
        for b in range(n_rows):
            label = y[b]
            out[b] = engine.enumerate(
                &dp_rows[b, 0], &dv_rows[b, 0], &logits[b, 0], &c[b, 0, 0], &p[b, 0],
                &v[b, 0], label, K, C, &scratch[0], &active[0]
            )
    return loss, dp, dv
