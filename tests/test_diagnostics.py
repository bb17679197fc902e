"""The exact oracles against others, each estimator against its definition.

What estimators are compared with is written here once more, one example at a time, as a
list of everything that can happen with its probability; nothing is imported for it.
"""

import importlib.util
import itertools
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers import Shape, make, make_batch, make_network, oracle_noise
from scipy import integrate
from scipy.special import expit, log_softmax, logit
from scipy.stats import norm

from stochnet import GatedMLPClassifier, diagnostics
from stochnet._kernels.enumeration import enumerate_gates
from stochnet.diagnostics import (
    ESTIMATORS,
    GateProblem,
    compare_estimators,
    estimation_cost,
    exact_gradient,
)

DENSE_UNITS = ["noisy_rectifier", "concrete", "hard_concrete"]


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


# ---- exact gradients of gates that have a density ----


def own_gate(unit, noise):
    """Value of a gate as a function of its pre-activation plus standard noise."""
    t = noise
    if unit == "noisy_rectifier":
        return np.maximum(t, 0)
    if unit == "concrete":
        return expit(t / 0.5)
    return np.clip(-0.1 + 1.2 * expit(1.5 * t), 0, 1)


def own_density(unit, noise):
    if unit == "noisy_rectifier":
        return norm.pdf(noise)
    return expit(noise) * expit(-noise)


def own_kinks(unit, a):
    """Noise at which the gate bends."""
    if unit == "noisy_rectifier":
        return [-a]
    if unit == "concrete":
        return [-a - 5, -a, -a + 5]
    return [logit(1 / 12) / 1.5 - a, logit(11 / 12) / 1.5 - a]


def integrated_loss(problem, unit, a):
    """Expected loss of the first example with pre-activations a, by scipy.quad."""
    end = 9 if unit == "noisy_rectifier" else 40

    def given(values):
        return own_loss(problem, np.array([values]))[0]

    def over(k, values):
        def integrand(noise):
            h = own_gate(unit, a[k] + noise)
            inner = given if k == len(a) - 1 else partial(over, k + 1)
            return own_density(unit, noise) * inner([*values, h])

        points = own_kinks(unit, a[k])
        return integrate.quad(
            integrand, -end, end, points=points, epsabs=1e-9, epsrel=1e-8, limit=200
        )[0]

    return over(0, [])


@pytest.mark.parametrize("a", [-3.0, 0.3, 2.0])
@pytest.mark.parametrize("unit", DENSE_UNITS)
def test_quadrature_over_one_gate(unit, a):
    problem = make_problem(1, 1, 3, seed=7)
    problem = GateProblem([[a]], problem.base, problem.contribution, problem.target)
    loss, gradient = exact_gradient(problem, unit)
    slope = integrated_loss(problem, unit, [a + 1e-3])
    slope = (slope - integrated_loss(problem, unit, [a - 1e-3])) / 2e-3
    assert loss[0] == pytest.approx(integrated_loss(problem, unit, [a]), abs=1e-8)
    assert gradient[0, 0] == pytest.approx(slope, abs=2e-7)


@pytest.mark.parametrize("unit", DENSE_UNITS)
def test_quadrature_over_two_gates(unit):
    """Loss by nested quadrature, gradient by differences of losses."""
    problem = make_problem(1, 2, 3, seed=8)
    loss, gradient = exact_gradient(problem, unit)
    expected = integrated_loss(problem, unit, list(problem.a[0]))
    assert loss[0] == pytest.approx(expected, abs=1e-7)
    check_slopes(problem, unit, gradient)


def check_slopes(problem, unit, gradient):
    for k in range(problem.n_gates):
        step = np.zeros(problem.n_gates)
        step[k] = 1e-4
        pair = [
            exact_gradient(
                GateProblem(
                    problem.a + sign * step,
                    problem.base,
                    problem.contribution,
                    problem.target,
                    problem.noise_scale,
                ),
                unit,
            )[0]
            for sign in (1, -1)
        ]
        slope = (pair[0] - pair[1]) / 2e-4
        np.testing.assert_allclose(gradient[:, k], slope, atol=1e-7)


