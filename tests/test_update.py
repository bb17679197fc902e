"""Optimisers and max-norm against the oracle, on rows that take turns."""

from dataclasses import replace

import numpy as np
import oracle
import pytest

from stochnet._kernels import arrays, expert, update
from stochnet.network import Optimizer, Parameters

N_UNITS, N_INPUTS, N_STEPS, BATCH = 13, 37, 10, 8

OPTIMIZERS = {
    "sgd": Optimizer("sgd", 0.1),
    "momentum": Optimizer("sgd", 0.05, momentum=0.9),
    "nesterov": Optimizer("sgd", 0.05, momentum=0.9, nesterovs_momentum=True),
    "adam": Optimizer("adam", 0.01),
    "adam, other rates": Optimizer("adam", 0.02, beta_1=0.5, beta_2=0.9, epsilon=0.1),
}
# Norms start near sqrt(37) = 6: a limit of 5 binds for most rows, and some stay below.
VARIANTS = {
    "plain": {},
    "alpha": {"alpha": 0.8},
    "max_norm": {"max_norm": 5.0},
    "alpha and max_norm": {"alpha": 0.8, "max_norm": 5.0},
}
optimizers = pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(replace(optimizer, **options), id=f"{name}-{variant}")
        for name, optimizer in OPTIMIZERS.items()
        for variant, options in VARIANTS.items()
    ],
)


def make_parameters(rng, optimizer, n_inputs=N_INPUTS):
    """Random weights, every fourth unit's of half the size."""
    weight = arrays.padded_rows(rng.normal(size=(N_UNITS, n_inputs)))
    weight[::4] *= 0.5
    n_states = optimizer.n_states
    return Parameters(
        n_inputs,
        weight,
        rng.normal(size=N_UNITS).astype(np.float32),
        [np.zeros_like(weight) for _ in range(n_states)],
        [np.zeros(N_UNITS, dtype=np.float32) for _ in range(n_states)],
        np.zeros(N_UNITS, dtype=np.int32),
    )


def everything(parameters):
    return [
        parameters.weight,
        parameters.bias,
        *parameters.weight_state,
        *parameters.bias_state,
        parameters.steps,
    ]


def draw_step(rng, n_inputs=N_INPUTS):
    """Gradients, NaN in the rows that get none."""
    active = rng.random(N_UNITS) < 0.4
    gradient = rng.normal(size=(N_UNITS, n_inputs)).astype(np.float32)
    bias_gradient = rng.normal(size=N_UNITS).astype(np.float32)
    gradient[~active] = bias_gradient[~active] = np.nan
    return active, gradient, bias_gradient


def settings(optimizer):
    """Arguments of `oracle.update`, rounded as the kernel's are."""
    names = "learning_rate", "momentum", "beta_1", "beta_2", "epsilon"
    return {
        "solver": optimizer.solver,
        "nesterovs_momentum": optimizer.nesterovs_momentum,
        **{name: float(np.float32(getattr(optimizer, name))) for name in names},
    }


class Expected:
    """The oracle's copy of parameters, and how often it has limited a norm."""

    def __init__(self, parameters):
        self.weight = parameters.values.astype(float)
        self.bias = parameters.bias[:, None].astype(float)
        self.weight_state = oracle.new_optimiser_state(self.weight)
        self.bias_state = oracle.new_optimiser_state(self.bias)
        self.limited = 0

    def step(self, optimizer, active, gradient, bias_gradient, n_rows):
        """One step of the active rows; returns which of all rows kept their norm."""
        decayed = gradient + optimizer.alpha / n_rows * self.weight
        free, self.weight_state = oracle.update(
            self.weight, decayed, self.weight_state, active, **settings(optimizer)
        )
        self.bias, self.bias_state = oracle.update(
            self.bias,
            bias_gradient[:, None],
            self.bias_state,
            active,
            **settings(optimizer),
        )
        self.weight = free
        if optimizer.max_norm:
            self.weight = oracle.max_norm(free, optimizer.max_norm, active)
        kept = np.all(free == self.weight, axis=1)
        self.limited += np.sum(~kept)
        return kept


