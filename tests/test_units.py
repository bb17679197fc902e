"""Every row of the table of units: against the oracle, differences and frequencies."""

import numpy as np
import oracle
import pytest
from scipy.special import logit, ndtri

from stochnet import gaters
from stochnet._kernels import gate, random

UNITS = gate.units()
LENGTHS = (1, 3, 16, 31, 32, 257)
KEY = (11, 12)


def noise_kinds(facts):
    """The noises that a unit can be given."""
    if facts["z"] == "additive":
        # its firing probability has a closed form for these alone
        return [kind for kind, (_, with_beta) in gaters.NOISES.items() if not with_beta]
    return [None, *gaters.NOISES] if facts["gate_noise"] else [None]


def cases():
    for name, facts in UNITS.items():
        for kind in noise_kinds(facts):
            yield pytest.param(name, kind, False, id=f"{name}-{kind}")
            if kind and facts["gate_noise"] and facts["z"] == "uniform":
                yield pytest.param(name, kind, True, id=f"{name}-{kind}-draw")


def plain_cases():
    """Without noise on the input of the gate."""
    for name, facts in UNITS.items():
        for kind in noise_kinds(facts):
            if kind is None or facts["z"] == "additive":
                yield pytest.param(name, kind, id=f"{name}-{kind}")


def make_noise(kind, scale=1.0, draw_only=False):
    return gaters.make_noise(
        kind, density=0.1, scale=scale, beta=40.1, draw_only=draw_only
    )


def pre_activations(n, seed=0):
    return np.random.default_rng(seed).normal(-0.5, 3, n).astype(np.float32)


def oracle_gater(name, noise, temperature):
    has_path = UNITS[name]["has_derivative"]
    return oracle.Gater(
        name,
        "pathwise" if has_path else "straight_through",
        noise=noise.additive if UNITS[name]["z"] == "additive" else "gaussian",
        noise_scale=noise.scale,
        noise_on="draw" if noise.draw_only else "gate",
        temperature=temperature,
    )


def kernel_row(name, a, noise):
    """Draw a row's noise.

    Returns a as the value sees it, a as the draw sees it, z, and the same noise for
    the oracle.
    """
    n, z, a_noisy = len(a), None, a
    given = oracle.LayerNoise()
    if UNITS[name]["z"] == "uniform":
        z = random.uniform(1, n, KEY)[0]
        given.uniform = z.astype(float)[None]
    if UNITS[name]["z"] == "additive":
        z = random.additive(1, n, noise, KEY)[0]
        given.additive = z.astype(float)[None]
    elif noise.additive or noise.quantiles is not None:
        a_noisy = a + random.additive(1, n, noise, KEY)[0]
        # the difference, so that the oracle's sum is this float32 sum
        given.additive = (a_noisy.astype(float) - a)[None]
    return (a if noise.draw_only else a_noisy), a_noisy, z, given


def relative_limit(x):
    """Relative error of a function of a / scale.

    Twice the largest limit of csrc/scalar.h, and the rounding of x = a / scale (two
    units of 2^-24), which the tail of the normal distribution magnifies by x^2.
    """
    return 6e-6 + 2**-23 * np.square(x, dtype=float)


def assert_close(result, expected, x, more=0.0):
    """Within the relative limit, of the results or of `more` where terms cancel."""
    assert result.dtype == np.float32
    excess = np.abs(result - expected) - relative_limit(x) * (np.abs(expected) + more)
    assert np.all(excess <= 1e-37)  # where float32 exp saturates


def test_tables_are_those_of_the_package_and_of_the_oracle():
    assert gaters.UNITS == UNITS
    assert {row.unit for row in gaters.GATERS.values()} <= set(UNITS)
    assert set(oracle.REQUIRED_NOISE) == set(UNITS)
    for name, facts in UNITS.items():
        assert tuple(facts["values"]) == oracle.PREDICTION_VALUES[name]
        z = set() if facts["z"] is None else {facts["z"]}
        assert oracle.REQUIRED_NOISE[name] == z
        assert ("additive" in oracle.OPTIONAL_NOISE.get(name, ())) == (
            facts["gate_noise"]
        )
    assert [facts["index"] for facts in UNITS.values()] == list(range(len(UNITS)))


