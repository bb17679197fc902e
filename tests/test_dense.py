"""Dense layers against float64 NumPy; their bits depend on their operands only."""

import numpy as np
import pytest
from helpers import EPSILON, single

from stochnet._kernels import dense

# (units, rows, inputs) beside the sizes of tiles
SHAPES = [
    (1, 1, 1),
    (0, 3, 4),
    (3, 0, 4),
    (4, 5, 16),
    (5, 3, 17),
    (7, 11, 100),
    (16, 32, 64),
    (33, 16, 700),
    (70, 40, 31),
    (9, 200, 250),
    (17, 211, 40),
    (3, 5, 800),
    (9, 7, 2030),  # a piece as long as can be
    (36, 140, 8300),  # sums that leave L2, column by column
]


def assert_within(result, expected, bound):
    assert result.dtype == np.float32
    assert result.shape == expected.shape
    assert np.all(np.abs(result - expected) <= bound)


@pytest.mark.parametrize("shape", SHAPES)
def test_forward(shape):
    """A product passes one addition for every 4 of the row, 2 more, and rounds itself.

    That times EPSILON times the sum of magnitudes bounds the error (Higham 2002).
    """
    n_units, n_rows, n_inputs = shape
    rng = np.random.default_rng(shape)
    weight, x = single(rng, n_units, n_inputs), single(rng, n_rows, n_inputs)
    additions = -(-n_inputs // 16) * 16 / 4 + 3
    bound = additions * EPSILON * (np.abs(weight) @ np.abs(x).T)
    assert_within(dense.forward(x, weight), weight @ x.T, bound)


@pytest.mark.parametrize("shape", SHAPES)
def test_weighted_sum(shape):
    """A product passes one addition for each row."""
    n_units, n_rows, n = shape
    rng = np.random.default_rng(shape)
    coefficients, rows = single(rng, n_units, n_rows), single(rng, n_rows, n)
    bound = (n_rows + 1) * EPSILON * (np.abs(coefficients) @ np.abs(rows))
    assert_within(dense.weighted_sum(coefficients, rows), coefficients @ rows, bound)


@pytest.mark.parametrize("n_units", [1, 4, 7, 21])
@pytest.mark.parametrize("n_inputs", [1, 37, 400])
def test_a_rows_bits_do_not_depend_on_its_batch(n_units, n_inputs):
    rng = np.random.default_rng(n_inputs)
    weight, x = single(rng, n_units, n_inputs), single(rng, 40, n_inputs)
    alone = np.hstack([dense.forward(x[b : b + 1], weight) for b in range(40)])
    for size in range(1, 41):
        np.testing.assert_array_equal(dense.forward(x[:size], weight), alone[:, :size])
    for shift in range(40):
        order = np.roll(np.arange(40), shift)
        np.testing.assert_array_equal(dense.forward(x[order], weight), alone[:, order])


def test_a_rows_bits_do_not_depend_on_which_rows_share_the_cache():
    rng = np.random.default_rng(1)
    weight, x = single(rng, 10, 64), single(rng, 300, 64)
    whole = dense.forward(x, weight)
    for size in (95, 97, 191, 193, 299):
        np.testing.assert_array_equal(dense.forward(x[:size], weight), whole[:, :size])


def test_a_units_bits_do_not_depend_on_the_other_units():
    rng = np.random.default_rng(0)
    weight, x = single(rng, 11, 100), single(rng, 13, 100)
    whole = dense.forward(x, weight)
    coefficients, rows = single(rng, 11, 50), single(rng, 50, 100)
    sums = dense.weighted_sum(coefficients, rows)
    for first in range(11):
        for end in range(first + 1, 12):
            part = slice(first, end)
            np.testing.assert_array_equal(dense.forward(x, weight[part]), whole[part])
            part_sums = dense.weighted_sum(coefficients[part], rows)
            np.testing.assert_array_equal(part_sums, sums[part])


@pytest.mark.parametrize("n", [1, 17, 100, 400])
def test_a_columns_bits_do_not_depend_on_the_other_columns(n):
    rng = np.random.default_rng(n)
    coefficients, rows = single(rng, 6, 130), single(rng, 130, 400)
    whole = dense.weighted_sum(coefficients, rows)
    part = dense.weighted_sum(coefficients, rows[:, :n])
    np.testing.assert_array_equal(part, whole[:, :n])


def test_nothing_of_a_row_reaches_another():
    x, weight = np.ones((12, 20)), np.ones((5, 20))
    x[3], weight[1] = np.nan, np.inf
    out = dense.forward(x, weight)
    assert np.isnan(out[:, 3]).all()
    assert np.isposinf(np.delete(out[1], 3)).all()
    assert np.all(np.delete(np.delete(out, 3, axis=1), 1, axis=0) == 20)


def test_tanh_keeps_its_length():
    for n in (0, 1, 15, 16, 17):
        x = np.linspace(-3, 3, n)
        np.testing.assert_allclose(dense.tanh(x), np.tanh(x), rtol=4e-7)
