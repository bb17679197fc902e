"""Arrays as the kernels want them: float32, rows padded with zeros, aligned."""
import numpy as np

from stochnet._kernels.engine cimport sn_row_length

ALIGNMENT = 64


def row_length(n):
    """Length of a row of `n` floats with its padding."""
    return sn_row_length(n)


def aligned_zeros(size):
    """One-dimensional float32 zeros that start at a multiple of 64 bytes."""
    raw = np.zeros(size + ALIGNMENT // 4, dtype=np.float32)
    start = (-raw.ctypes.data % ALIGNMENT) // 4
    return raw[start:start + size]


def padded_rows(values):
    """Copy of a matrix (or of one row) as float32 with zero-padded rows.

    Returns an array of shape (n_rows, row_length(n)); a vector becomes (row_length,).
    """
    values = np.asarray(values, dtype=np.float32)
    shape = values.shape[:-1] + (row_length(values.shape[-1]),)
    out = aligned_zeros(int(np.prod(shape))).reshape(shape)
    out[..., :values.shape[-1]] = values
    return out


cdef float *floats(object array, Py_ssize_t size) except? NULL:
    """Pointer to at least `size` float32 in C order; NULL for None."""
    if array is None:
        return NULL
    cdef float[::1] view = array.reshape(-1)
    if view.shape[0] < size:
        raise ValueError(f"Expected {size} floats, got {view.shape[0]}.")
    return &view[0] if size else NULL


cdef const float *const_floats(object array, Py_ssize_t size) except? NULL:
    """Like `floats`, for arrays that may be read-only."""
    if array is None:
        return NULL
    cdef const float[::1] view = array.reshape(-1)
    if view.shape[0] < size:
        raise ValueError(f"Expected {size} floats, got {view.shape[0]}.")
    return &view[0] if size else NULL


cdef int32_t *integers(object array, Py_ssize_t size) except? NULL:
    """Pointer to at least `size` int32 in C order; NULL for None."""
    if array is None:
        return NULL
    cdef int32_t[::1] view = array.reshape(-1)
    if view.shape[0] < size:
        raise ValueError(f"Expected {size} integers, got {view.shape[0]}.")
    return &view[0] if size else NULL


cdef int64_t *long_integers(object array, Py_ssize_t size) except? NULL:
    """Pointer to at least `size` int64 in C order; NULL for None."""
    if array is None:
        return NULL
    cdef int64_t[::1] view = array.reshape(-1)
    if view.shape[0] < size:
        raise ValueError(f"Expected {size} integers, got {view.shape[0]}.")
    return &view[0] if size else NULL
