"""Softmax cross-entropy (csrc/loss.c)."""
import numpy as np

from stochnet._kernels.arrays cimport floats
from stochnet._kernels.engine cimport engine


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
    probability = np.array(logits, dtype=np.float32)
    gradient = np.zeros_like(probability)
    loss = np.zeros(len(probability), dtype=np.float32)
    n_rows, n_classes = probability.shape
    if len(target) != n_rows:
        raise ValueError(f"{n_rows} rows of logits, but {len(target)} targets.")
    if len(target) and not (0 <= min(target) and max(target) < n_classes):
        raise ValueError(f"target must be in [0, {n_classes}).")
    cdef float *p = floats(probability, probability.size)
    cdef float *g = floats(gradient, gradient.size)
    cdef float scale = 1.0 / max(n_rows, 1)
    cdef Py_ssize_t b, ld = n_classes
    for b in range(n_rows):
        loss[b] = engine.cross_entropy(p + b * ld, g + b * ld, target[b], scale, ld)
    return loss, probability, gradient
