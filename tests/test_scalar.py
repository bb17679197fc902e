"""Accuracy of the elementary functions, through the kernels that expose them.

The limits are those that csrc/scalar.h states. Every function is measured over all of
its range in which the result is a normal number: float32 exp saturates at about
-87.33 and 88.37.
"""

import numpy as np
import pytest
from scipy import special

from stochnet._kernels import dense, gate, loss, random
from stochnet.gaters import Noise

EXP_LIMIT = SIGMOID_LIMIT = TANH_LIMIT = LOG_LIMIT = 3e-7
SOFTPLUS_LIMIT = 1e-6
NORMAL_LIMIT = 1e-6

GAUSSIAN, LOGISTIC = Noise("gaussian", 1.0), Noise("logistic", 1.0)
KEY = (1, 2)


def sigmoid(x):
    return gate.unit_value("sigmoid", Noise(), x, "probability")


def softplus(x):
    return gate.unit_value("noisy_rectifier", LOGISTIC, x, "mean")


def normal_cdf(x):
    return gate.unit_probability("noisy_rectifier", GAUSSIAN, x)[0]


def normal_density(x):
    return gate.unit_probability("noisy_rectifier", GAUSSIAN, x)[1]


def gaussian_mean(x):
    return gate.unit_value("noisy_rectifier", GAUSSIAN, x, "mean")


def density64(x):
    return np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi)


def floats(low, high, n=200_000):
    """Float32 of all magnitudes in [low, high], evenly spaced ones too."""
    magnitudes = np.geomspace(1e-30, max(abs(low), abs(high)), n)
    x = np.concatenate([np.linspace(low, high, n), magnitudes, -magnitudes])
    return np.unique(x[(x >= low) & (x <= high)].astype(np.float32))


def largest_error(result, expected):
    assert result.dtype == np.float32
    return np.abs(result / expected - 1).max()


@pytest.mark.parametrize(
    ("function", "reference", "low", "high", "limit"),
    [
        (dense.tanh, np.tanh, -1e4, 1e4, TANH_LIMIT),
        (dense.tanh, np.tanh, -2, 2, TANH_LIMIT),
        (sigmoid, special.expit, -87.3, 1e4, SIGMOID_LIMIT),
        (sigmoid, special.expit, -20, 20, SIGMOID_LIMIT),
        (softplus, lambda x: np.logaddexp(0, x), -87.3, 1e4, SOFTPLUS_LIMIT),
        (softplus, lambda x: np.logaddexp(0, x), -20, 20, SOFTPLUS_LIMIT),
        (normal_cdf, special.ndtr, -13, 1e4, NORMAL_LIMIT),
        (normal_cdf, special.ndtr, -6, 6, NORMAL_LIMIT),
        (normal_density, density64, -13, 13, NORMAL_LIMIT),
    ],
)
def test_relative_error(function, reference, low, high, limit):
    x = floats(low, high)
    assert largest_error(function(x), reference(x.astype(float))) < limit


def test_exp():
    """The normal density where x^2 / 2 is exact, divided by the density's constant."""
    x = np.arange(0, 13.2, 2**-8)
    constant = np.float64(np.float32(0.398942280))
    expected = np.exp(-0.5 * x * x) * constant
    # and one rounding of the product with that constant
    assert largest_error(normal_density(x), expected) < EXP_LIMIT + 2**-24


def additive_uniforms(n_rows):
    """The uniforms behind additive noise, by the documented counter."""
    blocks = [random.philox4x32((0, b, 0, 1), KEY) for b in range(n_rows // 4)]
    u = ((np.concatenate(blocks) >> 9) + 0.5) * 2.0**-23
    return u.astype(np.float32)


def test_log_and_normal_quantile_of_uniforms():
    n = 100_000
    u = additive_uniforms(n)
    odds = (u / (1 - u)).astype(float)  # in float32 until here, as in the kernel
    logistic = random.additive(1, n, LOGISTIC, KEY)[0]
    assert largest_error(logistic, np.log(odds)) < LOG_LIMIT
    gaussian = random.additive(1, n, GAUSSIAN, KEY)[0]
    assert largest_error(gaussian, special.ndtri(u.astype(float))) < NORMAL_LIMIT


def test_log_of_integers():
    """The loss of C equal logits is log(C), and a sum of C ones is exact."""
    n_classes = np.arange(2, 1500)
    losses = [loss.softmax_cross_entropy(np.zeros((1, c)), [0])[0] for c in n_classes]
    assert largest_error(np.concatenate(losses), np.log(n_classes)) < LOG_LIMIT


def test_gaussian_mean():
    """E[max(0, x + z)] = x Phi(x) + phi(x), where its two terms cancel below 0.

    The error is therefore that of phi(x), to which x Phi(x) is near: each of the two
    contributes its own, and far below 0 that may exceed the result, but not make it
    negative.
    """
    x = floats(-13, 50)
    x64 = x.astype(float)
    phi = density64(x64)
    # below 0 in a form that does not cancel
    below = np.minimum(x64, 0)
    scaled = special.erfcx(-below / np.sqrt(2))
    below = phi * (1 + below * np.sqrt(np.pi / 2) * scaled)
    expected = np.where(x64 > 0, x64 * special.ndtr(x64) + phi, below)
    error = np.abs(gaussian_mean(x) - expected)
    assert (error / (phi + np.maximum(x64, 0))).max() < 2 * NORMAL_LIMIT
    assert gaussian_mean(np.linspace(-1000, 0, 10_000)).min() >= 0


TINY = 1e-37  # where the exponential saturates, results are below this, not 0


@pytest.mark.parametrize(
    ("function", "below", "above", "centre"),
    [
        (dense.tanh, -1, 1, 0),
        (sigmoid, 0, 1, 0.5),
        (softplus, 0, None, np.log(2)),
        (normal_cdf, 0, 1, 0.5),
        (normal_density, 0, 0, density64(0.0)),
        (gaussian_mean, 0, None, density64(0.0)),
    ],
)
def test_extreme_arguments(function, below, above, centre):
    x = np.array([88, 1e4, 3e38, np.inf], dtype=np.float32)
    limits = x if above is None else np.full(4, above, dtype=np.float32)
    np.testing.assert_allclose(function(x), limits, rtol=1e-7, atol=TINY)
    np.testing.assert_allclose(function(-x), below, rtol=1e-7, atol=TINY)
    near_zero = np.array([0, -0.0, 1e-30, -1e-30, 1e-42, -1e-42])
    np.testing.assert_allclose(function(near_zero), centre, rtol=3e-7, atol=1e-29)


@pytest.mark.parametrize(
    "function",
    [dense.tanh, sigmoid, softplus, normal_cdf, normal_density, gaussian_mean],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_nan_stays_nan(function, sign):
    x = np.zeros(40, dtype=np.float32)
    x[[0, 17, 39]] = sign * np.nan
    np.testing.assert_array_equal(np.isnan(function(x)), np.isnan(x))


def test_nan_logits_give_a_nan_loss():
    logits = np.zeros((2, 3))
    logits[0, 1] = np.nan
    losses = loss.softmax_cross_entropy(logits, [0, 0])[0]
    np.testing.assert_array_equal(np.isnan(losses), [True, False])
