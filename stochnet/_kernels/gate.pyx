"""Units, estimators and penalties, one unit's row at a time (csrc/gate.c).

Rows are one-dimensional, one element for each example of the mini-batch. `noise` is a
`stochnet.gaters.Noise`; `temperature` is read by units and estimators that have one.
"""
import numpy as np

from libc.stdint cimport int32_t
from stochnet._kernels.arrays cimport const_floats, floats, integers
from stochnet._kernels.engine cimport (
    SN_CREDIT_ACTIVE, SN_CREDIT_ALL, SN_CREDIT_LOSS, SN_CREDIT_PROBE, SN_Z_ADDITIVE,
    SN_Z_NONE, SN_Z_UNIFORM, engine, sn_estimator, sn_estimator_row, sn_noise,
    sn_penalty, sn_penalty_row, sn_unit, sn_unit_row,
)
from stochnet._kernels.random cimport noise_of

from stochnet._kernels.arrays import padded_rows

CREDIT = {
    "active": SN_CREDIT_ACTIVE, "all": SN_CREDIT_ALL, "loss": SN_CREDIT_LOSS,
    "probe": SN_CREDIT_PROBE,
}
_CREDIT_NAMES = {value: name for name, value in CREDIT.items()}
_Z_NAMES = {SN_Z_NONE: None, SN_Z_UNIFORM: "uniform", SN_Z_ADDITIVE: "additive"}


def units():
    """What the table of units says of each: name -> facts, in the table's order."""
    cdef const sn_unit *unit
    facts = {}
    for i in range(engine.n_units):
        unit = engine.units[i]
        values = [v.decode() for v in unit.values[:3] if v != NULL]
        facts[unit.name.decode()] = {
            "index": i,
            "z": _Z_NAMES[unit.z],
            "gate_noise": bool(unit.gate_noise),
            "always_fires": bool(unit.always_fires),
            "default_temperature": unit.default_temperature or None,
            "has_derivative": unit.derivative != NULL,
            "smooth_probability": bool(unit.smooth_probability),
            "values": values,
            "positive_above": [unit.positive_above(v) for v in range(len(values))],
        }
    return facts


def estimators():
    """What the table of estimators says of each: name -> facts."""
    cdef const sn_estimator *estimator
    facts = {}
    for i in range(engine.n_estimators):
        estimator = engine.estimators[i]
        facts[estimator.name.decode()] = {
            "index": i,
            "credit": _CREDIT_NAMES[estimator.credit],
            "credit_choice": bool(estimator.credit_choice),
            "credit_probe": bool(estimator.credit_probe),
            "needs_derivative": bool(estimator.needs_derivative),
            "needs_difference": bool(estimator.needs_difference),
            "needs_z": bool(estimator.needs_z),
            "default_temperature": estimator.default_temperature or None,
        }
    return facts


def penalties():
    """What the table of penalties says of each: name -> facts."""
    cdef const sn_penalty *penalty
    facts = {}
    for i in range(engine.n_penalties):
        penalty = engine.penalties[i]
        facts[penalty.name.decode()] = {
            "index": i,
            "needs_smooth_probability": bool(penalty.needs_smooth_probability),
            "default_weight": penalty.default_weight,
        }
    return facts


cdef const sn_unit *_unit(name) except NULL:
    facts = units()
    if name not in facts:
        raise ValueError(f"Unknown unit {name!r}; valid units are {', '.join(facts)}.")
    return engine.units[<int>facts[name]["index"]]


cdef class _Row:
    """A unit's row over a batch, with the arrays that it points to."""
    cdef sn_unit_row row
    cdef sn_noise noise
    cdef list keep
    cdef Py_ssize_t n_rows

    def __init__(self, noise, a, a_draw=None, z=None, temperature=1.0):
        a = padded_rows(a)
        a_draw = a if a_draw is None else padded_rows(a_draw)
        z = a if z is None else padded_rows(z)
        self.keep = [a, a_draw, z, noise]
        self.noise = noise_of(noise)
        self.row.n = a.shape[0]
        self.row.a = const_floats(a, a.shape[0])
        self.row.a_draw = const_floats(a_draw, a.shape[0])
        self.row.z = self.row.p = const_floats(z, a.shape[0])
        self.row.noise = &self.noise
        self.row.temperature = temperature

    def empty(self):
        return np.zeros(self.row.n, dtype=np.float32)


def unit_forward(name, noise, a, z=None, a_draw=None, temperature=1.0):
    """h = f(a, z) (Eq. 1); `a_draw` decides the draw where it differs from a."""
    cdef const sn_unit *unit = _unit(name)
    cdef _Row row = _Row(noise, a, a_draw, z, temperature)
    h, p, slope = row.empty(), row.empty(), row.empty()
    unit.probability(floats(p, row.row.n), floats(slope, row.row.n), &row.row)
    row.row.p = const_floats(p, row.row.n)
    unit.forward(floats(h, row.row.n), &row.row)
    return h[:len(a)]


