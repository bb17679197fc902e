"""Every row of the table of penalties, for every unit that it can act on."""

import numpy as np
import oracle
import pytest

from stochnet import gaters
from stochnet._kernels import gate

PENALTIES = gate.penalties()
UNITS = gate.units()
LENGTHS = (1, 3, 16, 31, 32, 257)
WEIGHT, DENSITY = 0.25, 0.1
EPSILON = 2.0**-24


def cases():
    for penalty, facts in PENALTIES.items():
        for unit, unit_facts in UNITS.items():
            smooth = unit_facts["smooth_probability"]
            acts = smooth or unit_facts["has_derivative"]
            if smooth or (acts and not facts["needs_smooth_probability"]):
                yield pytest.param(penalty, unit, id=f"{penalty}-{unit}")


def oracle_gater(penalty, unit):
    estimator = "pathwise" if UNITS[unit]["has_derivative"] else "straight_through"
    return oracle.Gater(
        unit, estimator, penalty, density=DENSITY, penalty_weight=WEIGHT
    )


def gate_row(rng, unit, a):
    needs = oracle.REQUIRED_NOISE[unit]
    noise = oracle.LayerNoise(
        uniform=rng.uniform(size=a.shape) if "uniform" in needs else None,
        additive=rng.normal(size=a.shape) if "additive" in needs else None,
    )
    return oracle.apply_unit(a, noise, oracle_gater(None, unit))[1]


def kernel(penalty, unit, output):
    smooth = UNITS[unit]["smooth_probability"]
    has_path = output.derivative is not None
    return gate.penalty_gradient(
        penalty,
        WEIGHT,
        DENSITY,
        output.h[0],
        output.probability[0],
        dh_da=output.derivative[0] if has_path else None,
        dp_da=output.probability_derivative[0] if smooth else None,
    )


def test_table_is_that_of_the_package():
    assert gaters.PENALTIES == PENALTIES
    named = {row.penalty for row in gaters.GATERS.values()} - {None}
    assert named <= set(PENALTIES)
    assert {case.values[0] for case in cases()} == set(PENALTIES)


def assert_same(penalty, unit, output):
    n = output.h.shape[1]
    gater = oracle_gater(penalty, unit)
    value, gradient = kernel(penalty, unit, output)
    expected = oracle.penalty(output, gater)
    expected_gradient = oracle.penalty_gradient(output, gater)[0]
    # A sum of n float32 errs by at most n EPSILON relatively, a product by a few.
    relative, absolute, steeper = (n + 8) * EPSILON, 0.0, 0.0
    if PENALTIES[penalty]["needs_smooth_probability"]:
        # That is the relative error of q; that of 1 - q is larger where q is near 1,
        # and even where q is clipped, 1 - 1e-6 is rounded.
        mean = output.probability.mean()
        q = np.clip(mean, 1e-6, 1 - 1e-6)
        rest = (EPSILON + (relative * q if q == mean else 0.0)) / (1 - q)
        absolute = WEIGHT * (DENSITY * relative + (1 - DENSITY) * rest + 1e-6)
        change = DENSITY / q * relative + (1 - DENSITY) / (1 - q) * (relative + rest)
        steeper = WEIGHT / n * change
    assert abs(value - expected) <= relative * abs(expected) + absolute
    slope = output.probability_derivative[0]
    np.testing.assert_array_less(
        np.abs(gradient - expected_gradient),
        1e-30 + relative * np.abs(expected_gradient) + steeper * np.abs(slope),
    )
    return value, gradient


@pytest.mark.parametrize("mean", [-4.0, -2.2, 0.0, 3.0])
@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize(("penalty", "unit"), list(cases()))
def test_against_the_oracle(penalty, unit, n, mean):
    rng = np.random.default_rng(n)
    output = gate_row(rng, unit, rng.normal(mean, 1.5, (1, n)))
    value, gradient = assert_same(penalty, unit, output)
    assert gradient.dtype == np.float32
    if n >= 16:
        assert value > 0 or not output.h.any()
        assert gradient.any() or not output.h.any()


@pytest.mark.parametrize("a", [-40.0, -18.0, 18.0, 40.0])
@pytest.mark.parametrize(("penalty", "unit"), list(cases()))
def test_units_that_never_or_always_fire(penalty, unit, a):
    """Finite at a clipped mean probability, and still pulled back from there."""
    output = gate_row(np.random.default_rng(0), unit, np.full((1, 32), a))
    value, gradient = assert_same(penalty, unit, output)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    if PENALTIES[penalty]["needs_smooth_probability"]:
        # unless the probability is 0 or 1 in float32
        steep = output.probability_derivative[0] > 1e-30
        assert np.all((gradient * np.sign(a))[steep] > 0)


def test_kl_is_stationary_at_the_target():
    p, slope = np.full(32, DENSITY), np.full(32, 0.09)
    value, gradient = gate.penalty_gradient("kl", 1.0, DENSITY, p, p, dp_da=slope)
    entropy = -(DENSITY * np.log(DENSITY) + (1 - DENSITY) * np.log(1 - DENSITY))
    assert value == pytest.approx(entropy, rel=1e-6)
    # s / q and (1 - s) / (1 - q) cancel, each about 1 with an error of 32 EPSILON
    assert np.abs(gradient).max() < 64 * EPSILON * 0.09 / 32


@pytest.mark.parametrize("penalty", PENALTIES)
def test_scales_with_the_weight(penalty):
    rows = {"dh_da": np.ones(5), "dp_da": np.full(5, 0.25)}
    h, p = np.ones(5), np.full(5, 0.5)
    one = gate.penalty_gradient(penalty, 1.0, DENSITY, h, p, **rows)
    four = gate.penalty_gradient(penalty, 4.0, DENSITY, h, p, **rows)
    assert four[0] == 4 * one[0] != 0
    np.testing.assert_array_equal(four[1], 4 * one[1])
