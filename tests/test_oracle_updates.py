"""The oracle's steps and controls against sums and single steps written out."""

import copy
import math

import numpy as np
import oracle
import pytest
from oracle_problems import SEED
from scipy.special import expit

SOLVERS = {
    "plain sgd": {"solver": "sgd", "momentum": 0.0, "nesterovs_momentum": False},
    "plain nesterov": {"solver": "sgd", "momentum": 0.0, "nesterovs_momentum": True},
    "momentum": {"solver": "sgd", "momentum": 0.8, "nesterovs_momentum": False},
    "nesterov": {"solver": "sgd", "momentum": 0.8, "nesterovs_momentum": True},
    "adam": {"solver": "adam", "momentum": 0.0, "nesterovs_momentum": False},
}
RATE, BETA_1, BETA_2, EPSILON = 0.05, 0.9, 0.99, 1e-3


def dense_row(weight, gradients, settings):
    """A row after its gradients, without recursions: sums over all of them."""
    momentum = settings["momentum"]
    for t in range(1, len(gradients) + 1):
        past = [(t - i, gradients[i - 1]) for i in range(1, t + 1)]
        if settings["solver"] == "adam":
            first = (1 - BETA_1) * sum(BETA_1**age * g for age, g in past)
            second = (1 - BETA_2) * sum(BETA_2**age * g**2 for age, g in past)
            rate = RATE * math.sqrt(1 - BETA_2**t) / (1 - BETA_1**t)
            weight = weight - rate * first / (np.sqrt(second) + EPSILON)
            continue
        if settings["nesterovs_momentum"]:
            # The step is that of the velocity one step ahead.
            past = [(age + 1, g) for age, g in past] + [(0, gradients[t - 1])]
        weight = weight - RATE * sum(momentum**age * g for age, g in past)
    return weight


@pytest.mark.parametrize("mask", ["all rows", "some rows"])
@pytest.mark.parametrize("name", SOLVERS)
def test_updates_equal_dense_sums_over_the_active_steps(name, mask):
    """All rows active: the dense update. Otherwise each row as if it slept.

    The gradients of inactive rows are not numbers, so that reading one shows.
    """
    rng = np.random.default_rng(SEED)
    n_steps, shape = 7, (5, 3)
    start = rng.normal(size=shape)
    gradients = rng.normal(size=(n_steps, *shape))
    active = np.ones((n_steps, len(start)), dtype=bool)
    if mask == "some rows":
        active = rng.uniform(size=active.shape) < 0.5
        active[:, 0], active[:, 1] = True, False
        gradients[~active] = np.nan
    weight, state = start, oracle.new_optimiser_state(start)
    for gradient, rows in zip(gradients, active, strict=True):
        weight, state = oracle.update(
            weight,
            gradient,
            state,
            rows,
            learning_rate=RATE,
            beta_1=BETA_1,
            beta_2=BETA_2,
            epsilon=EPSILON,
            **SOLVERS[name],
        )
    for k in range(len(start)):
        expected = dense_row(start[k], gradients[active[:, k], k], SOLVERS[name])
        np.testing.assert_allclose(weight[k], expected, rtol=1e-12)
    if SOLVERS[name]["solver"] == "adam":
        np.testing.assert_array_equal(state.step_count, active.sum(axis=0))


@pytest.mark.parametrize("name", SOLVERS)
def test_updates_leave_their_arguments_and_inactive_rows_alone(name):
    """Weights and state of inactive rows are bit-identical after an update."""
    rng = np.random.default_rng(SEED)
    weight = rng.normal(size=(4, 3))
    gradient = rng.normal(size=(4, 3))
    state = oracle.OptimiserState(
        *(rng.uniform(0.5, 1, size=(4, 3)) for _ in range(3)), [3, 1, 4, 1]
    )
    before = copy.deepcopy((weight, gradient, state))
    rows = np.array([True, False, True, False])
    new_weight, new_state = oracle.update(
        weight,
        gradient,
        state,
        rows,
        learning_rate=RATE,
        beta_1=BETA_1,
        beta_2=BETA_2,
        epsilon=EPSILON,
        **SOLVERS[name],
    )
    assert np.all(new_weight[rows] != weight[rows])
    np.testing.assert_array_equal(new_weight[~rows], weight[~rows])
    np.testing.assert_array_equal(weight, before[0])
    np.testing.assert_array_equal(gradient, before[1])
    changed = set()
    for field in ("velocity", "first_moment", "second_moment", "step_count"):
        old, new = getattr(state, field), getattr(new_state, field)
        np.testing.assert_array_equal(old, getattr(before[2], field))
        np.testing.assert_array_equal(new[~rows], old[~rows])
        if np.all(new[rows] != old[rows]):
            changed.add(field)
    adam = {"first_moment", "second_moment", "step_count"}
    assert changed == (adam if SOLVERS[name]["solver"] == "adam" else {"velocity"})


