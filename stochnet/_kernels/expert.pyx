"""Experts of the rows whose gate is not zero (csrc/expert.c)."""
import numpy as np

from libc.stdint cimport int32_t, int64_t
from libc.string cimport memset
from stochnet._kernels.arrays cimport const_floats, floats, integers, long_integers
from stochnet._kernels.engine cimport engine, sn_parameters

from stochnet._kernels.arrays import padded_rows
from stochnet._kernels.gate import active_rows


def _check(name, array, shape):
    if np.shape(array) != tuple(shape):
        raise ValueError(f"{name} must be {tuple(shape)}, got {np.shape(array)}.")


cdef sn_parameters _experts(weight, bias) except *:
    cdef sn_parameters p
    memset(&p, 0, sizeof(p))
    p.n_rows, p.ld = weight.shape
    p.weight = floats(weight, weight.size)
    p.bias = floats(bias, p.n_rows)
    return p


def forward(x, weight, bias, h):
    """Outputs of the experts whose gate is not zero.

    Parameters
    ----------
    x : array-like of shape (n_rows, n_inputs)
    weight : array-like of shape (n_experts, n_inputs)
    bias : array-like of shape (n_experts,)
    h : array-like of shape (n_experts, n_rows)
        Gates.

    Returns
    -------
    H : ndarray of shape (n_experts, n_rows), float32
        NaN where the gate is zero: not computed.
    reads : ndarray of shape (n_experts,), int64
        Dot products made with each expert's weights, counted where they are read.
    """
    _check("weight", weight, (len(bias), np.shape(x)[1]))
    _check("h", h, (len(bias), len(x)))
    x, weight = padded_rows(x), padded_rows(weight)
    bias = np.array(bias, dtype=np.float32)
    h = np.asarray(h, dtype=np.float32)
    cdef sn_parameters experts = _experts(weight, bias)
    H = np.full(h.shape, np.nan, dtype=np.float32)
    reads = np.zeros(len(weight), dtype=np.int64)
    cdef float *out = floats(H, H.size)
    cdef int64_t *counter = long_integers(reads, reads.size)
    cdef const float *inputs = const_floats(x, x.size)
    cdef int64_t k, ld_rows = h.shape[1], ld = x.shape[1]
    cdef int32_t count
    for k in range(h.shape[0]):
        rows = active_rows(h[k])
        count = len(rows)
        engine.expert_forward(
            out + k * ld_rows, counter, inputs, ld, &experts, k,
            integers(rows, count), count
        )
    return H, reads


def gradient(dH, x, h):
    """Gradient of each expert's weights, (n_experts, n_inputs), from its active rows.

    Parameters
    ----------
    dH : array-like of shape (n_experts, n_rows)
        Gradient by the experts' outputs; read only where the gate is not zero.
    x : array-like of shape (n_rows, n_inputs)
    h : array-like of shape (n_experts, n_rows)
    """
    _check("dH", dH, (len(h), len(x)))
    _check("h", h, np.shape(dH))
    n_inputs = np.shape(x)[1]
    x = padded_rows(x)
    dH = np.array(dH, dtype=np.float32)
    out = padded_rows(np.zeros((len(dH), n_inputs)))
    cdef float *start = floats(out, out.size)
    cdef const float *slopes = const_floats(dH, dH.size)
    cdef const float *inputs = const_floats(x, x.size)
    cdef int64_t k, ld_rows = dH.shape[1], ld = x.shape[1]
    cdef int32_t count
    for k in range(dH.shape[0]):
        rows = active_rows(h[k])
        count = len(rows)
        engine.expert_sum(
            start + k * ld, slopes + k * ld_rows, inputs, ld, ld,
            integers(rows, count), count
        )
    return out[:, :n_inputs]


def input_gradient(dH, weight, h):
    """Gradient of the layer's input through the active experts, (n_rows, n_inputs)."""
    _check("dH", dH, (len(weight), np.shape(dH)[1]))
    _check("h", h, np.shape(dH))
    n_inputs = np.shape(weight)[1]
    weight = padded_rows(weight)
    dH = np.array(dH, dtype=np.float32)
    cdef sn_parameters experts = _experts(weight, None)
    out = padded_rows(np.zeros((dH.shape[1], n_inputs)))
    cdef float *start = floats(out, out.size)
    cdef const float *slopes = const_floats(dH, dH.size)
    cdef int64_t k, ld_rows = dH.shape[1], ld = weight.shape[1]
    cdef int32_t count
    for k in range(dH.shape[0]):
        rows = active_rows(h[k])
        count = len(rows)
        engine.expert_input_gradient(
            start, ld, &experts, k, slopes + k * ld_rows, integers(rows, count), count,
            0, ld
        )
    return out[:, :n_inputs]
