"""The exact oracle against another enumeration, and each estimator against it."""

import itertools

import numpy as np
import pytest
from helpers import Shape, make, make_batch, make_network, oracle_noise
from scipy.special import expit, log_softmax
from scipy.stats import norm
from stochnet._kernels.enumeration import enumerate_gates

from stochnet import diagnostics
from stochnet.diagnostics import ESTIMATORS, GateProblem, compare_estimators

UNBIASED = ["reinforce", "reinforce_mean", "reinforce_unit", "disarm"]
UNBIASED += ["local_expectation"]


def make_problem(n_rows=3, n_gates=5, n_classes=4, seed=0):
    rng = np.random.default_rng(seed)
    return GateProblem(
        a=rng.normal(-0.5, 1, (n_rows, n_gates)),
        base=rng.normal(size=(n_rows, n_classes)),
        contribution=rng.normal(size=(n_rows, n_gates, n_classes)),
        target=rng.integers(n_classes, size=n_rows),
    )


def expectation(problem, fires, value, function):
    """Sum over all configurations, written out."""
    total = 0.0
    for on in itertools.product([0, 1], repeat=fires.shape[1]):
        on = np.array(on)
        weight = np.prod(np.where(on, fires, 1 - fires), axis=1)
        result = function(on * value, np.broadcast_to(on, fires.shape))
        total = total + weight.reshape(-1, *[1] * (result.ndim - 1)) * result
    return total


def own_loss(problem, h):
    logits = problem.base + np.einsum("bk,bkc->bc", h, problem.contribution)
    rows = np.arange(len(h))
    return -log_softmax(logits, axis=1)[rows, problem.target]


@pytest.mark.parametrize("unit", ["bernoulli", "sts"])
def test_enumeration_is_the_sum_and_its_derivative(unit):
    problem = make_problem()

    def loss_at(a):
        p = expit(a)
        fires, value = (p, np.ones_like(p)) if unit == "bernoulli" else (p**0.5,) * 2
        return expectation(problem, fires, value, lambda h, _: own_loss(problem, h))

    loss, gradient = diagnostics.exact_gradient(problem, unit)
    np.testing.assert_allclose(loss, loss_at(problem.a), rtol=1e-13)
    for k in range(problem.a.shape[1]):
        step = np.zeros(problem.a.shape[1])
        step[k] = 1e-5
        slope = (loss_at(problem.a + step) - loss_at(problem.a - step)) / 2e-5
        np.testing.assert_allclose(gradient[:, k], slope, atol=1e-9)


def test_enumeration_of_twenty_gates():
    """Gates without contributions change nothing; the first three are as alone."""
    problem = make_problem(1, 20, 3)
    problem.contribution[:, 3:] = 0
    few = GateProblem(
        problem.a[:, :3], problem.base, problem.contribution[:, :3], problem.target
    )
    loss, gradient = diagnostics.exact_gradient(problem)
    expected, slopes = diagnostics.exact_gradient(few)
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    np.testing.assert_allclose(gradient[:, :3], slopes, rtol=1e-10)
    np.testing.assert_allclose(gradient[:, 3:], 0, atol=1e-14)


def test_wrong_arguments():
    problem = make_problem(1, 21)
    with pytest.raises(ValueError, match="at most 20 gates, got 21"):
        diagnostics.exact_gradient(problem)
    with pytest.raises(ValueError, match="unit must be 'bernoulli' or 'sts'"):
        diagnostics.exact_gradient(make_problem(), "rectifier")
    with pytest.raises(ValueError, match=r"Unknown estimators \['no'\]"):
        compare_estimators(make_problem(), ["no"])
    with pytest.raises(ValueError, match="n_draws must be at least 2"):
        compare_estimators(make_problem(), n_draws=1)
    p = make_problem()
    with pytest.raises(ValueError, match="Shapes do not fit"):
        enumerate_gates(p.base, p.contribution, p.a[:, :2], p.a, p.target)
    with pytest.raises(ValueError, match=r"outside \[0, 4\)"):
        enumerate_gates(p.base, p.contribution, p.a, p.a, p.target + 4)


