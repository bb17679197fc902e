"""Concrete and hard concrete gates, ReinMax and straight-through Gumbel-sigmoid.

Their publications' formulas, through the compiled kernels: distributions and gradients
by statistical tests with stated z-scores beside quadrature, estimators beside NumPy.
Keys are fixed, as in test_paper.py, whose limit on z-scores is taken.
"""

import numpy as np
import pytest
from scipy.special import expit, logit

from stochnet._kernels import gate, random
from stochnet.gaters import Noise, make_gater

KEY = (20170424, 3)
N_DRAWS = 1 << 20
Z_LIMIT = 4.0

GRID = (-4.0, -2.0, -0.7, 0.0, 0.4, 1.5, 3.0)
TEMPERATURES = (0.3, 2 / 3, 1.5)
LOGISTIC = Noise("logistic")

# f(h), f'(h): losses of one gate.
LOSSES = {
    "square": (lambda h: (h - 0.45) ** 2, lambda h: 2 * (h - 0.45)),
    "exp": (np.exp, np.exp),
    "cos": (lambda h: np.cos(3 * h), lambda h: -3 * np.sin(3 * h)),
}


def z_of_mean(sample, expected):
    """Deviation of a sample's mean from what is expected, in standard errors."""
    sample = np.asarray(sample, dtype=np.float64)
    return (sample.mean() - expected) / (sample.std(ddof=1) / np.sqrt(len(sample)))


def z_of_share(fired, probability):
    """Deviation of a share from a probability, in standard errors."""
    error = np.sqrt(probability * (1 - probability) / len(fired))
    return (fired.mean() - probability) / error


def check(z):
    """All z-scores are small; none of them is exactly zero by construction."""
    z = np.ravel(z)
    assert np.all(np.abs(z) < Z_LIMIT), f"z-scores {np.round(z, 1)}"
    assert np.any(np.abs(z) > 0.05), "no deviation at all: nothing was drawn"


# ---------------------------------------------------------------------------
# The definitions, in float64
# ---------------------------------------------------------------------------


def concrete(x):
    """Of x = (a + l) / T."""
    return expit(x)


def hard_concrete(x):
    return np.minimum(1.0, np.maximum(0.0, expit(x) * (1.1 - -0.1) + -0.1))


DEFINITIONS = {"concrete": concrete, "hard_concrete": hard_concrete}


def expectation(unit, f, a, temperature):
    """E[f(h)] by quadrature over the logistic noise.

    Gauss's rule with 16 points between successive integers and the kinks of h.
    """
    kinks = -a + temperature * np.log(11) * np.array([-1, 1])
    edges = np.sort(np.concatenate([np.arange(-45.0, 46.0), kinks]))
    points, weights = np.polynomial.legendre.leggauss(16)
    half = np.diff(edges)[:, None] / 2
    noise = edges[:-1, None] + half * (1 + points)
    h = DEFINITIONS[unit]((a + noise) / temperature)
    return float((f(h) * expit(noise) * expit(-noise) * half * weights).sum())


def draws(unit, a, temperature, step):
    """2^20 gates of the kernels at one pre-activation, and their slopes."""
    row = np.full(N_DRAWS, a, dtype=np.float32)
    z, noise = None, Noise()
    if unit == "concrete":  # the noise is part of a, as in the engine's rows
        noise = LOGISTIC
        row = row + random.additive(1, N_DRAWS, noise, KEY, step=step)[0]
    else:
        z = random.uniform(1, N_DRAWS, KEY, step=step)[0]
    h = gate.unit_forward(unit, noise, row, z, temperature=temperature)
    return h, gate.unit_derivative(unit, noise, row, h, temperature=temperature)


# ---------------------------------------------------------------------------
# Distributions
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("unit", DEFINITIONS)
def test_distribution_is_the_published_one(unit, temperature):
    """Mean and second moment by quadrature, and P(h > 1/2) = sigm(a)."""
    z = []
    for step, a in enumerate(GRID):
        h, _ = draws(unit, a, temperature, step)
        assert 0 <= h.min() <= h.max() <= 1
        for power in (1, 2):
            expected = expectation(unit, lambda h, n=power: h**n, a, temperature)
            z.append(z_of_mean(h.astype(float) ** power, expected))
        z.append(z_of_share(h > 0.5, expit(a)))
    check(z)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_hard_concrete_is_zero_and_one_with_positive_probability(temperature):
    """P(h = 0) and P(h = 1), by quadrature, in closed form and by the kernels."""
    z = []
    for step, a in enumerate(GRID):
        h, _ = draws("hard_concrete", a, temperature, step)
        zero, one = (
            expectation("hard_concrete", lambda h, v=v: h == v, a, temperature)
            for v in (0.0, 1.0)
        )
        edge = temperature * np.log(0.1 / 1.1)
        assert zero == pytest.approx(1 - expit(a - edge), abs=1e-7)
        assert one == pytest.approx(expit(a + edge), abs=1e-7)
        fires = gate.unit_probability("hard_concrete", Noise(), [a], None, temperature)
        assert fires[0][0] == pytest.approx(1 - zero, rel=1e-5)
        z += [z_of_share(h == 0, zero), z_of_share(h == 1, one)]
    check(z)


