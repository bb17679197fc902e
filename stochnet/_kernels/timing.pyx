"""Kernels alone, repeated without copies or checks of values, for `stochnet.bench`.

Work is serial and the GIL released: a caller that wants threads gives each a range of
gates or units. Gates come in sets, (n_sets, n_gates, n_rows) row indices and
(n_sets, n_gates) counts, and each repeat takes the next set, so that no branch can be
learnt by heart.
"""
import numpy as np

from libc.stdint cimport int32_t, int64_t
from stochnet._kernels.arrays cimport Rows, const_floats, floats, integers
from stochnet._kernels.engine cimport (
    EXPERTS_TOGETHER, UPDATE_UNITS, engine, sn_leaves_L2, sn_optimizer, sn_parameters,
)
from stochnet._kernels.update cimport optimizer_of, parameters_of


cdef extern from "vector.h":
    void sn_prefetch(const float *, int64_t) noexcept nogil


cdef _check(bint holds, what):
    if not holds:
        raise ValueError(f"{what} does not fit.")


def expert_forward(H, x, experts, const int32_t[:, :, ::1] rows,
                   const int32_t[:, ::1] counts, first, last, repeats):
    """`repeats` times the experts of gates first to last for their active rows.

    Parameters
    ----------
    H : ndarray of shape (n_experts, n_rows), float32
        Written.
    x : ndarray of shape (n_rows, row_length(n_inputs)), float32
    experts : stochnet.network.Parameters
    rows : ndarray of shape (n_sets, n_gates, n_rows), int32
    counts : ndarray of shape (n_sets, n_gates), int32
    first, last, repeats : int
    """
    cdef sn_parameters p = parameters_of(experts)
    cdef int64_t ld_rows = rows.shape[2], size = p.n_rows // rows.shape[1], r, s
    cdef int64_t begin = first, end = last, n = repeats, n_sets = rows.shape[0]
    _check(0 <= begin <= end <= rows.shape[1], "range")
    _check(size * rows.shape[1] == p.n_rows, "experts")
    _check(x.shape == (ld_rows, p.ld) and H.shape == (p.n_rows, ld_rows), "x or H")
    cdef float *out = floats(H, H.size)
    cdef Rows inputs = Rows(x)
    with nogil:
        for r in range(n):
            s = r % n_sets
            engine.expert_forward(
                out, ld_rows, &p, size, &inputs.c, &rows[s, 0, 0], &counts[s, 0], begin,
                end
            )


def expert_update(experts, optimizer, c, x, const int32_t[:, :, ::1] rows,
                  const int32_t[:, ::1] counts, first, last, repeats):
    """`repeats` times the step of gates first to last, each with one expert.

    As in a training step, a gate's rows and gradients are in cache by then.

    Parameters
    ----------
    experts : stochnet.network.Parameters
        Updated.
    optimizer : stochnet.network.Optimizer
    c : ndarray of shape (n_experts, n_rows), float32
        Gradients of the experts' outputs.
    x, rows, counts, first, last, repeats
        As in `expert_forward`.
    """
    cdef sn_parameters p = parameters_of(experts)
    cdef sn_optimizer o = optimizer_of(optimizer)
    cdef int64_t ld_rows = rows.shape[2], k, i, r, s, n = repeats
    cdef int64_t begin = first, end = last, n_sets = rows.shape[0], n_gates
    cdef int64_t together = UPDATE_UNITS
    if sn_leaves_L2(ld_rows, p.ld):
        together = EXPERTS_TOGETHER
    _check(0 <= begin <= end <= rows.shape[1], "range")
    _check(p.n_rows == rows.shape[1] and x.shape == (ld_rows, p.ld), "experts or x")
    _check(c.shape == (p.n_rows, ld_rows), "c")
    cdef const float *slopes = const_floats(c, c.size)
    cdef Rows inputs = Rows(x)
    scratch = np.empty(UPDATE_UNITS * p.ld, dtype=np.float32)
    cdef float *gradient = floats(scratch, scratch.size)
    with nogil:
        for r in range(n):
            s = r % n_sets
            k = begin
            while k < end:
                n_gates = min(together, end - k)
                for i in range(k + n_gates, min(k + n_gates + together, end)):
                    sn_prefetch(<const float *>&rows[s, i, 0], counts[s, i])
                    sn_prefetch(slopes + i * ld_rows, ld_rows)
                engine.update_listed_units(
                    &p, k, k + n_gates, &o, slopes, ld_rows, &inputs.c,
                    &rows[s, 0, 0], &counts[s, 0], ld_rows, gradient
                )
                k += n_gates


def block_sum(weight, c, x, const int32_t[:, :, ::1] rows, const int32_t[:, ::1] counts,
              first, last, repeats):
    """`repeats` times weight += c @ x over the active rows of gates first to last.

    As in a training step, a gate's rows and gradients are in cache by then.

    Parameters
    ----------
    weight : ndarray of shape (n_experts, row_length(n_inputs)), float32
        Added to.
    c : ndarray of shape (n_experts, n_rows), float32
    x, rows, counts, first, last, repeats
        As in `expert_forward`.
    """
    cdef int64_t n_experts = weight.shape[0], ld = weight.shape[1], k, r, s, n = repeats
    cdef int64_t ld_rows = rows.shape[2], size = n_experts // rows.shape[1]
    cdef int64_t begin = first, end = last, n_sets = rows.shape[0]
    _check(0 <= begin <= end <= rows.shape[1], "range")
    _check(size * rows.shape[1] == n_experts, "weight")
    _check(x.shape == (ld_rows, ld) and c.shape == (n_experts, ld_rows), "x or c")
    cdef float *w = floats(weight, weight.size)
    cdef const float *slopes = const_floats(c, c.size)
    cdef Rows inputs = Rows(x)
    units = np.arange(size, dtype=np.int32)
    cdef const int32_t *indices = integers(units, size)
    with nogil:
        for r in range(n):
            s = r % n_sets
            for k in range(begin, end):
                if k + 1 < end:
                    sn_prefetch(<const float *>&rows[s, k + 1, 0], counts[s, k + 1])
                    sn_prefetch(slopes + (k + 1) * size * ld_rows, size * ld_rows)
                engine.weighted_sums(
                    w + k * size * ld, ld, indices, size, slopes + k * size * ld_rows,
                    ld_rows, 1, &inputs.c, &rows[s, k, 0], counts[s, k], ld, 1.0
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
    cdef Rows inputs = Rows(x)
    rows = np.arange(n_rows, dtype=np.int32)
    cdef const int32_t *indices = integers(rows, n_rows)
    with nogil:
        for _r in range(n):
            engine.dot_products(
                o + begin * n_rows, n_rows, 1, w + begin * ld, ld, NULL, end - begin,
                &inputs.c, indices, n_rows, ld
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
    cdef int64_t begin = first, end = last, _r, n = repeats, k, width
    _check(0 <= begin <= end <= n_units, "range")
    _check(out.shape == (n_units, ld) and coefficients.shape[1] == n_rows, "out")
    cdef float *o = floats(out, out.size)
    cdef const float *c = const_floats(coefficients, coefficients.size)
    cdef Rows v = Rows(x)
    rows = np.arange(max(n_rows, n_units), dtype=np.int32)
    cdef const int32_t *indices = integers(rows, len(rows))
    with nogil:
        for _r in range(n):
            k = begin
            while k < end:
                width = min(<int64_t>UPDATE_UNITS, end - k)
                engine.weighted_sums(
                    o + k * ld, ld, indices, width, c + k * n_rows, n_rows, 1, &v.c,
                    indices, n_rows, ld, 1.0
                )
                k += width
