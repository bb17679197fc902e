"""Gathered experts against float64 NumPy, and what they must not touch."""

import numpy as np
import pytest

from stochnet._kernels import expert, gate

EPSILON = 2.0**-24

# (rows, inputs, gates, experts of each gate): nothing, one of each, whole vectors,
# rows in pieces, and remainders of all tiles
SHAPES = [
    (0, 5, 3, 1),
    (1, 1, 1, 1),
    (1, 16, 2, 1),
    (2, 17, 5, 1),
    (3, 64, 1, 1),
    (7, 65, 4, 1),
    (9, 128, 3, 1),
    (17, 130, 8, 1),
    (32, 100, 24, 1),
    (33, 700, 5, 1),
    (40, 31, 70, 1),
    (3, 1100, 2, 1),
    (3, 2030, 2, 1),  # a piece as long as can be
    (260, 1100, 3, 1),  # a panel of columns at a time
    (260, 1100, 300, 1),  # more experts than are updated together
    (600, 500, 67, 1),  # a part of the rows at a time
    (700, 1100, 3, 1),  # pieces of them
    (5, 33, 3, 2),
    (13, 48, 4, 4),
    (29, 1040, 2, 7),
    (26, 130, 3, 16),
    (8, 20, 2, 37),
]
DENSITIES = [0.0, 0.1, 0.5, 1.0]


class Problem:
    """Random numbers, single precision held in float64."""

    def __init__(self, shape, density, seed=0):
        rng = np.random.default_rng([seed, *shape, int(10 * density)])
        n_rows, n_inputs, n_gates, size = shape
        n_experts = n_gates * size
        self.x = self._normal(rng, n_rows, n_inputs)
        self.weight = self._normal(rng, n_experts, n_inputs)
        self.bias = self._normal(rng, n_experts)
        self.dH = self._normal(rng, n_experts, n_rows)
        fires = rng.random((n_gates, n_rows)) < density
        self.h = np.where(fires, rng.uniform(0.1, 2, fires.shape), 0.0)
        self.active = np.repeat(fires, size, axis=0)  # of each expert

    @staticmethod
    def _normal(rng, *shape):
        return rng.normal(size=shape).astype(np.float32).astype(float)

    @property
    def known_slopes(self):
        """dH where the gate is not zero, NaN elsewhere: nothing may read it."""
        return np.where(self.active, self.dH, np.nan)

    @property
    def used_slopes(self):
        return np.where(self.active, self.dH, 0.0)


problems = pytest.mark.parametrize(
    "problem",
    [
        pytest.param(Problem(shape, density), id=f"{shape}-{density}")
        for shape in SHAPES
        for density in DENSITIES
    ],
)


def assert_within(result, expected, bound):
    assert result.dtype == np.float32
    assert result.shape == expected.shape
    assert np.all(np.abs(result - expected) <= bound)