def test_unbiased_estimators_have_the_exact_mean():
    """Largest |z| of 75 means at 20000 draws: below 4.5, probability 5e-4."""
    problem = make_problem()
    results = compare_estimators(problem, UNBIASED, n_draws=20000)
    for name in UNBIASED:
        z = results[name]["bias"] / results[name]["standard_error"]
        assert np.abs(z).max() < 4.5, name
        assert results[name]["cosine"] > 0.97


def exact_moments(problem, estimate):
    """Mean and variance of a function of Bernoulli gates, by enumeration."""
    p, ones = expit(problem.a), np.ones_like(problem.a)
    mean = expectation(problem, p, ones, lambda h, _: estimate(h))
    square = expectation(problem, p, ones, lambda h, _: estimate(h) ** 2)
    return mean, square - mean**2


def own_slope(problem, h):
    logits = problem.base + np.einsum("bk,bkc->bc", h, problem.contribution)
    delta = np.exp(log_softmax(logits, axis=1))
    delta[np.arange(len(h)), problem.target] -= 1
    return np.einsum("bc,bkc->bk", delta, problem.contribution)


def own_difference(problem, h):
    out = np.empty(problem.a.shape)
    for k in range(out.shape[1]):
        pair = []
        for value in (0.0, 1.0):
            flipped = np.array(h, dtype=float)
            flipped[:, k] = value
            pair.append(own_loss(problem, flipped))
        out[:, k] = pair[1] - pair[0]
    return out


def definitions(problem):
    """What functions of the gates alone are published as, written out once more."""
    p = expit(problem.a)
    return {
        "st": lambda h: own_slope(problem, h),
        "st_active": lambda h: h * own_slope(problem, h),
        "st_derivative": lambda h: p * (1 - p) * own_slope(problem, h),
        "reinforce": lambda h: (h - p) * own_loss(problem, h)[:, None],
        "local_expectation": lambda h: p * (1 - p) * own_difference(problem, h),
        "reinmax": lambda h: (
            own_slope(problem, h)
            * (2 * (h + p) / 2 * (1 - (h + p) / 2) - p * (1 - p) / 2)
        ),
    }


@pytest.mark.parametrize("name", definitions(make_problem()))
def test_mean_and_variance_are_those_of_the_definition(name):
    """Mean within 4.5 standard errors; variance within 10% at 20000 draws."""
    problem = make_problem(seed=1)
    mean, variance = exact_moments(problem, definitions(problem)[name])
    result = compare_estimators(problem, [name], n_draws=20000)[name]
    error = np.sqrt(variance / 20000)
    assert np.abs((result["mean"] - mean) / np.maximum(error, 1e-12)).max() < 4.5
    np.testing.assert_allclose(result["variance"], variance.sum(1).mean(), rtol=0.1)


def test_local_expectation_is_the_conditional_mean_of_reinforce():
    problem = make_problem(seed=2)
    of_all = definitions(problem)
    names = ("reinforce", "local_expectation")
    moments = [exact_moments(problem, of_all[name]) for name in names]
    means, variances = zip(*moments, strict=True)
    np.testing.assert_allclose(*means, atol=1e-12)
    assert (variances[1] < variances[0]).all()


def smoothed(problem, size, weights, moves):
    """Gradient of the expected loss averaged over moves of one coordinate."""
    out = np.zeros(problem.a.shape)
    for k in range(out.shape[1]):
        for weight, move in zip(weights, moves, strict=True):
            a = problem.a.copy()
            a[:, k] += size * move
            shifted = GateProblem(a, problem.base, problem.contribution, problem.target)
            loss, _ = diagnostics.exact_gradient(shifted)
            out[:, k] += weight * loss
    return out


def test_finite_differences_have_the_mean_of_their_definition():
    problem = make_problem(seed=3)
    expected = smoothed(problem, 0.5, [1.0, -1.0], [1.0, -1.0])
    result = compare_estimators(problem, ["finite_differences"], n_draws=8000)
    result = result["finite_differences"]
    z = (result["mean"] - expected) / result["standard_error"]
    assert np.abs(z).max() < 4.5


