"""The exact gradients against another enumeration and `scipy.integrate`."""

import itertools
from functools import partial

import numpy as np
import pytest
from gate_problems import DENSE_UNITS, arrays, make_problem
from scipy import integrate
from scipy.special import expit, log_softmax, logit
from scipy.stats import norm

from stochnet import diagnostics
from stochnet.diagnostics import GateProblem, exact_gradient


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