@problems
def test_forward(problem):
    """Also: H is not touched where the gate is zero.

    The bound is that of any summation (Higham 2002, Sec. 4.2): EPSILON times the
    additions that a product passes, times the sum of magnitudes. Vectors have at least
    4 lanes, so that is a quarter of the padded row, two for the lanes' sum, one for
    the bias, and the product's own rounding.
    """
    x, weight, bias = problem.x, problem.weight, problem.bias
    H = expert.forward(x, weight, bias, problem.h)
    expected = weight @ x.T + bias[:, None]
    magnitude = np.abs(weight) @ np.abs(x).T + np.abs(bias)[:, None]
    additions = -(-x.shape[1] // 16) * 16 / 4 + 4
    active = problem.active
    assert_within(H[active], expected[active], additions * EPSILON * magnitude[active])
    assert np.isnan(H[~active]).all()


@problems
def test_gradient(problem):
    """Each product passes at most one addition for each active row."""
    gradient = expert.gradient(problem.known_slopes, problem.x, problem.h)
    magnitude = np.abs(problem.used_slopes) @ np.abs(problem.x)
    additions = problem.active.sum(axis=1, keepdims=True) + 1
    assert_within(
        gradient, problem.used_slopes @ problem.x, additions * EPSILON * magnitude
    )


@problems
def test_input_gradient(problem):
    """Each product passes at most one addition for each expert active in the row."""
    gradient = expert.input_gradient(problem.known_slopes, problem.weight, problem.h)
    magnitude = np.abs(problem.used_slopes.T) @ np.abs(problem.weight)
    additions = problem.active.sum(axis=0)[:, None] + 1
    assert_within(
        gradient,
        problem.used_slopes.T @ problem.weight,
        additions * EPSILON * magnitude,
    )


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_silent_experts_are_not_read(poison):
    problem = Problem((33, 130, 9, 1), 0.3)
    silent = np.array([0, 4, 8])
    problem.active[silent], problem.h[silent] = False, 0.0
    clean = expert.input_gradient(problem.known_slopes, problem.weight, problem.h)
    problem.weight[silent], problem.bias[silent] = poison, poison
    H = expert.forward(problem.x, problem.weight, problem.bias, problem.h)
    assert np.isfinite(H[problem.active]).all()
    gradient = expert.gradient(problem.known_slopes, problem.x, problem.h)
    assert np.isfinite(gradient).all()
    assert not gradient[silent].any()
    poisoned = expert.input_gradient(problem.known_slopes, problem.weight, problem.h)
    np.testing.assert_array_equal(poisoned, clean)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_rows_without_an_active_expert_are_not_read(poison):
    problem = Problem((20, 40, 6, 1), 0.5)
    unused = np.array([0, 7, 19])
    problem.active[:, unused], problem.h[:, unused] = False, 0.0
    problem.x[unused] = poison
    H = expert.forward(problem.x, problem.weight, problem.bias, problem.h)
    assert np.isfinite(H[problem.active]).all()
    assert np.isfinite(
        expert.gradient(problem.known_slopes, problem.x, problem.h)
    ).all()


@pytest.mark.parametrize("size", [1, 4, 11])
@pytest.mark.parametrize("n_inputs", [1, 16, 100, 700, 2100])
def test_bits_of_a_row_do_not_depend_on_which_others_are_active(n_inputs, size):
    problem = Problem((40, n_inputs, 6, size), 0.6)
    x, weight, bias, active = problem.x, problem.weight, problem.bias, problem.active
    H = expert.forward(x, weight, bias, problem.h)
    for b in range(len(x)):
        alone = expert.forward(x[b : b + 1], weight, bias, problem.h[:, b : b + 1])
        np.testing.assert_array_equal(alone[active[:, b], 0], H[active[:, b], b])


@pytest.mark.parametrize("density", [0.01, 0.1, 0.6])
@pytest.mark.parametrize("n_inputs", [500, 1100])
def test_parts_of_a_large_batch_give_the_same_bits(n_inputs, density):
    problem = Problem((1100, n_inputs, 67, 1), density)
    x, weight, bias, h = problem.x, problem.weight, problem.bias, problem.h
    h[3], h[7, :550], h[8, 550:], h[66, 1:] = 0, 0, 0, 0
    H = expert.forward(x, weight, bias, h)
    for rows in np.split(np.arange(1100), 11):
        alone = expert.forward(x[rows], weight, bias, h[:, rows])
        np.testing.assert_array_equal(alone, H[:, rows])


@pytest.mark.parametrize("size", [1, 4, 8, 13])
@pytest.mark.parametrize("n_rows", range(18))
def test_every_number_of_active_rows(n_rows, size):
    """Every way in which tiles of rows and of units share out the active ones."""
    problem = Problem((17, 33, 1, size), 0.0)
    problem.active[:, 17 - n_rows :] = True
    problem.h[0, 17 - n_rows :] = 0.5
    test_forward(problem)


def test_experts_and_gates_that_do_not_fit():
    with pytest.raises(ValueError, match="2 gates do not share 5 experts evenly"):
        expert.forward(np.ones((3, 4)), np.ones((5, 4)), np.ones(5), np.ones((2, 3)))


def test_active_rows():
    h = np.array([0, 1, -0.0, 1e-45, np.nan, -2, 0], dtype=np.float32)
    rows = gate.active_rows(h)
    assert rows.dtype == np.int32
    assert rows.tolist() == [1, 3, 4, 5]
    assert gate.active_rows(np.zeros(40)).tolist() == []
    assert gate.active_rows(np.ones(257)).tolist() == list(range(257))
    assert gate.active_rows(np.zeros(0)).tolist() == []