@optimizers
def test_ten_steps_against_the_oracle(optimizer):
    rng = np.random.default_rng(5)
    p = make_parameters(rng, optimizer)
    expected = Expected(p)
    for _ in range(N_STEPS):
        active, gradient, bias_gradient = draw_step(rng)
        rows = np.flatnonzero(active)
        update.update_rows(p, optimizer, rows, gradient, bias_gradient, n_rows=BATCH)
        kept = expected.step(optimizer, active, gradient, bias_gradient, BATCH)
        if optimizer.max_norm:
            assert np.any(kept & active) or not len(rows)
    # Each step rounds numbers of order one a few times, at 6e-8: over ten steps, with
    # the sum of all earlier ones in momentum, some 1e-6.
    tolerance = {"rtol": 3e-6, "atol": 3e-6}
    np.testing.assert_allclose(p.values, expected.weight, **tolerance)
    np.testing.assert_allclose(p.bias_values, expected.bias[:, 0], **tolerance)
    names = {"sgd": ["velocity"], "adam": ["first_moment", "second_moment"]}
    for i, name in enumerate(names[optimizer.solver][: optimizer.n_states]):
        state = p.weight_state[i][:, :N_INPUTS]
        np.testing.assert_allclose(
            state, getattr(expected.weight_state, name), **tolerance
        )
        state = getattr(expected.bias_state, name)[:, 0]
        np.testing.assert_allclose(p.bias_state[i], state, **tolerance)
    if optimizer.solver == "adam":
        assert p.steps.tolist() == expected.weight_state.step_count.tolist()
    assert (expected.limited > N_STEPS) == bool(optimizer.max_norm)


@optimizers
def test_rows_without_a_gradient_keep_everything(optimizer):
    """Weights, state and step count, bit for bit; the padding stays zero."""
    rng = np.random.default_rng(6)
    p = make_parameters(rng, optimizer)
    p.weight[0, :N_INPUTS] = p.bias[0] = np.nan  # not even looked at
    for _ in range(N_STEPS):
        active, gradient, bias_gradient = draw_step(rng)
        active[0] = False
        before = [array.copy() for array in everything(p)]
        update.update_rows(
            p, optimizer, np.flatnonzero(active), gradient, bias_gradient, BATCH
        )
        for old, new in zip(before, everything(p), strict=True):
            assert old[~active].tobytes() == new[~active].tobytes()
        for array in (p.weight, *p.weight_state):
            assert not array[:, N_INPUTS:].any()
        changed = (p.weight != before[0])[active, :N_INPUTS]
        assert changed.mean() > 0.99 or not active.any()


@optimizers
def test_a_rows_update_does_not_depend_on_the_other_rows(optimizer):
    rng = np.random.default_rng(7)
    together = make_parameters(rng, optimizer)
    apart = make_parameters(np.random.default_rng(7), optimizer)
    _, gradient, bias_gradient = draw_step(rng)
    gradient, bias_gradient = np.nan_to_num(gradient), np.nan_to_num(bias_gradient)
    update.update_rows(together, optimizer, range(N_UNITS), gradient, bias_gradient)
    for row in reversed(range(N_UNITS)):
        update.update_rows(apart, optimizer, [row], gradient, bias_gradient)
    for one, other in zip(everything(together), everything(apart), strict=True):
        np.testing.assert_array_equal(one, other)


def test_first_step_of_adam_has_the_size_of_the_learning_rate():
    rng = np.random.default_rng(8)
    optimizer = Optimizer("adam", 0.125)
    p = make_parameters(rng, optimizer)
    before = p.values.copy()
    gradient = rng.choice([-1.0, 1.0], (N_UNITS, N_INPUTS))
    update.update_rows(p, optimizer, range(N_UNITS), gradient, np.zeros(N_UNITS))
    # weights of order one round by 6e-8, and so does the rate
    np.testing.assert_allclose(before - p.values, 0.125 * gradient, atol=5e-7)


@pytest.mark.parametrize("n_inputs", [1, 16, 17, 700])
def test_max_norm(n_inputs):
    """Too long rows come to the limit, the others are not rescaled; biases are free."""
    optimizer = Optimizer("sgd", 1.0, max_norm=0.5 * n_inputs**0.5)
    p = make_parameters(np.random.default_rng(9), optimizer, n_inputs)
    p.weight[1] *= 1e-3
    p.bias[:] = 100
    before = p.values.copy()
    zero = np.zeros((N_UNITS, n_inputs))
    update.update_rows(p, optimizer, range(N_UNITS), zero, np.zeros(N_UNITS))
    everywhere = np.ones(N_UNITS, dtype=bool)
    expected = oracle.max_norm(before, optimizer.max_norm, everywhere)
    np.testing.assert_allclose(p.values, expected, rtol=1e-6)
    assert p.values[1].tobytes() == before[1].tobytes()
    assert np.any(expected != before)
    assert np.all(p.bias == 100)