@pytest.mark.parametrize("unit", DENSE_UNITS)
def test_quadrature_over_three_gates(unit):
    """On a grid of equally probable noises; and one of the gates may do nothing."""
    problem = make_problem(2, 3, 3, seed=9)
    loss, gradient = exact_gradient(problem, unit)
    check_slopes(problem, unit, gradient)
    u = (np.arange(60) + 0.5) / 60
    noise = norm.ppf(u) if unit == "noisy_rectifier" else logit(u)
    values = own_gate(unit, problem.a[..., None] + noise)
    for b in range(2):
        h = np.stack(np.meshgrid(*values[b], indexing="ij"), axis=-1).reshape(-1, 3)
        one = GateProblem(*(v[b : b + 1] for v in arrays(problem)))
        repeated = GateProblem(*(np.repeat(v, len(h), axis=0) for v in arrays(one)))
        assert loss[b] == pytest.approx(own_loss(repeated, h).mean(), rel=3e-3)
    problem.contribution[:, 1] = 0
    loss, gradient = exact_gradient(problem, unit)
    few_loss, few = exact_gradient(problem.restrict([0, 2]), unit)
    np.testing.assert_allclose(loss, few_loss, rtol=1e-12)
    np.testing.assert_allclose(gradient[:, [0, 2]], few, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(gradient[:, 1], 0, atol=1e-9)


@pytest.mark.parametrize("unit", DENSE_UNITS)
def test_more_nodes_change_nothing(unit):
    """Also where the loss bends much, and where gates are decided."""
    small = make_problem(4, 1, 5, seed=17)
    a = np.array([[-6.0], [-2.0], [0.0], [3.0]])
    problem = GateProblem(a, small.base, 10 * small.contribution, small.target)
    for few, many in zip(
        exact_gradient(problem, unit),
        exact_gradient(problem, unit, n_nodes=500),
        strict=True,
    ):
        rtol = 1e-5 if unit == "concrete" else 1e-8
        np.testing.assert_allclose(few, many, rtol=rtol)


def arrays(problem):
    return problem.a, problem.base, problem.contribution, problem.target


def test_noise_scale_is_a_change_of_units():
    """Noise of 2 with contributions of 1/2 is noise of 1, with a halved."""
    problem = make_problem(2, 2, 3, seed=10)
    doubled = GateProblem(
        2 * problem.a, problem.base, problem.contribution / 2, problem.target, 2.0
    )
    for values in zip(
        exact_gradient(problem, "noisy_rectifier"),
        exact_gradient(doubled, "noisy_rectifier"),
        (1, 2),
        strict=True,
    ):
        np.testing.assert_allclose(values[0], values[2] * values[1], rtol=1e-10)


# ---- each estimator's mean and variance, from everything that can happen ----


class Example:
    """One example of a problem, losses and slopes of m configurations at a time."""

    def __init__(self, problem, row):
        self.a, self.base = problem.a[row], problem.base[row]
        self.contribution = problem.contribution[row]
        self.target = problem.target[row]
        self.p = 1 / (1 + np.exp(-self.a))

    def log_probability(self, h):
        return log_softmax(self.base + h @ self.contribution, axis=1)

    def loss(self, h):
        return -self.log_probability(h)[:, self.target]

    def slope(self, h):
        delta = np.exp(self.log_probability(h))
        delta[:, self.target] -= 1
        return delta @ self.contribution.T

    def difference(self, h):
        out = np.empty(h.shape)
        for k in range(h.shape[1]):
            on, off = h.copy(), h.copy()
            on[:, k], off[:, k] = 1, 0
            out[:, k] = self.loss(on) - self.loss(off)
        return out


def product(*gates):
    """All joint outcomes of independent gates.

    Each of `gates` is (probabilities, values (n, d)); returns probabilities (m,) and d
    arrays (m, n_gates).
    """
    index = np.indices([len(w) for w, _ in gates]).reshape(len(gates), -1)
    weight = np.prod([w[i] for (w, _), i in zip(gates, index, strict=True)], axis=0)
    values = [np.asarray(v, float)[i] for (_, v), i in zip(gates, index, strict=True)]
    return weight, *np.moveaxis(np.stack(values, axis=1), -1, 0)


def binary(example):
    """Weights and gates of all configurations."""
    return product(*[(np.array([1 - p, p]), [[0], [1]]) for p in example.p])


def uniform(n):
    return (np.arange(n) + 0.5) / n, np.full(n, 1 / n)


def own_st(example, factor=lambda h, p: 1.0):
    weight, h = binary(example)
    return weight, factor(h, example.p) * example.slope(h)


def own_reinforce(baseline):
    def outcomes(example):
        weight, h = binary(example)
        loss = example.loss(h)[:, None]
        return weight, (h - example.p) * (loss - baseline(example, weight, h, loss))

    return outcomes


def own_mean_baseline(example, weight, h, loss):
    return weight @ loss


def own_unit_baseline(example, weight, h, loss):
    square = (h - example.p) ** 2
    return (weight @ (square * loss)) / (weight @ square)


def own_disarm(example):
    """b = 1[u < p] and 1[1 - u < p]: both, none, or either with equal probability."""
    gates = []
    for p in example.p:
        either = min(p, 1 - p)
        weight = np.array([max(1 - 2 * p, 0), max(2 * p - 1, 0), either, either])
        gates.append((weight, [[0, 0], [1, 1], [1, 0], [0, 1]]))
    weight, b, other = product(*gates)
    change = (example.loss(b) - example.loss(other))[:, None] / 2
    sign = np.where(other == 0, 1, -1) * (b != other)
    return weight, change * sign / (1 + np.exp(-np.abs(example.a)))


def own_local_expectation(example):
    weight, h = binary(example)
    return weight, example.p * (1 - example.p) * example.difference(h)


def own_probe(example, q=0.1):
    """Active, inactive and looked at, inactive and not."""
    weight, h, factor = product(
        *[
            (
                np.array([p, (1 - p) * q, (1 - p) * (1 - q)]),
                [[1, 1], [0, 1 / q], [0, 0]],
            )
            for p in example.p
        ]
    )
    return weight, factor * example.p * (1 - example.p) * example.difference(h)


def own_reinmax(example):
    """2 grad at (p + D)/2 minus half of straight-through with p's Jacobian."""
    weight, h = binary(example)
    p1 = (example.p + h) / 2
    step = 2 * p1 * (1 - p1) - 0.5 * example.p * (1 - example.p)
    return weight, example.slope(h) * step


def own_pair(low, high):
    """Gates with the same u at two probabilities: (fires at low, fires at high)."""
    both, one = min(low, high), abs(high - low)
    values = [[0, 0], [1, 1], [0, 1] if high > low else [1, 0]]
    return np.array([1 - both - one, both, one]), values


def own_spsa(example, size=1.0):
    """All signs, and for each the draws that can come out."""
    results = []
    for sign in itertools.product([-1, 1], repeat=len(example.a)):
        sign = np.array(sign)
        low, high = expit(example.a - size * sign), expit(example.a + size * sign)
        weight, below, above = product(*map(own_pair, low, high))
        change = (example.loss(above) - example.loss(below))[:, None]
        results.append((weight / 2 ** len(sign), change / (2 * size * sign)))
    return tuple(np.concatenate(parts) for parts in zip(*results, strict=True))


def own_node_perturbation(example, size=0.5):
    """Gaussian moves on a fine grid, with the draws before and after each."""
    u, each = uniform(150)
    gates = []
    for a, p in zip(example.a, example.p, strict=True):
        weights, values = [], []
        for move in norm.ppf(u):
            weight, pairs = own_pair(p, expit(a + size * move))
            weights += list(weight * each[0])
            values += [[*pair, move] for pair in pairs]
        gates.append((np.array(weights), values))
    weight, h, moved, move = product(*gates)
    change = (example.loss(moved) - example.loss(h))[:, None]
    return weight, change * move / size


def own_finite_differences(example, size=0.5):
    """The draws shared by all steps: where u lies among the three probabilities."""
    gates = []
    for a, p in zip(example.a, example.p, strict=True):
        low, high = expit(a - size), expit(a + size)
        weight = np.array([low, p - low, high - p, 1 - high])
        gates.append((weight, [[1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0]]))
    weight, below, h, above = product(*gates)
    out = np.empty(h.shape)
    for k in range(h.shape[1]):
        first, last = h.copy(), h.copy()
        first[:, k], last[:, k] = above[:, k], below[:, k]
        out[:, k] = (example.loss(first) - example.loss(last)) / (2 * size)
    return weight, out


def own_concrete(example, temperature=0.5, hard=False):
    u, each = uniform(700)
    odds = (u / (1 - u)) ** (1 / temperature)
    gates = []
    for a in example.a:
        scaled = odds * np.exp(a / temperature)
        gates.append((each, (scaled / (1 + scaled))[:, None]))
    weight, soft = product(*gates)
    h = np.round(soft) if hard else soft
    return weight, example.slope(h) * soft * (1 - soft) / temperature


def own_hard_concrete(example):
    u, each = uniform(700)
    gates = []
    for a in example.a:
        s = 1 / (1 + np.exp(-1.5 * (np.log(u / (1 - u)) + a)))
        gates.append((each, s[:, None]))
    weight, s = product(*gates)
    h = np.minimum(1, np.maximum(0, 1.2 * s - 0.1))
    moves = (h > 0) & (h < 1)
    return weight, np.where(moves, 1.2 * 1.5 * s * (1 - s), 0) * example.slope(h)


def own_noisy_rectifier(example):
    """Slices of the density above 0, all else at 0."""
    gates = []
    for a in example.a:
        edges = np.linspace(0, a + 8, 501)
        middle = (edges[1:] + edges[:-1]) / 2
        weight = norm.pdf(middle - a) * edges[1]
        gates.append((np.append(weight, 1 - weight.sum()), np.append(middle, 0)))
    weight, h = product(*[(w, v[:, None]) for w, v in gates])
    return weight, (h > 0) * example.slope(h)


def own_sts(example):
    root = np.sqrt(example.p)
    weight, b = product(*[(np.array([1 - r, r]), [[0], [1]]) for r in root])
    # d sqrt(p) / da = sqrt(p) (1 - p) / 2
    return weight, b * root * (1 - example.p) / 2 * example.slope(b * root)


DEFINITIONS = {
    "st": own_st,
    "st_active": lambda e: own_st(e, lambda h, p: h),
    "st_derivative": lambda e: own_st(e, lambda h, p: p * (1 - p)),
    "reinmax": own_reinmax,
    "concrete": own_concrete,
    "concrete_st": lambda e: own_concrete(e, hard=True),
    "reinforce": own_reinforce(lambda *_: 0.0),
    "reinforce_mean": own_reinforce(own_mean_baseline),
    "reinforce_unit": own_reinforce(own_unit_baseline),
    "disarm": own_disarm,
    "local_expectation": own_local_expectation,
    "local_expectation_probe": own_probe,
    "spsa": own_spsa,
    "node_perturbation": own_node_perturbation,
    "finite_differences": own_finite_differences,
    "sts": own_sts,
    "noisy_rectifier": own_noisy_rectifier,
    "concrete_relaxed": own_concrete,
    "hard_concrete": own_hard_concrete,
}
ON_A_GRID = {"concrete", "concrete_st", "concrete_relaxed", "hard_concrete"}
ON_A_GRID |= {"noisy_rectifier", "node_perturbation"}
N_DRAWS = 20000


def moments(definition, problem):
    """Mean (rows, gates); squared distance from it, and that one's variance (rows,)."""
    means, variances, spreads = [], [], []
    for row in range(len(problem.a)):
        weight, estimate = definition(Example(problem, row))
        assert weight.sum() == pytest.approx(1, abs=1e-12)
        mean = weight @ estimate
        square = ((estimate - mean) ** 2).sum(axis=1)
        means.append(mean)
        variances.append(weight @ square)
        spreads.append(weight @ square**2 - (weight @ square) ** 2)
    return np.array(means), np.array(variances), np.array(spreads)


def check_moments(name, definition, problem, options=None):
    """z-scores below 4.5 for each mean, and for the variance, summed over gates.

    Of 6 means and one variance; false alarms have probability 5e-5. For the variance
    there is 1% for the grids and for the estimate of a baseline.
    """
    mean, variance, spread = moments(definition, problem)
    result = compare_estimators(problem, [name], N_DRAWS, 1, options)[name]
    z = (result["mean"] - mean) / result["standard_error"]
    assert np.abs(z).max() < 4.5
    error = np.sqrt(spread.mean() / len(spread) / N_DRAWS)
    slack = 0.01 * variance.mean()
    assert abs(result["variance"] - variance.mean()) < 4.5 * error + slack
    return result, mean


@pytest.mark.parametrize("name", ESTIMATORS)
def test_mean_and_variance_are_those_of_the_definition(name):
    """For baselines one example, as they are averages over those of a batch."""
    baseline = name in ("reinforce_mean", "reinforce_unit")
    problem = make_problem(
        1 if baseline else 3, 2 if name in ON_A_GRID else 3, 4, seed=11
    )
    result, mean = check_moments(name, DEFINITIONS[name], problem)
    row = ESTIMATORS[name]
    exact = exact_gradient(problem, row.unit)[1]
    np.testing.assert_allclose(result["bias"], result["mean"] - exact, atol=1e-14)
    # the definition is unbiased where the table says so, and else it is not
    bias = np.abs(mean - exact).max()
    assert bias < 1e-4 if row.unbiased else bias > 2e-3


def test_unbiased_estimators_of_many_gates():
    """Largest |z| of 108 means at 20000 draws: below 4.5, probability 7e-4."""
    problem = make_problem(3, 6)
    unbiased = [
        name
        for name, row in ESTIMATORS.items()
        if row.unbiased and row.unit == "bernoulli"
    ]
    results = compare_estimators(problem, unbiased, n_draws=N_DRAWS)
    assert len(results) == 6
    for name, result in results.items():
        z = result["bias"] / result["standard_error"]
        assert np.abs(z).max() < 4.5, name
        assert result["cosine"] > 0.97
        assert result["squared_bias"] < 1e-3 * result["variance"]


@pytest.mark.parametrize(
    ("name", "definition", "options"),
    [
        ("spsa", lambda e: own_spsa(e, 0.25), {"size": 0.25}),
        (
            "node_perturbation",
            lambda e: own_node_perturbation(e, 1.0),
            {"size": 1.0},
        ),
        (
            "finite_differences",
            lambda e: own_finite_differences(e, 0.1),
            {"size": 0.1},
        ),
        ("local_expectation_probe", lambda e: own_probe(e, 0.4), {"probability": 0.4}),
        ("concrete", lambda e: own_concrete(e, 1.0), {"temperature": 1.0}),
        ("reinforce", own_reinforce(lambda *_: 2.0), {"baseline": 2.0}),
    ],
)
def test_options(name, definition, options):
    problem = make_problem(3, 2, 4, seed=12)
    check_moments(name, definition, problem, {name: options})


@pytest.mark.parametrize("name", ["concrete_relaxed", "hard_concrete"])
def test_temperature_reaches_the_exact_gradient(name):
    """As the mean shows, 20000 draws of 6 gradients: below 4.5."""
    problem = make_problem(3, 2, 4, seed=13)
    options = {name: {"temperature": 1.5}}
    result = compare_estimators(problem, [name], N_DRAWS, options=options)[name]
    assert np.abs(result["bias"] / result["standard_error"]).max() < 4.5
    default = exact_gradient(problem, ESTIMATORS[name].unit)[1]
    assert np.abs((result["mean"] - default) / result["standard_error"]).max() > 9


def test_noise_scale_reaches_estimate_and_exact_gradient():
    problem = GateProblem(*arrays(make_problem(3, 2, 4, seed=14)), noise_scale=3.0)
    result = compare_estimators(problem, ["noisy_rectifier"], N_DRAWS)
    result = result["noisy_rectifier"]
    assert np.abs(result["bias"] / result["standard_error"]).max() < 4.5
    default = exact_gradient(GateProblem(*arrays(problem)), "noisy_rectifier")[1]
    assert np.abs((result["mean"] - default) / result["standard_error"]).max() > 9


def test_perturbations_are_of_order_size_squared():
    """Halving the size quarters the bias of the definitions that were checked above."""
    problem = make_problem(1, 3, 4, seed=15)
    exact = exact_gradient(problem)[1]
    for definition in (own_spsa, own_finite_differences):
        biases = [
            np.abs(
                moments(lambda e, f=definition, s=size: f(e, s), problem)[0] - exact
            ).max()
            for size in (0.2, 0.1)
        ]
        assert biases[0] / biases[1] == pytest.approx(4, rel=0.05)


def test_perturbations_of_spsa_are_plus_and_minus_size():
    """Quotients of one difference by +size and -size: magnitudes equal, signs fair."""
    problem = make_problem(1, 8)
    generator = np.random.default_rng(0)
    z = generator.random((500, *problem.a.shape))
    estimates = ESTIMATORS["spsa"].function(problem, z, generator, size=0.7)
    magnitudes = np.abs(estimates)
    np.testing.assert_allclose(magnitudes, magnitudes[..., :1].repeat(8, axis=2))
    signs = np.sign(estimates * estimates[..., :1])[np.any(estimates, axis=2)]
    assert set(signs[:, 1:].ravel()) == {-1, 1}
    assert abs(signs[:, 1:].mean()) < 4.5 / np.sqrt(signs[:, 1:].size)


def test_eq_10_is_the_best_baseline():
    """Exact variances: none, the mean loss, Eq. 10, and a bit beside Eq. 10."""
    problem = make_problem(1, 3, 4, seed=16)

    def beside(*arguments):
        return own_unit_baseline(*arguments) + 0.05

    baselines = [own_unit_baseline, beside, own_mean_baseline, lambda *_: 0.0]
    variances = [moments(own_reinforce(b), problem)[1][0] for b in baselines]
    assert variances[0] < min(variances[1:])


def test_local_expectation_is_the_conditional_mean_of_reinforce():
    problem = make_problem(3, 5, seed=2)
    mean, variance, _ = moments(DEFINITIONS["reinforce"], problem)
    local_mean, local_variance, _ = moments(own_local_expectation, problem)
    np.testing.assert_allclose(mean, local_mean, atol=1e-12)
    assert (local_variance < variance).all()


# ---- the comparison itself ----


def test_wrong_arguments():
    problem = make_problem(1, 21)
    with pytest.raises(ValueError, match="at most 20 gates, got 21"):
        exact_gradient(problem)
    with pytest.raises(ValueError, match="'st': .* at most 20 gates, got 21"):
        compare_estimators(problem)
    for unit in DENSE_UNITS:
        with pytest.raises(ValueError, match="at most 3 gates, got 4"):
            exact_gradient(make_problem(1, 4), unit)
    with pytest.raises(ValueError, match="unit must be one of 'bernoulli', 'sts', 'no"):
        exact_gradient(make_problem(), "rectifier")
    with pytest.raises(ValueError, match=r"no parameters, got \['temperature'\]"):
        exact_gradient(make_problem(), temperature=1)
    with pytest.raises(ValueError, match=r"Unknown estimators \['no'\]"):
        compare_estimators(make_problem(), ["no"])
    with pytest.raises(ValueError, match=r"Unknown estimators \['no'\]"):
        compare_estimators(make_problem(), ["st"], options={"no": {}})
    with pytest.raises(ValueError, match=r"'spsa' has no option 'no'; .*\['size'\]"):
        compare_estimators(make_problem(), ["spsa"], options={"spsa": {"no": 1}})
    with pytest.raises(ValueError, match="n_draws must be at least 2"):
        compare_estimators(make_problem(), n_draws=1)
    for q in (0, 1.5):
        options = {"local_expectation_probe": {"probability": q}}
        with pytest.raises(ValueError, match="probability must be in"):
            compare_estimators(make_problem(), list(options), options=options)


def test_estimators_without_a_truth_are_left_out_or_refused():
    small, large = (
        compare_estimators(make_problem(1, n, 3), n_draws=2) for n in (3, 4)
    )
    assert list(small) == list(ESTIMATORS)
    dense = {n for n, row in ESTIMATORS.items() if row.unit in DENSE_UNITS}
    assert dense == {"noisy_rectifier", "concrete_relaxed", "hard_concrete"}
    assert set(large) == set(ESTIMATORS) - dense
    for name in dense:
        with pytest.raises(ValueError, match=f"'{name}': .*at most 3 gates, got 4"):
            compare_estimators(make_problem(1, 4), [name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": np.zeros((3, 4))}, "Shapes do not fit"),
        ({"base": np.zeros(4)}, "Shapes do not fit"),
        ({"contribution": np.zeros((5, 4))}, "Shapes do not fit"),
        ({"target": [0, 1, 4]}, r"outside \[0, 4\)"),
        ({"target": [0, -1, 1]}, r"outside \[0, 4\)"),
        ({"noise_scale": 0.0}, "noise_scale must be positive"),
    ],
)
def test_wrong_problems(change, message):
    known = vars(make_problem()).copy()
    with pytest.raises(ValueError, match=message):
        GateProblem(**(known | change))


def test_wrong_arguments_of_the_enumeration():
    p = make_problem()
    with pytest.raises(ValueError, match="Shapes do not fit"):
        enumerate_gates(p.base, p.contribution, p.a[:, :2], p.a, p.target)
    with pytest.raises(ValueError, match=r"outside \[0, 4\)"):
        enumerate_gates(p.base, p.contribution, p.a, p.a, p.target + 4)


def test_differences_of_some_gates_are_those_of_all():
    problem = make_problem()
    rng = np.random.default_rng(0)
    h, where = rng.integers(0, 2, (2, 7, *problem.a.shape))
    h, where = h.astype(float), where == 1
    found, some = problem.difference(h), problem.difference(h, where)
    np.testing.assert_allclose(some, np.where(where, found, 0), rtol=1e-13, atol=1e-15)
    for draw in range(7):
        expected = own_difference(problem, h[draw])
        np.testing.assert_allclose(found[draw], expected, atol=1e-13)


def own_difference(problem, h):
    rows = [Example(problem, b).difference(h[b : b + 1]) for b in range(len(h))]
    return np.concatenate(rows)


def test_restricted_problem_has_the_losses_of_the_whole():
    problem = make_problem()
    rng = np.random.default_rng(1)
    h = rng.random(problem.a.shape)
    some = problem.restrict([3, 1], h)
    np.testing.assert_allclose(some.loss(h[:, [3, 1]]), problem.loss(h), rtol=1e-12)
    np.testing.assert_array_equal(some.a, problem.a[:, [3, 1]])
    typical = (problem.a > 0).astype(float)
    some = problem.restrict([0])
    np.testing.assert_allclose(some.loss(typical[:, :1]), problem.loss(typical))


@pytest.mark.parametrize("n", [4, 9])
def test_counted_costs(n):
    """Perturbations of all gates take 2 losses of n gates, single ones 2 n of them."""
    names = ["st", "reinforce_unit", "spsa", "node_perturbation", "finite_differences"]
    names += ["local_expectation", "disarm"]
    problem = make_problem(2, n)
    costs = estimation_cost(problem, names, n_draws=3, n_repeats=2)
    expected = {
        "st": (1, 2 * n),  # there and back
        "reinforce_unit": (1, n),
        "spsa": (2, 2 * n),
        "node_perturbation": (2, 2 * n),
        "finite_differences": (2 * n, 2 * n**2),
        "local_expectation": (n + 1, 2 * n),
        "disarm": (2, 2 * n),
    }
    for name, cost in costs.items():
        counts = cost["loss_evaluations"], cost["gate_contributions"]
        assert counts == expected[name], name
        assert cost["seconds"] > 0
    results = compare_estimators(problem, names, n_draws=300)
    for name, result in results.items():
        counts = result["loss_evaluations"], result["gate_contributions"]
        assert counts == expected[name], name
        assert result["variance_seconds"] == result["variance"] * result["seconds"]


def test_probe_looks_at_the_expected_number_of_gates():
    """1 + sum of p + (1 - p) q; 6000 independent gates, |z| below 4.5."""
    problem = make_problem(1, 6)
    name = "local_expectation_probe"
    result = compare_estimators(problem, [name], n_draws=1000)[name]
    looked = expit(problem.a[0]) * 0.9 + 0.1
    error = np.sqrt((looked * (1 - looked)).sum() / 1000)
    assert abs(result["loss_evaluations"] - 1 - looked.sum()) < 4.5 * error


def test_cost_is_measured_for_any_number_of_gates():
    problem = make_problem(1, 40)
    costs = estimation_cost(problem, ESTIMATORS, n_draws=2, n_repeats=1)
    assert list(costs) == list(ESTIMATORS)
    with pytest.raises(ValueError, match="Unknown"):
        estimation_cost(problem, ["no"])


# ---- networks ----


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


def fitted_or_not(fitted, **options):
    X, y = make_batch(Shape(n_rows=40))
    labels = np.array(["c", "a", "b"])[y]
    options |= {"density": 0.4, "random_state": 0, "max_iter": 2}
    model = GatedMLPClassifier((16, 12), gater_hidden_size=4, **options)
    if fitted:
        model.partial_fit(X, labels, classes=["a", "b", "c"])
    return model, X, labels


def test_problem_of_a_fitted_estimator():
    """Its losses with the gates of prediction are the estimator's own."""
    model, X, labels = fitted_or_not(True)
    problem = GateProblem.from_estimator(model, X, labels)
    h = model.gates(X)[-1].toarray()
    codes = np.searchsorted(["a", "b", "c"], labels)
    chosen = model.predict_proba(X)[np.arange(40), codes]
    np.testing.assert_allclose(problem.loss(h), -np.log(chosen), rtol=2e-5)
    with pytest.raises(ValueError, match=r"not classes: \['d'\]"):
        GateProblem.from_estimator(model, X, np.where(labels == "a", "d", labels))


@pytest.mark.parametrize("gater", ["st", "noisy_rectifier"])
def test_problem_of_an_estimator_that_is_not_fitted(gater):
    """That of its first network, whose first layer fires as densely as it is to."""
    model, X, labels = fitted_or_not(False, gater=gater)
    if gater == "noisy_rectifier":
        model.set_params(noise_scale=0.5)
    problem = GateProblem.from_estimator(model, X, labels)
    assert not model.__sklearn_is_fitted__()
    assert problem.noise_scale == (0.5 if gater == "noisy_rectifier" else 1.0)
    assert problem.a.shape == (40, 12)
    model.set_params(learning_rate_init=1e-30, gater_learning_rate_init=1e-30)
    model.set_params(penalty=None, max_norm=None, firing_rate_step=0)
    trained = GateProblem.from_estimator(model.fit(X, labels), X, labels)
    for first, second in zip(arrays(problem), arrays(trained), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)


def test_display():
    pytest.importorskip("matplotlib").use("Agg")
    display = diagnostics.GradientEstimatorDisplay(
        compare_estimators(make_problem(2, 3), n_draws=10)
    ).plot()
    assert len(display.ax_.lines) == len(ESTIMATORS)
    drawn = dict(zip(display.results, display.ax_.lines, strict=True))
    assert drawn["st"].get_fillstyle() == "full"
    for name, row in ESTIMATORS.items():
        assert not row.unbiased or drawn[name].get_fillstyle() == "none"
    model, X, labels = fitted_or_not(True)
    display = diagnostics.GradientEstimatorDisplay.from_estimator(
        model, X, labels, estimators=["st", "spsa"], n_draws=10, ax=display.ax_
    )
    assert [text.get_text() for text in display.ax_.texts[-2:]] == ["st", "spsa"]
    assert set(display.results) == {"st", "spsa"}


def test_example(monkeypatch, capsys, tmp_path):
    """With little of everything: each estimator in its cases, and orders of cost."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    path = Path(__file__).parents[1] / "examples" / "estimators.py"
    if not path.exists():
        pytest.skip("no examples here")
    spec = importlib.util.spec_from_file_location("estimators", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    monkeypatch.setattr(example, "CASES", [((128,), 0.3), ((128, 128), 0.3)])
    monkeypatch.setattr(example, "PLOTTED", ((128,), 0.3))
    monkeypatch.setattr(example, "N_GATES", (4, 8, 16, 32))
    output = tmp_path / "figure.png"
    arguments = ["--draws", "100", "--rows", "3", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["estimators.py", *arguments])
    example.main()
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    for name, row in ESTIMATORS.items():
        found = [line for line in lines if line[0] == name and len(line) == 8]
        assert len(found) == (1 if row.unit in DENSE_UNITS else 2)
        assert all((line[2] == "none") == row.unbiased for line in found)
    orders = {line[0]: float(line[-1]) for line in lines if line[0] in example.COSTS}
    assert orders.pop("finite_differences") == 2
    assert set(orders.values()) == {1}
    assert output.stat().st_size > 10000
