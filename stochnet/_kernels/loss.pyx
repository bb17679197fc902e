"""Softmax cross-entropy (csrc/loss.c)."""
import numpy as np

from libc.string cimport memset
from stochnet._kernels.arrays cimport floats, integers
from stochnet._kernels.engine cimport SN_PAD, engine, sn_softmax

from stochnet._kernels.arrays import padded_rows


def softmax_cross_entropy(logits, target):
    """Loss of each row, class probabilities, and gradient of the mean loss.

    Parameters
    ----------
    logits : array-like of shape (n_rows, n_classes)
    target : array-like of shape (n_rows,)
        Class indices in [0, n_classes).

    Returns
    -------
    loss : ndarray of shape (n_rows,), float32
    probability, gradient : ndarray of shape (n_rows, n_classes), float32
    """
    n_rows, n_classes = np.shape(logits)
    if len(target) != n_rows:
        raise ValueError(f"{n_rows} rows of logits, but {len(target)} targets.")
    if len(target) and not (0 <= min(target) and max(target) < n_classes):
        raise ValueError(f"target must be in [0, {n_classes}).")
    probability = padded_rows(logits)
    gradient = np.zeros_like(probability)
    loss = np.zeros(n_rows, dtype=np.float32)
    target = np.array(target, dtype=np.int32)
    cdef float scale = 1.0 / max(n_rows, 1)
    cdef sn_softmax to
    cdef Py_ssize_t first
    memset(&to, 0, sizeof(to))
    to.ld = probability.shape[1]
    for first in range(0, n_rows, SN_PAD):
        n = min(SN_PAD, n_rows - first)
        to.loss = floats(loss, n_rows) + first
        to.logits = floats(probability, probability.size) + first * to.ld
        to.gradient = floats(gradient, gradient.size) + first * to.ld
        engine.softmax_cross_entropy(
            &to, integers(target, n_rows) + first, scale, n, n_classes
        )
    return loss, probability[:, :n_classes], gradient[:, :n_classes]