def test_gradient_solver_stores_and_changes_nothing():
    rng = np.random.default_rng(10)
    optimizer = Optimizer("gradient", alpha=0.4, max_norm=0.1)
    p = make_parameters(rng, optimizer)
    weight, bias = p.weight.copy(), p.bias.copy()
    active, gradient, bias_gradient = draw_step(rng)
    update.update_rows(
        p, optimizer, np.flatnonzero(active), gradient, bias_gradient, n_rows=BATCH
    )
    assert p.weight.tobytes() == weight.tobytes()
    assert p.bias.tobytes() == bias.tobytes()
    assert not p.steps.any()
    stored = p.weight_state[0]
    expected = gradient + 0.4 / BATCH * weight[:, :N_INPUTS].astype(float)
    np.testing.assert_allclose(
        stored[active, :N_INPUTS], expected[active], rtol=0, atol=5e-7
    )
    np.testing.assert_array_equal(p.bias_state[0][active], bias_gradient[active])
    assert not stored[~active].any()
    assert not stored[:, N_INPUTS:].any()


@optimizers
def test_parameters_without_bias(optimizer):
    """The same weights as with one."""
    rng = np.random.default_rng(11)
    p = make_parameters(rng, optimizer)
    bare = make_parameters(np.random.default_rng(11), optimizer)
    bare.bias, bare.bias_state = None, []
    gradient = rng.normal(size=(N_UNITS, N_INPUTS))
    for parameters in (p, bare):
        update.update_rows(
            parameters, optimizer, range(N_UNITS), gradient, np.ones(N_UNITS)
        )
    np.testing.assert_array_equal(bare.weight, p.weight)


# Inputs and rows: one vector, some, all that a kernel takes at once, and so many of
# both that they are taken some columns at a time.
@pytest.mark.parametrize(
    ("n_inputs", "n_rows"),
    [(1, 1), (16, 5), (37, 40), (128, 32), (1000, 30), (500, 600), (1100, 260)],
)
@optimizers
def test_steps_from_listed_rows_against_the_oracle(optimizer, n_inputs, n_rows):
    """What a row's kernel adds up, decays, moves and limits while it has it."""
    rng = np.random.default_rng([11, n_inputs, n_rows])
    norm = optimizer.max_norm and 0.8 * n_inputs**0.5
    # Adam would make the rounding of a sum near zero as large as a step
    optimizer = replace(optimizer, max_norm=norm, epsilon=0.1)
    p = make_parameters(rng, optimizer, n_inputs)
    expected = Expected(p)
    for _ in range(3):
        x = rng.normal(size=(n_rows, n_inputs)).astype(np.float32)
        dH = rng.normal(size=(N_UNITS, n_rows)).astype(np.float32) / n_rows**0.5
        h = (rng.random(dH.shape) < 0.3).astype(np.float32)
        h[1] = 0.0
        silent = p.weight[1].tobytes()
        known = np.where(h != 0.0, dH, np.float32(np.nan))
        assert expert.update(p, optimizer, known, x, h)
        assert p.weight[1].tobytes() == silent
        active, used = h.any(axis=1), np.where(h != 0.0, dH, 0.0).astype(float)
        gradient = used @ x.astype(float)
        expected.step(optimizer, active, gradient, used.sum(axis=1), n_rows)
    # as above, and gradients of order one that are sums of up to 200 products
    tolerance = {"rtol": 5e-6, "atol": 5e-6}
    np.testing.assert_allclose(p.values, expected.weight, **tolerance)
    np.testing.assert_allclose(p.bias_values, expected.bias[:, 0], **tolerance)
    assert (expected.limited > 0) == bool(optimizer.max_norm)


@pytest.mark.parametrize("n_inputs", [5, 64, 700])
@pytest.mark.parametrize("what", ["weight", "bias", "gradient", "nothing"])
@optimizers
def test_a_step_says_what_is_not_finite(optimizer, what, n_inputs):
    """Also where squares are, which overflow before weights do."""
    rng = np.random.default_rng(12)
    p = make_parameters(rng, optimizer, n_inputs)
    p.weight[0, : n_inputs // 2] = 1e30
    x, dH = np.ones((4, n_inputs)), np.ones((N_UNITS, 4))
    h = np.ones(dH.shape)
    h[3] = 0.0
    p.weight[3] = np.nan  # not looked at
    if what == "weight":
        p.weight[5, n_inputs - 1] = np.inf
    elif what == "bias":
        p.bias[5] = np.nan
    elif what == "gradient":
        dH[12, 3] = np.nan
    assert expert.update(p, optimizer, dH, x, h) == (what == "nothing")