@pytest.mark.parametrize("temperature", [0.3, 2 / 3, 1.0, 2.0])
def test_mean_of_hard_concrete_at_prediction(temperature):
    """By eight points: 2e-6 of itself for temperatures up to 1, 3e-4 up to 2."""
    a = np.linspace(-12, 12, 49)
    exact = [expectation("hard_concrete", lambda h: h, x, temperature) for x in a]
    found = gate.unit_value("hard_concrete", Noise(), a, "mean", temperature)
    limit = 3e-6 if temperature <= 1 else 3e-4
    np.testing.assert_allclose(found, exact, rtol=limit)


def test_hard_concrete_at_prediction_as_published():
    a = np.linspace(-5, 5, 101, dtype=np.float32)
    found = gate.unit_value("hard_concrete", Noise(), a, "clamped")
    stretched = expit(a.astype(float)) * 1.2 - 0.1
    np.testing.assert_allclose(found, np.clip(stretched, 0, 1), atol=2e-7)
    assert (found == 0).sum() == (found == 1).sum() == 27


@pytest.mark.parametrize("unit", DEFINITIONS)
def test_low_temperatures_are_the_bernoulli_gate(unit):
    """At T = 0.001 the gate is 0 or 1, but for one in a thousand."""
    for step, a in enumerate(GRID):
        h, _ = draws(unit, a, 1e-3, step)
        assert np.mean((h > 1e-3) & (h < 1 - 1e-3)) < 5e-3
        assert abs(z_of_share(h > 0.5, expit(a))) < Z_LIMIT


# ---------------------------------------------------------------------------
# Pathwise gradients
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("unit", DEFINITIONS)
def test_mean_of_the_pathwise_gradient(unit, loss, temperature):
    """It is the derivative of E[f(h)], here of its quadrature."""
    f, slope = LOSSES[loss]
    z, expected = [], []
    for step, a in enumerate(GRID):
        h, derivative = draws(unit, a, temperature, step)
        above, below = (
            expectation(unit, f, a + move, temperature) for move in (1e-3, -1e-3)
        )
        expected.append((above - below) / 2e-3)
        estimate = gate.estimator_gradient(
            "pathwise", h, h, slope(h.astype(float)), h, dh_da=derivative
        )
        z.append(z_of_mean(estimate, expected[-1]))
    check(z)
    assert np.ptp(expected) > 0.02


# ---------------------------------------------------------------------------
# Estimators for Bernoulli gates
# ---------------------------------------------------------------------------


def bernoulli_row(n=1003, seed=0):
    """a, z, h and dL/dh of a row of Bernoulli gates, float32."""
    rng = np.random.default_rng(seed)
    a = rng.normal(0, 2, n).astype(np.float32)
    z = random.uniform(1, n, KEY, step=seed)[0]
    h = gate.unit_forward("bernoulli", Noise(), a, z)
    assert 0.3 < h.mean() < 0.7
    return a, z, h, rng.normal(size=n).astype(np.float32)


def test_reinmax_as_published():
    """Algorithm 2 of Liu et al. (2023), for the two classes 'off' and 'on'.

    pi_0 = softmax(theta), pi_1 = (pi_0 + D) / 2, pi_1 <- softmax(log pi_1 with the
    gradient of theta), pi_2 = 2 pi_1 - pi_0 / 2; the backward pass is that of pi_2.
    """
    a, _, h, dh = bernoulli_row()
    theta = np.stack([np.zeros_like(a), a], axis=1).astype(float)
    pi_0 = np.exp(theta) / np.exp(theta).sum(axis=1, keepdims=True)
    D = np.stack([1 - h, h], axis=1)
    pi_1 = (pi_0 + D) / 2
    dD = np.stack([np.zeros_like(dh), dh], axis=1).astype(float)

    def through_softmax(pi, d):
        return pi * (d - (pi * d).sum(axis=1, keepdims=True))

    dtheta = 2 * through_softmax(pi_1, dD) - through_softmax(pi_0, dD) / 2
    found = gate.estimator_gradient("reinmax", a, h, dh, h)
    # relative to the largest: terms cancel in the definition, not in the kernel
    np.testing.assert_allclose(found, dtheta[:, 1], rtol=2e-6, atol=1e-12)


