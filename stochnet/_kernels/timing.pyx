"""Kernels alone, repeated without copies or checks of values, for `stochnet.bench`.

Work is serial and the GIL released: a caller that wants threads gives each a range of
units. Gates come in sets, (n_sets, n_units, n_rows) row indices and (n_sets, n_units)
counts, and each repeat takes the next set, so that no branch can be learnt by heart.
"""
from libc.stdint cimport int32_t, int64_t
from stochnet._kernels.arrays cimport const_floats, floats
from stochnet._kernels.engine cimport engine, sn_parameters
from stochnet._kernels.update cimport parameters_of


cdef _check(bint holds, what):
    if not holds:
        raise ValueError(f"{what} does not fit.")


def expert_forward(H, reads, x, experts, const int32_t[:, :, ::1] rows,
                   const int32_t[:, ::1] counts, first, last, repeats):
    """`repeats` times the outputs of experts first to last for their active rows.

    Parameters
    ----------
    H : ndarray of shape (n_units, n_rows), float32
        Written.
    reads : ndarray of shape (n_units,), int64
        Counts dot products.
    x : ndarray of shape (n_rows, row_length(n_inputs)), float32
    experts : stochnet.network.Parameters
    rows : ndarray of shape (n_sets, n_units, n_rows), int32
    counts : ndarray of shape (n_sets, n_units), int32
    first, last, repeats : int
    """
    cdef sn_parameters p = parameters_of(experts)
    cdef int64_t ld_rows = rows.shape[2], ld = p.ld, k, r, n = repeats, s
    cdef int64_t begin = first, end = last, n_sets = rows.shape[0]
    _check(0 <= begin <= end <= p.n_rows == rows.shape[1], "range")
    _check(x.shape == (ld_rows, ld) and H.shape == (p.n_rows, ld_rows), "x or H")
    cdef float *out = floats(H, H.size)
    cdef const float *inputs = const_floats(x, x.size)
    cdef int64_t[::1] counter = reads
    with nogil:
        for r in range(n):
            s = r % n_sets
            for k in range(begin, end):
                engine.expert_forward(
                    out + k * ld_rows, &counter[0], inputs, ld, &p, k,
                    &rows[s, k, 0], counts[s, k]
                )


def expert_sum(out, c, x, const int32_t[:, :, ::1] rows,
               const int32_t[:, ::1] counts, first, last, repeats):
    """`repeats` times out += c x over the active rows of experts first to last.

    With the weights as `out` this is the update of plain SGD, but for max-norm.

    Parameters
    ----------
    out : ndarray of shape (n_units, row_length(n_inputs)), float32
        Added to.
    c : ndarray of shape (n_units, n_rows), float32
    x, rows, counts, first, last, repeats
        As in `expert_forward`.
    """
    cdef int64_t ld_rows = rows.shape[2], ld = x.shape[1], k, r, s, n = repeats
    cdef int64_t begin = first, end = last, n_sets = rows.shape[0]
    _check(0 <= begin <= end <= rows.shape[1], "range")
    _check(out.shape == (rows.shape[1], ld) and len(x) == ld_rows, "out or x")
    cdef float *target = floats(out, out.size)
    cdef const float *weights = const_floats(c, rows.shape[1] * ld_rows)
    cdef const float *inputs = const_floats(x, x.size)
    with nogil:
        for r in range(n):
            s = r % n_sets
            for k in range(begin, end):
                engine.expert_sum(
                    target + k * ld, weights + k * ld_rows, inputs, ld, ld,
                    &rows[s, k, 0], counts[s, k]
                )


def dense_forward(out, x, weight, first, last, repeats):
    """`repeats` times the units first to last of weight @ x.T, unit-major.

    Parameters
    ----------
    out : ndarray of shape (n_units, n_rows), float32
        Written.
    x : ndarray of shape (n_rows, row_length(n_inputs)), float32
    weight : ndarray of shape (n_units, row_length(n_inputs)), float32
    first, last, repeats : int
    """
    cdef int64_t n_rows = x.shape[0], ld = x.shape[1], n_units = weight.shape[0]
    cdef int64_t begin = first, end = last, _r, n = repeats
    _check(0 <= begin <= end <= n_units and weight.shape[1] == ld, "range or weight")
    _check(out.shape == (n_units, n_rows), "out")
    cdef float *o = floats(out, out.size)
    cdef const float *w = const_floats(weight, weight.size)
    cdef const float *inputs = const_floats(x, x.size)
    with nogil:
        for _r in range(n):
            engine.dense_forward(
                o + begin * n_rows, n_rows, 1, w + begin * ld, ld, end - begin, inputs,
                ld, n_rows, ld
            )


def dense_sum(out, coefficients, x, first, last, repeats):
    """`repeats` times out += coefficients @ x, for the units first to last.

    Parameters
    ----------
    out : ndarray of shape (n_units, row_length(n)), float32
        Added to.
    coefficients : ndarray of shape (n_units, n_rows), float32
    x : ndarray of shape (n_rows, row_length(n)), float32
    first, last, repeats : int
    """
    cdef int64_t n_rows = x.shape[0], ld = x.shape[1], n_units = coefficients.shape[0]
    cdef int64_t begin = first, end = last, _r, n = repeats
    _check(0 <= begin <= end <= n_units, "range")
    _check(out.shape == (n_units, ld) and coefficients.shape[1] == n_rows, "out")
    cdef float *o = floats(out, out.size)
    cdef const float *c = const_floats(coefficients, coefficients.size)
    cdef const float *v = const_floats(x, x.size)
    with nogil:
        for _r in range(n):
            engine.dense_sum(
                o + begin * ld, ld, c + begin * n_rows, n_rows, 1, end - begin, v, ld,
                n_rows, ld
            )
