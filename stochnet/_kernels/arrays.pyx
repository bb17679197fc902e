"""Arrays as the kernels want them: float32, rows padded with zeros, aligned."""
import numpy as np

from libc.stdint cimport int64_t, uint64_t

from stochnet._kernels.engine cimport (
    engine, sn_nonzeros_length, sn_piece_count, sn_row_length,
)

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


def copy_above(float[::1] out, const float[::1] values, float least):
    """Copy those that exceed `least`, in order, without a branch for each.

    Returns how many; `out` must have place for all.
    """
    cdef Py_ssize_t i, count = 0, n = values.shape[0]
    if out.shape[0] < n:
        raise ValueError(f"Expected {n} places, got {out.shape[0]}.")
    if n == 0:
        return 0
    cdef float *chosen = &out[0]
    cdef const float *value = &values[0]
    for i in range(n):
        chosen[count] = value[i]
        count += value[i] > least
    return count


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


cdef class Rows:
    """Padded rows, (n_rows, row_length(n)), for products that skip chunks of zeros."""

    def __cinit__(self, x):
        cdef Py_ssize_t i, n = x.shape[1]
        filled = np.empty((len(x), sn_piece_count(n)), dtype=np.uint64)
        cdef uint64_t[:, ::1] bits = filled
        self.keep = x, filled
        self.c.x, self.c.ld = const_floats(x, x.size), n
        self.c.ld_filled = filled.shape[1]
        for i in range(len(x)):
            engine.find_filled(&bits[i, 0], self.c.x + i * n, n)
        self.c.filled = &bits[0, 0] if len(x) else NULL


cdef class Nonzeros:
    """Lists of what n_rows rows of n floats, a row_length, have beside zeros."""

    def __cinit__(self, int64_t n_rows, int64_t n):
        self.c.ld = sn_nonzeros_length(n)
        column = np.zeros((n_rows, self.c.ld), dtype=np.int32)
        value = np.zeros((n_rows, self.c.ld), dtype=np.float32)
        end = np.zeros((n_rows, sn_piece_count(n)), dtype=np.int32)
        self.end, self.keep = end, (column, value)
        self.c.column = integers(column, column.size)
        self.c.end = integers(end, end.size)
        self.c.value = floats(value, value.size)

    def find(self, x):
        """Those of padded rows, (n_rows, n)."""
        cdef int64_t b, n = x.shape[1]
        cdef const float *rows = const_floats(x, x.size)
        for b in range(len(x)):
            engine.find_nonzeros(&self.c, b, rows + b * n, n)
        dense = np.flatnonzero(self.end[:, 0] < 0)
        if len(dense):
            raise ValueError(f"More than half of row {dense[0]} is nonzero.")