@pytest.mark.parametrize("a", GRID)
def test_mean_of_reinmax_is_exact_for_quadratic_losses(a):
    """Second order: p (1 - p) (f(1) - f(0)), summed over h; straight-through is not."""
    f, slope = LOSSES["square"]
    h, p = np.array([0.0, 1.0]), expit(a)
    exact = p * (1 - p) * (f(1.0) - f(0.0))
    mean = {}
    for name in ("reinmax", "straight_through"):
        estimate = gate.estimator_gradient(
            name, [a, a], h, slope(h), [0, 0], sigmoid_derivative=True
        )
        mean[name] = (1 - p) * estimate[0] + p * estimate[1]
    assert mean["reinmax"] == pytest.approx(exact, rel=3e-5)
    assert abs(mean["straight_through"] - exact) > 0.1 * abs(exact) or a == 0


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_concrete_straight_through_as_published(temperature):
    """Jang et al. (2017): z = one_hot(argmax(g + log pi)), gradient of the softmax.

    With Gumbel noise g of both classes whose difference is the kernel's logistic noise.
    """
    a, z, h, dh = bernoulli_row(seed=1)
    log_pi = np.stack([-np.logaddexp(0, a), -np.logaddexp(0, -a)], axis=1)
    off = -np.log(-np.log(np.random.default_rng(0).random(len(a))))
    g = np.stack([off, off - logit(z.astype(float))], axis=1)
    hard = (g + log_pi).argmax(axis=1)
    np.testing.assert_array_equal(h, hard)
    scaled = (g + log_pi) / temperature
    y = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    y /= y.sum(axis=1, keepdims=True)
    # d y_on / da through both log-probabilities
    p = expit(a.astype(float))
    dlog_pi = np.stack([-p, 1 - p], axis=1)
    slope = y[:, 1] * (y * (dlog_pi[:, 1:] - dlog_pi)).sum(axis=1) / temperature
    found = gate.estimator_gradient(
        "concrete_st", a, h, dh, h, z=z, temperature=temperature
    )
    # float32 of a + l, which the exponential makes relative
    size = 1 + (np.abs(a) + np.abs(logit(z.astype(float)))) / temperature
    assert np.all(np.abs(found - dh * slope) <= 5e-7 * size * np.abs(dh * slope))
    assert np.abs(found[h == 0]).max() > 0.05, "credit where h = 0"


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_mean_of_concrete_straight_through_for_a_linear_loss(temperature):
    """There it is the derivative of the concrete sample's mean."""
    z = []
    for step, a in enumerate(GRID):
        row = np.full(N_DRAWS, a, dtype=np.float32)
        uniform = random.uniform(1, N_DRAWS, KEY, step=step)[0]
        h = gate.unit_forward("bernoulli", Noise(), row, uniform)
        estimate = gate.estimator_gradient(
            "concrete_st",
            row,
            h,
            np.ones(N_DRAWS),
            h,
            z=uniform,
            temperature=temperature,
        )
        above, below = (
            expectation("concrete", lambda h: h, a + move, temperature)
            for move in (1e-3, -1e-3)
        )
        z.append(z_of_mean(estimate, (above - below) / 2e-3))
    check(z)


# ---------------------------------------------------------------------------
# Gaters
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["concrete", "concrete_st", "hard_concrete"])
def test_temperature_of_a_gater(name):
    """2/3 unless another one is asked for, which the gates' bias follows."""
    gater = make_gater(name)
    assert gater.temperature == pytest.approx(2 / 3, rel=1e-7)
    warm = make_gater(name, temperature=1.5)
    assert warm.temperature == 1.5
    shift = gater.initial_bias(1.0) - warm.initial_bias(1.0)
    expected = (1.5 - gater.temperature) * np.log(11) if name == "hard_concrete" else 0
    assert shift == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["st", "sts", "sigmoid", "noisy_rectifier"])
def test_temperature_of_a_gater_without_one(name):
    message = f"temperature=1.0 is not available for gater='{name}'; valid: 'auto'."
    with pytest.raises(ValueError, match=message):
        make_gater(name, temperature=1.0)


@pytest.mark.parametrize(
    ("name", "credit", "expected"),
    [
        ("concrete_st", "auto", "all"),
        ("concrete_st", "active", "active"),
        ("hard_concrete", "auto", "active"),
        ("concrete", "auto", "active"),
    ],
)
def test_credit(name, credit, expected):
    assert make_gater(name, credit=credit).credit == expected


def test_estimators_of_straight_through():
    gater = make_gater("st", estimator="reinmax")
    assert (gater.unit, gater.estimator, gater.credit) == (
        "bernoulli",
        "reinmax",
        "all",
    )
    assert make_gater("st", estimator="reinmax", credit="active").credit == "active"
    with pytest.raises(ValueError, match="estimator='reinmax' is not available"):
        make_gater("sbn", estimator="reinmax")
    with pytest.raises(ValueError, match="valid: 'auto', 'straight_through', 'reinm"):
        make_gater("st", estimator="concrete_st")
