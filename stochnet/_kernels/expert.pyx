"""Experts of the rows whose gate is not zero (csrc/product.c, step.c and sums.c)."""
import numpy as np

from libc.stdint cimport int32_t, int64_t
from libc.string cimport memset
from stochnet._kernels.arrays cimport Rows, const_floats, floats, integers
from stochnet._kernels.engine cimport (
    SN_SGD, UPDATE_UNITS, engine, sn_optimizer, sn_parameters, sn_rows,
)
from stochnet._kernels.update cimport optimizer_of, parameters_of

from stochnet._kernels.arrays import padded_rows
from stochnet._kernels.gate import active_rows


def _check(name, array, shape):
    if np.shape(array) != tuple(shape):
        raise ValueError(f"{name} must be {tuple(shape)}, got {np.shape(array)}.")


def _experts_per_gate(n_experts, n_gates):
    if n_gates == 0 or n_experts % n_gates:
        raise ValueError(f"{n_gates} gates do not share {n_experts} experts evenly.")
    return n_experts // n_gates


cdef _active_rows_of_all(h):
    """Each gate's active rows, (n_gates, n_rows), and how many there are."""
    rows = np.zeros(h.shape, dtype=np.int32)
    counts = np.zeros(len(h), dtype=np.int32)
    for k, gates in enumerate(h):
        active = active_rows(gates)
        rows[k, :len(active)] = active
        counts[k] = len(active)
    return rows, counts


def forward(x, weight, bias, h):
    """Outputs of the experts whose gate is not zero.

    Parameters
    ----------
    x : array-like of shape (n_rows, n_inputs)
    weight : array-like of shape (n_experts, n_inputs)
    bias : array-like of shape (n_experts,)
    h : array-like of shape (n_gates, n_rows)
        Gates, each of n_experts / n_gates successive experts.

    Returns
    -------
    ndarray of shape (n_experts, n_rows), float32
        NaN where the gate is zero: not computed.
    """
    _check("weight", weight, (len(bias), np.shape(x)[1]))
    _check("h", h, (len(h), len(x)))
    cdef int64_t size = _experts_per_gate(len(weight), len(h))
    x, weight = padded_rows(x), padded_rows(weight)
    bias = np.array(bias, dtype=np.float32)
    h = np.asarray(h, dtype=np.float32)
    H = np.full((len(weight), len(x)), np.nan, dtype=np.float32)
    cdef Rows inputs = Rows(x)
    rows, counts = _active_rows_of_all(h)
    cdef sn_parameters experts
    memset(&experts, 0, sizeof(experts))
    experts.n_rows, experts.ld = weight.shape
    experts.weight = floats(weight, weight.size)
    experts.bias = floats(bias, bias.size)
    engine.expert_forward(
        floats(H, H.size), len(x), &experts, size, &inputs.c,
        integers(rows, rows.size), integers(counts, counts.size), 0, len(h)
    )
    return H


cdef _step(sn_parameters *experts, sn_optimizer *optimizer, dH, x, h):
    """One step of experts with a gate each, from padded rows of x, in place."""
    cdef int64_t n_gates = len(h), n_rows = len(x)
    rows, counts = _active_rows_of_all(np.asarray(h))
    scratch = np.empty(UPDATE_UNITS * experts.ld, dtype=np.float32)
    cdef Rows inputs = Rows(x)
    engine.update_listed_units(
        experts, 0, n_gates, optimizer, const_floats(dH, dH.size), n_rows, &inputs.c,
        integers(rows, rows.size), integers(counts, n_gates), n_rows,
        floats(scratch, scratch.size)
    )


def update(experts, optimizer, dH, x, h):
    """One step of experts with a gate each on their active rows, in place.

    Parameters
    ----------
    experts : stochnet.network.Parameters
    optimizer : stochnet.network.Optimizer
    dH, x, h
        As in `gradient`.

    Returns
    -------
    bool
        Whether all weights and biases that were updated are finite.
    """
    _check("dH", dH, (len(experts.weight), len(x)))
    _check("h", h, (len(dH), len(x)))
    _check("x", x, (len(x), experts.n))
    cdef sn_parameters p = parameters_of(experts)
    cdef sn_optimizer o = optimizer_of(optimizer)
    o.decay /= len(x)
    _step(&p, &o, np.array(dH, dtype=np.float32), padded_rows(x), h)
    return not p.failed


def gradient(dH, x, h):
    """Gradient of each expert's weights, (n_experts, n_inputs), from its active rows.

    Parameters
    ----------
    dH : array-like of shape (n_experts, n_rows)
        Gradient by the experts' outputs; read only where the gate is not zero.
    x : array-like of shape (n_rows, n_inputs)
    h : array-like of shape (n_gates, n_rows)
        Gates, each of n_experts / n_gates successive experts.
    """
    _check("dH", dH, (len(dH), len(x)))
    _check("h", h, (len(h), len(x)))
    cdef int64_t k, size = _experts_per_gate(len(dH), len(h))
    n_inputs = np.shape(x)[1]
    x = padded_rows(x)
    dH = np.array(dH, dtype=np.float32)
    out = padded_rows(np.zeros((len(dH), n_inputs)))
    units = np.arange(size, dtype=np.int32)
    cdef float *start = floats(out, out.size)
    cdef const float *slopes = const_floats(dH, dH.size)
    cdef Rows inputs = Rows(x)
    cdef const int32_t *indices = integers(units, size)
    cdef int64_t ld_rows = dH.shape[1], ld = x.shape[1], n_gates = len(h)
    cdef sn_parameters sums
    cdef sn_optimizer add
    if size == 1:  # the step of a rate of -1 from weights of zero
        memset(&sums, 0, sizeof(sums))
        sums.n_rows, sums.ld, sums.weight = n_gates, ld, start
        memset(&add, 0, sizeof(add))
        add.solver, add.learning_rate = SN_SGD, -1.0
        _step(&sums, &add, dH, x, h)
        return out[:, :n_inputs]
    for k in range(n_gates):
        rows = active_rows(h[k])
        engine.weighted_sums(
            start + k * size * ld, ld, indices, size, slopes + k * size * ld_rows,
            ld_rows, 1, &inputs.c, integers(rows, len(rows)), len(rows), ld, 1.0
        )
    return out[:, :n_inputs]


def input_gradient(dH, weight, h):
    """Gradient of the layer's input through the active experts, (n_rows, n_inputs)."""
    _check("dH", dH, (len(weight), np.shape(dH)[1]))
    _check("h", h, (len(h), np.shape(dH)[1]))
    cdef int64_t k, size = _experts_per_gate(len(weight), len(h))
    n_inputs = np.shape(weight)[1]
    weight = padded_rows(weight)
    dH = np.array(dH, dtype=np.float32)
    out = padded_rows(np.zeros((dH.shape[1], n_inputs)))
    units = np.arange(size, dtype=np.int32)
    cdef float *start = floats(out, out.size)
    cdef const float *slopes = const_floats(dH, dH.size)
    cdef const int32_t *indices = integers(units, size)
    cdef int64_t ld_rows = dH.shape[1], ld = weight.shape[1], n_gates = len(h)
    cdef sn_rows weights
    memset(&weights, 0, sizeof(weights))
    weights.ld = ld
    for k in range(n_gates):
        rows = active_rows(h[k])
        weights.x = const_floats(weight, weight.size) + k * size * ld
        engine.weighted_sums(
            start, ld, integers(rows, len(rows)), len(rows),
            slopes + k * size * ld_rows, 1, ld_rows, &weights,
            indices, size, ld, 1.0
        )
    return out[:, :n_inputs]