def unit_derivative(name, noise, a, h, a_draw=None, temperature=1.0):
    """dh/da for fixed noise, or None where the unit has none."""
    cdef const sn_unit *unit = _unit(name)
    cdef _Row row = _Row(noise, a, a_draw, None, temperature)
    if unit.derivative == NULL:
        return None
    out, h = row.empty(), padded_rows(h)
    unit.derivative(floats(out, row.row.n), const_floats(h, row.row.n), &row.row)
    return out[:len(a)]


def unit_probability(name, noise, a, a_draw=None, temperature=1.0):
    """P(h != 0 | a) and its derivative, None where it is not smooth."""
    cdef const sn_unit *unit = _unit(name)
    cdef _Row row = _Row(noise, a, a_draw, None, temperature)
    p, slope = row.empty(), row.empty()
    unit.probability(floats(p, row.row.n), floats(slope, row.row.n), &row.row)
    return p[:len(a)], slope[:len(a)] if unit.smooth_probability else None


def unit_value(name, noise, a, value, temperature=1.0):
    """Deterministic value of a gate that fires; `value` is one of the unit's names."""
    cdef const sn_unit *unit = _unit(name)
    cdef _Row row = _Row(noise, a, None, None, temperature)
    h = row.empty()
    unit.value(floats(h, row.row.n), units()[name]["values"].index(value), &row.row)
    return h[:len(a)]


def initial_bias(name, noise, density, spread, temperature=1.0):
    """Gate bias at which the unit fires with probability `density`."""
    cdef sn_noise c_noise = noise_of(noise)
    return _unit(name).initial_bias(density, spread, &c_noise, temperature)


def estimator_gradient(
    name, a, h, dl_dh, loss, *, dh_da=None, z=None, baseline=0.0, temperature=1.0,
    sigmoid_derivative=False
):
    """Estimate of dL/da for one unit's row (csrc/estimators).

    Parameters
    ----------
    name : str
        A row of the table of estimators.
    a, h, dl_dh, loss : array-like of shape (n_rows,)
        Pre-activation, gate, gradient of the mean loss by the gate, each row's loss.
    dh_da : array-like of shape (n_rows,), optional
        The unit's derivative.
    z : array-like of shape (n_rows,), optional
        The noise that h was drawn with.
    baseline, temperature : float
    sigmoid_derivative : bool

    Returns
    -------
    ndarray of shape (n_rows,), float32
    """
    cdef sn_estimator_row row
    keep = [padded_rows(v) for v in (a, h, dl_dh, loss)]
    slope = np.zeros_like(keep[0]) if dh_da is None else padded_rows(dh_da)
    noise = np.zeros_like(keep[0]) if z is None else padded_rows(z)
    out = np.zeros_like(keep[0])
    row.n, row.n_rows = out.shape[0], len(a)
    row.a = const_floats(keep[0], row.n)
    row.h = const_floats(keep[1], row.n)
    row.dl_dh = const_floats(keep[2], row.n)
    row.loss = const_floats(keep[3], row.n)
    row.dh_da = const_floats(slope, row.n)
    row.z = const_floats(noise, row.n)
    row.baseline, row.temperature = baseline, temperature
    row.sigmoid_derivative = sigmoid_derivative
    engine.estimators[<int>estimators()[name]["index"]].gradient(
        floats(out, row.n), &row
    )
    return out[:len(a)]


def penalty_gradient(name, weight, density, h, p, *, dh_da=None, dp_da=None):
    """A penalty's term for one unit and its gradient (csrc/penalties).

    Returns
    -------
    value : float
    gradient : ndarray of shape (n_rows,), float32
    """
    cdef sn_penalty_row row
    cdef float value
    h_row, p_row = padded_rows(h), padded_rows(p)
    dh_row = None if dh_da is None else padded_rows(dh_da)
    dp_row = None if dp_da is None else padded_rows(dp_da)
    out = np.zeros_like(h_row)
    row.n_gates, row.ld, row.n, row.n_rows = 1, len(out), len(out), len(h)
    row.h = const_floats(h_row, row.n)
    row.p = const_floats(p_row, row.n)
    row.dh_da = const_floats(dh_row, row.n)
    row.dp_da = const_floats(dp_row, row.n)
    row.weight, row.density = weight, density
    engine.penalties[<int>penalties()[name]["index"]].gradient(
        floats(out, row.n), &value, &row
    )
    return value, out[:len(h)]


def active_rows(h):
    """Ascending indices of the non-zero elements of a row, int32."""
    h = padded_rows(h)[:len(h)]
    rows = np.empty(max(len(h), 1), dtype=np.int32)
    cdef int32_t count = engine.active_rows(
        integers(rows, len(h)), const_floats(h, len(h)), len(h)
    )
    return rows[:count]