def test_unknown_unit_names_the_valid_ones():
    with pytest.raises(ValueError, match="valid units are.*" + ".*".join(UNITS)):
        gate.unit_forward("no such", gaters.Noise(), [0.0])


@pytest.mark.parametrize("scale", [1.0, 0.7, 2.0])
@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize(("name", "kind", "draw_only"), list(cases()))
def test_against_the_oracle(name, kind, draw_only, n, scale):
    """The scale is that of the noise, and the temperature."""
    noise = make_noise(kind, scale, draw_only)
    clean = pre_activations(n, seed=n)
    a, a_draw, z, given = kernel_row(name, clean, noise)
    expected_a, expected = oracle.apply_unit(
        clean[None].astype(float), given, oracle_gater(name, noise, scale)
    )
    np.testing.assert_array_equal(a, expected_a[0])
    if given.uniform is not None:
        # or rounding might turn a draw
        margin = np.abs(given.uniform - expected.probability)
        assert margin.min() > 1e-6, "choose another key"

    h = gate.unit_forward(name, noise, a, z, a_draw, temperature=scale)
    # a hard concrete gate is a difference of two numbers, its slope 0 or not
    more = 0.0
    if name == "hard_concrete":
        edges = a - scale * np.log(11) * np.array([[1], [-1]]) - logit(given.uniform)
        assert np.abs(edges).min() > 1e-5, "choose another key"
        more = 0.1
    assert_close(h, expected.h[0], 1, more)
    np.testing.assert_array_equal(h != 0, expected.active[0])
    derivative = gate.unit_derivative(name, noise, a, h, temperature=scale)
    assert (derivative is None) == (expected.derivative is None)
    if derivative is not None:
        assert_close(derivative, expected.derivative[0], a / scale)

    x = a_draw / scale
    probability, slope = gate.unit_probability(name, noise, a_draw, temperature=scale)
    assert_close(probability, expected.probability[0], x)
    if slope is None:
        assert not expected.probability_derivative.any()
    else:
        assert_close(slope, expected.probability_derivative[0], x)


def beside(name, value, noise, x, scale, expected):
    """What the error of a value is relative to, beside the value itself."""
    if noise.additive == "gaussian":
        # a Phi + scale phi: two terms that cancel, an error relative to the second
        return scale * oracle.normal_density(x)
    if value == "clamped":  # a difference from 0.1
        return 0.1
    # an integral by eight points: 3e-4 for temperatures up to 2, 2e-6 up to 1
    few = name == "hard_concrete" and scale > 1
    return 50 * expected if few else 0.0


@pytest.mark.parametrize("scale", [1.0, 0.7, 2.0])
@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize(("name", "kind"), list(plain_cases()))
def test_values_at_prediction(name, kind, n, scale):
    noise = make_noise(kind, scale)
    a = pre_activations(n, seed=n)
    x = a.astype(float) / scale
    for value in UNITS[name]["values"]:
        own = oracle_gater(name, noise, scale)
        expected = oracle.gate_value(a.astype(float), value, own)
        more = beside(name, value, noise, x, scale, expected)
        h = gate.unit_value(name, noise, a, value, temperature=scale)
        assert_close(h, expected, x, more)


@pytest.mark.parametrize(("name", "kind"), list(plain_cases()))
def test_positive_above(name, kind):
    a = np.array([-5, -2.41, -2.39, -1, -0.01, 0.01, 1, 5], dtype=np.float32)
    facts = UNITS[name]
    for value, least in zip(facts["values"], facts["positive_above"], strict=True):
        h = gate.unit_value(name, make_noise(kind), a, value)
        assert np.all(h >= 0)
        np.testing.assert_array_equal(h > 0, a > least)
        assert least == -np.inf or len(set(h > 0)) == 2


# ---- Without the oracle

# Central differences in float32 over 2 STEP: truncation STEP^2 f''' / 6 is at most
# 1e-5 (f''' <= 1 at these scales), rounding of f at most 2^-24 max|f| / STEP = 7e-5 for
# rectifiers (|f| < 8), so that 1e-4 is a bound and not a fit.
STEP = 2.0**-7
ATOL = 1e-4