def test_update_refuses_an_unknown_solver():
    """A misspelt solver is not Adam by accident."""
    weight = np.zeros((1, 1))
    settings = SOLVERS["adam"] | {"solver": "adamw"}
    with pytest.raises(ValueError, match="adamw"):
        oracle.update(
            weight,
            weight,
            oracle.new_optimiser_state(weight),
            np.array([True]),
            learning_rate=RATE,
            beta_1=BETA_1,
            beta_2=BETA_2,
            epsilon=EPSILON,
            **settings,
        )


def test_max_norm_shortens_only_long_active_rows():
    """Long rows keep their direction; short, zero and inactive rows all."""
    weight = np.array([[3.0, 4.0], [0.6, 0.8], [0.0, 0.0], [6.0, 8.0], [0.0, 2.0]])
    active = np.array([True, True, True, False, True])
    original = weight.copy()
    result = oracle.max_norm(weight, 2.0, active)
    np.testing.assert_allclose(result[0], [1.2, 1.6], rtol=1e-14)
    np.testing.assert_array_equal(result[1:], original[1:])
    np.testing.assert_array_equal(weight, original)


# ---------------------------------------------------------------------------
# Control of the density
# ---------------------------------------------------------------------------


def test_firing_rate_control_by_hand():
    """The bias follows the rate that contains this mini-batch."""
    bias, rate = oracle.firing_rate_control(
        gate_bias=np.array([1.0, -1.0]),
        rate=np.array([0.2, 0.0]),
        fired_share=np.array([0.5, 0.0]),
        s=0.1,
        step=2.0,
        decay=0.75,
    )
    np.testing.assert_allclose(rate, [0.275, 0.0], rtol=1e-14)
    np.testing.assert_allclose(bias, [1.0 - 2.0 * 0.175, -1.0 + 2.0 * 0.1], rtol=1e-14)
    _, rate = oracle.firing_rate_control(np.zeros(1), np.ones(1), np.zeros(1), 0.1, 1.0)
    np.testing.assert_allclose(rate, [0.9], rtol=1e-14)


def test_firing_rate_control_reaches_the_target():
    """Closed loop with a gate that fires with probability sigm(bias)."""
    bias, rate = np.array([2.0, -6.0]), np.array([0.5, 0.5])
    for _ in range(2000):
        bias, rate = oracle.firing_rate_control(bias, rate, expit(bias), 0.1, 0.1)
    np.testing.assert_allclose(expit(bias), 0.1, atol=1e-6)


@pytest.mark.parametrize(
    ("density", "expected"),
    [(0.25, 2.5), (0.15, 2.0), (0.1, 2.0), (0.06, 2.0), (0.04, 1.6)],
)
def test_adaptive_weight_by_hand(density, expected):
    """Up above the band, down below it, unchanged inside."""
    weight = oracle.adaptive_weight(2.0, density, 0.1, 0.25, 0.1, 9.0, tolerance=0.051)
    assert weight == pytest.approx(expected, rel=1e-14)


def test_adaptive_weight_is_clipped_and_has_the_papers_tolerance():
    """Limits on both sides; a band of 0.01 unless told otherwise."""
    assert oracle.adaptive_weight(2.0, 0.5, 0.1, 0.25, 0.1, 2.2) == 2.2
    assert oracle.adaptive_weight(2.0, 0.0, 0.1, 0.25, 1.9, 2.2) == 1.9
    assert oracle.adaptive_weight(2.0, 0.109, 0.1, 0.25, 0.1, 9.0) == 2.0
    assert oracle.adaptive_weight(2.0, 0.111, 0.1, 0.25, 0.1, 9.0) == 2.5
    assert oracle.adaptive_weight(2.0, 0.091, 0.1, 0.25, 0.1, 9.0) == 2.0
    assert oracle.adaptive_weight(2.0, 0.089, 0.1, 0.25, 0.1, 9.0) == 1.6