@pytest.mark.parametrize("name", ["spsa", "node_perturbation"])
def test_perturbations_of_all_gates_have_little_bias(name):
    """Of order size^2: the direction is right, as SPSA's and the nodes' must be."""
    problem = make_problem(seed=4)
    result = compare_estimators(problem, [name], n_draws=40000)[name]
    assert result["cosine"] > 0.98
    exact = diagnostics.exact_gradient(problem)[1]
    slack = 0.1 * np.abs(exact).max() + 4.5 * result["standard_error"]
    assert (np.abs(result["bias"]) < slack).all()


def test_sts_is_the_pathwise_part():
    """Eq. 2 for fixed noise: value's derivative alone, not that of the draw."""
    problem = make_problem(seed=5)
    value = np.sqrt(expit(problem.a))
    _, _, by_value = enumerate_gates(
        problem.base, problem.contribution, value, value, problem.target
    )
    expected = by_value * value * (1 - expit(problem.a)) / 2
    result = compare_estimators(problem, ["sts"], n_draws=20000)["sts"]
    z = (result["mean"] - expected) / result["standard_error"]
    assert np.abs(z).max() < 4.5


def test_concrete_is_the_gradient_of_the_relaxed_loss():
    """The relaxed loss's own derivative, by quadrature over one gate's noise."""
    problem = make_problem(2, 1, 3, seed=6)
    u = (np.arange(200000) + 0.5) / 200000
    noise = np.log(u / (1 - u))

    def relaxed(a):
        h = expit((a[None] + noise[:, None, None]) / 0.5)
        return problem.loss(h).mean(axis=0)

    expected = (relaxed(problem.a + 1e-4) - relaxed(problem.a - 1e-4)) / 2e-4
    result = compare_estimators(problem, ["concrete"], n_draws=20000)["concrete"]
    z = (result["mean"][:, 0] - expected) / result["standard_error"][:, 0]
    assert np.abs(z).max() < norm.isf(1e-5)


@pytest.mark.parametrize("experts_per_gate", [1, 4])
@pytest.mark.parametrize("n_layers", [1, 2])
def test_problem_of_a_network(n_layers, experts_per_gate):
    """Losses of sampled gates are the network's own."""
    shape = Shape(
        6, 7, (5, 4)[:n_layers], (12, 8)[-n_layers:], 3, (experts_per_gate,) * n_layers
    )
    network = make_network(make("st"), shape)
    for layer in network.layers[:-1]:
        layer.threshold = 0.1
    X, y = make_batch(shape)
    problem = GateProblem.from_network(network, X, y)
    last = network.layers[-1]
    last.threshold = 0.2
    h = (problem.a > 0.2).astype(float)
    proba = network.predict_proba(X)
    expected = -np.log(proba[np.arange(len(y)), y])
    np.testing.assert_allclose(problem.loss(h), expected, rtol=2e-5)


@pytest.mark.parametrize("experts_per_gate", [1, 3])
def test_training_estimates_local_expectations(experts_per_gate):
    """The engine's own da, with the gates that it sampled, against flipped losses."""
    shape = Shape(9, 7, (5,), (12,), 4, (experts_per_gate,))
    gater = make("sbn", estimator="local_expectation", penalty=None)
    network = make_network(gater, shape)
    X, y = make_batch(shape)
    problem = GateProblem.from_network(network, X, y)
    found = network.gradient(X, y, step=3)
    z = oracle_noise(network, len(X), 3)[0].uniform
    h = (z.T < expit(problem.a)).astype(float)
    np.testing.assert_array_equal(found["gates"][0], h.T)
    p = expit(problem.a)
    expected = p * (1 - p) * own_difference(problem, h) / len(X)
    np.testing.assert_allclose(found["da"][0], expected.T, rtol=1e-4, atol=1e-7)


def test_display():
    pytest.importorskip("matplotlib").use("Agg")
    display = diagnostics.GradientEstimatorDisplay(
        compare_estimators(make_problem(), n_draws=10)
    ).plot()
    assert len(display.ax_.lines) == len(ESTIMATORS)
