"""Chunks of zeros in an input are skipped, and no bit of a result shows it.

A tile skips what is zero in all of its rows. Rows without a zero beside a row make that
impossible, and sums of few units never skip: both say what the bits have to be.
"""

import numpy as np
import pytest
from helpers import single

from stochnet._kernels import dense, expert

CHUNK = 16

# parts of a chunk, one, and several pieces, of 64 chunks and of fewer
LENGTHS = [5, 16, 100, 700, 1024, 2030, 2600]


def rows_with_zeros(rng, n_rows, n):
    """Rows that are zero in none, some, most or all of their chunks."""
    x = single(rng, n_rows, n)
    filled = rng.random((n_rows, -(-n // CHUNK))) < rng.choice(
        [0, 0.1, 0.6, 1], (n_rows, 1)
    )
    return np.where(np.repeat(filled, CHUNK, axis=1)[:, :n], x, 0.0)


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("n_units", [1, 4, 21])
def test_dot_products_have_the_same_bits(n_units, n):
    rng = np.random.default_rng([n_units, n])
    weight, x, full = (
        single(rng, n_units, n),
        rows_with_zeros(rng, 30, n),
        np.ones((7, n)),
    )
    expected = [dense.forward(np.vstack([row, full]), weight)[:, 0] for row in x]
    np.testing.assert_array_equal(dense.forward(x, weight), np.transpose(expected))


@pytest.mark.parametrize("n", LENGTHS)
def test_gathered_experts_have_the_same_bits(n):
    rng = np.random.default_rng(n)
    weight, x, full = single(rng, 9, n), rows_with_zeros(rng, 40, n), np.ones((40, n))
    h = rng.random((9, 40)) < 0.4
    H = expert.forward(x, weight, np.zeros(9), h)
    between = np.stack([x, full, full], axis=1).reshape(-1, n)
    expected = dense.forward(between, weight)[:, ::3]
    np.testing.assert_array_equal(H, np.where(h, expected, np.nan))


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("n_rows", [3, 150])
def test_weighted_sums_have_the_same_bits(n_rows, n):
    rng = np.random.default_rng([n_rows, n])
    coefficients, x = single(rng, 45, n_rows), rows_with_zeros(rng, n_rows, n)
    few = [dense.weighted_sum(part, x) for part in np.split(coefficients, 3)]
    np.testing.assert_array_equal(dense.weighted_sum(coefficients, x), np.vstack(few))


@pytest.mark.parametrize("n_units", [1, 4, 21])
def test_what_meets_only_zeros_is_not_read(n_units):
    """A weight that is not a number would show."""
    rng = np.random.default_rng(n_units)
    weight, x = single(rng, n_units, 1100), rows_with_zeros(rng, 30, 1100)
    x[:, 32:64] = x[:, 1008:] = 0.0
    expected = dense.forward(x, weight)
    weight[:, 32:64] = weight[:, 1008:] = np.nan
    np.testing.assert_array_equal(dense.forward(x, weight), expected)
    H = expert.forward(x, weight, np.zeros(n_units), np.ones((n_units, 30)))
    np.testing.assert_array_equal(H, expected)


def test_rows_of_no_numbers_are_not_zeros():
    x = np.zeros((2, 40))
    x[0, 17], x[1, 39] = np.nan, np.inf
    out = dense.forward(x, np.ones((9, 40)))
    assert np.isnan(out[:, 0]).all()
    assert np.isposinf(out[:, 1]).all()