def differences(function, a):
    """Central differences, and the elements where `function` is not smooth.

    There it goes from zero to something, or from less than one to one, or the other
    way round.
    """
    above, below = function(a + STEP), function(a - STEP)
    kink = ((above != 0) != (below != 0)) | ((above == 1) != (below == 1))
    assert kink.mean() < 0.1
    return (above.astype(float) - below) / (2 * STEP), kink


@pytest.mark.parametrize("scale", [1.0, 2.0])
@pytest.mark.parametrize(("name", "kind"), list(plain_cases()))
def test_derivative_is_that_of_forward_for_fixed_noise(name, kind, scale):
    noise = make_noise(kind, scale)
    a = np.clip(pre_activations(1024), -4, 4)
    _, _, z, _ = kernel_row(name, a, noise)
    slope, kink = differences(
        lambda a: gate.unit_forward(name, noise, a, z, temperature=scale), a
    )
    h = gate.unit_forward(name, noise, a, z, temperature=scale)
    derivative = gate.unit_derivative(name, noise, a, h, temperature=scale)
    if derivative is None:  # promised: zero almost everywhere
        derivative = np.zeros_like(a)
    else:
        assert np.abs(derivative).max() > 0.05
    np.testing.assert_allclose(derivative[~kink], slope[~kink], rtol=0, atol=ATOL)


@pytest.mark.parametrize("scale", [1.0, 2.0])
@pytest.mark.parametrize(("name", "kind"), list(plain_cases()))
def test_derivative_of_the_firing_probability(name, kind, scale):
    noise = make_noise(kind, scale)
    a = np.clip(pre_activations(1024), -4, 4)
    slope, kink = differences(
        lambda a: gate.unit_probability(name, noise, a, temperature=scale)[0], a
    )
    derivative = gate.unit_probability(name, noise, a, temperature=scale)[1]
    if derivative is None:
        derivative = np.zeros_like(a)
    else:
        assert np.abs(derivative).max() > 0.05
    np.testing.assert_allclose(derivative[~kink], slope[~kink], rtol=0, atol=ATOL)


@pytest.mark.parametrize("a", [-2.0, -0.25, 0.5])
@pytest.mark.parametrize(("name", "kind"), list(plain_cases()))
def test_firing_probability_is_the_share_of_non_zero_gates(name, kind, a):
    n, noise, warm = 200_000, make_noise(kind, 1.5), {"temperature": 1.5}
    row = np.full(n, a, dtype=np.float32)
    _, _, z, _ = kernel_row(name, row, noise)
    share = np.mean(gate.unit_forward(name, noise, row, z, **warm) != 0)
    probability = float(gate.unit_probability(name, noise, row, **warm)[0][0])
    # five standard deviations; none for a unit without noise
    deviation = np.sqrt(probability * (1 - probability) / n)
    assert abs(share - probability) <= 5 * deviation
    assert UNITS[name]["z"] is None or 0.01 < probability < 0.99


@pytest.mark.parametrize("spread", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("density", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize(("name", "kind"), list(plain_cases()))
def test_initial_bias_gives_the_density(name, kind, density, spread):
    noise, facts, warm = make_noise(kind, 1.5), UNITS[name], {"temperature": 1.5}
    bias = gate.initial_bias(name, noise, density, spread, **warm)
    a = np.array([bias])
    if not facts["smooth_probability"] and not facts["always_fires"]:
        # the input makes it fire: a is normal around the bias, here by its quantiles
        u = (np.arange(20_000) + 0.5) / 20_000
        a = bias + spread * ndtri(u)
    probability = gate.unit_probability(name, noise, a, **warm)[0].mean(dtype=float)
    expected = 1.0 if facts["always_fires"] else density
    # One of the 20000 quantiles; elsewhere the float32 of the bias and of the normal
    # quantile, 3e-6, which the tail magnifies by up to 7.
    tolerance = {"abs": 5.1e-5, "rel": 0} if len(a) > 1 else {"abs": 0, "rel": 2e-5}
    assert probability == pytest.approx(expected, **tolerance)


@pytest.mark.parametrize("density", [0.01, 0.1, 0.5, 0.9])
def test_initial_bias_of_sts(density):
    """It fires with probability sqrt(p)."""
    bias = gate.initial_bias("sts", gaters.Noise(), density, 1.0)
    assert bias == pytest.approx(logit(density**2), rel=1e-12)
