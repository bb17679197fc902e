"""Products of the nonzeros of sparse inputs, and where training takes them."""

import numpy as np
import pytest
from helpers import EPSILON, Shape, make, make_batch, make_network, single

from stochnet._kernels import dense

# (units, rows, inputs) beside the sizes of panels, of blocks of rows and of pieces
SHAPES = [
    (1, 1, 2),
    (0, 3, 4),
    (3, 0, 4),
    (15, 16, 17),
    (16, 17, 64),
    (17, 15, 100),
    (32, 33, 500),
    (47, 40, 784),
    (49, 5, 1024),
    (80, 100, 1040),
    (33, 7, 2600),
]


def sparse_rows(rng, n_rows, n):
    """Rows of which none, some or half is nonzero, in places or in a run."""
    x = np.zeros((n_rows, n))
    for i, row in enumerate(x):
        count = rng.choice([0, 1, n // 5, n // 2])
        where = rng.permutation(n)[:count] if i % 2 else slice(n - count, n)
        row[where] = single(rng, count)
    return x


@pytest.mark.parametrize("unit_major", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_products(shape, unit_major):
    """A product passes one addition for each nonzero, and 4 more."""
    n_units, n_rows, n_inputs = shape
    rng = np.random.default_rng(shape)
    weight, bias = single(rng, n_units, n_inputs), single(rng, n_units)
    x = sparse_rows(rng, n_rows, n_inputs)
    out = dense.sparse_forward(x, weight, bias, unit_major)
    expected = weight @ x.T + bias[:, np.newaxis]
    magnitude = np.abs(weight) @ np.abs(x).T + np.abs(bias)[:, np.newaxis]
    assert out.shape == expected.shape
    bound = (np.count_nonzero(x, axis=1) + 5) * EPSILON * magnitude
    assert np.all(np.abs(out - expected) <= bound)


def test_zeros_meet_no_weight():
    """A weight that is not a number would show."""
    rng = np.random.default_rng(0)
    weight, x = single(rng, 40, 1100), sparse_rows(rng, 30, 1100)
    x[:, [3, 500, 1030]] = 0.0
    expected = dense.sparse_forward(x, weight, np.zeros(40))
    weight[:, [3, 500, 1030]] = np.nan
    out = dense.sparse_forward(x, weight, np.zeros(40))
    np.testing.assert_array_equal(out, expected)


def test_what_is_no_number_is_no_zero():
    x = np.zeros((2, 40))
    x[0, 17], x[1, 39] = np.nan, np.inf
    out = dense.sparse_forward(x, np.ones((9, 40)), np.zeros(9))
    assert np.isnan(out[:, 0]).all()
    assert np.isposinf(out[:, 1]).all()


def test_a_row_that_is_not_sparse_is_refused():
    x = np.zeros((3, 64))
    x[2, :33] = 1.0
    with pytest.raises(ValueError, match="More than half of row 2 is nonzero"):
        dense.sparse_forward(x, np.ones((4, 64)), np.zeros(4))


def is_blind_to(group, X, credit):
    """Whether a mini-batch has no use for weights that meet only zeros."""
    shape = Shape(len(X), X.shape[1], (40,), (70,), 3)
    network = make_network(make("st", credit=credit), shape)
    getattr(network.layers[0], group).values[:, ~X.any(axis=0)] = np.nan
    y = np.zeros(len(X), dtype=np.int32)
    gradient = network.gradient(X, y)
    return bool(np.isfinite(gradient["da"][0]).all() and gradient["gates"][0].any())


def batch_with_a_silent_input(n_rows, nonzero):
    X, _ = make_batch(Shape(n_inputs=300), n_rows=n_rows, nonzero=nonzero)
    X[:, 7] = 0
    return X


@pytest.mark.parametrize(
    ("n_rows", "nonzero", "sparse"),
    [(64, 0.1, True), (64, 0.3, True), (64, 0.45, False), (64, 0.8, False)]
    + [(4, 0.1, False), (2, 0.01, False)],
)
def test_mini_batches_that_are_sparse_and_large_enough(n_rows, nonzero, sparse):
    """Both kinds of dense layers on the inputs take them one nonzero at a time."""
    X = batch_with_a_silent_input(n_rows, nonzero)
    assert is_blind_to("hidden", X, "all") == sparse
    assert is_blind_to("expert", X, "all") == sparse


def test_one_row_that_is_not_sparse():
    X = batch_with_a_silent_input(64, 0.1)
    X[9, 10:] = 1.0
    assert not is_blind_to("hidden", X, "all")


def test_experts_that_are_gathered():
    X = batch_with_a_silent_input(64, 0.1)
    assert is_blind_to("hidden", X, "active")
    assert not is_blind_to("expert", X, "active")
