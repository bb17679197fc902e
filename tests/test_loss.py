"""Softmax cross-entropy against the oracle and SciPy, in float64."""

import numpy as np
import oracle
import pytest
from scipy.special import softmax

from stochnet._kernels import loss

EPSILON = 2.0**-24


def batch(n_rows, n_classes, scale):
    rng = np.random.default_rng([n_rows, n_classes])
    logits = (scale * rng.normal(size=(n_rows, n_classes))).astype(np.float32)
    return logits.astype(float), rng.integers(n_classes, size=n_rows)


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1e4])
@pytest.mark.parametrize(
    ("n_rows", "n_classes"),
    [(1, 2), (1, 10), (33, 2), (32, 10), (5, 17), (7, 100), (3, 1000)],
)
def test_against_the_oracle(n_rows, n_classes, scale):
    logits, target = batch(n_rows, n_classes, scale)
    losses, probability, gradient = loss.softmax_cross_entropy(logits, target)
    for result in (losses, probability, gradient):
        assert result.dtype == np.float32

    # A logit minus the largest rounds by EPSILON of that difference and exp adds 3e-7:
    # `own`. A sum of C of them has their mean error and C roundings more.
    p = softmax(logits, axis=1)
    below = logits.max(axis=1, keepdims=True) - logits
    own = 4e-7 + EPSILON * below
    of_sum = (p * own).sum(axis=1) + n_classes * EPSILON
    expected = oracle.cross_entropy(logits, target)
    assert np.all(np.abs(losses - expected) <= of_sum + 5e-7 * expected)
    # float32 exp does not go below 1.2e-38, float64 does
    error = (own + of_sum[:, None] + 2 * EPSILON) * p + 2e-38
    assert np.all(np.abs(probability - p) <= error)
    expected = (p - np.eye(n_classes)[target]) / n_rows
    assert np.all(np.abs(gradient - expected) <= (error + 2 * EPSILON) / n_rows)

    # the sum of C roundings of probabilities, and of the one at the target
    rounding = (n_classes + 8) * EPSILON / n_rows
    assert np.all(np.abs(gradient.sum(axis=1, dtype=float)) <= rounding)
    assert np.all(np.abs(probability.sum(axis=1, dtype=float) - 1) <= rounding * n_rows)


def test_extreme_logits():
    logits = [[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [-1e4, -1e4, -1e4]]
    losses, p, gradient = loss.softmax_cross_entropy(logits, [1, 2, 0])
    np.testing.assert_allclose(losses, [2e4, np.log(2), np.log(3)], rtol=3e-7)
    expected = [[1, 0, 0], [0, 0.5, 0.5], [1 / 3] * 3]
    np.testing.assert_allclose(p, expected, rtol=3e-7, atol=2e-38)
    expected = [[1 / 3, -1 / 3, 0], [0, 1 / 6, -1 / 6], [-2 / 9, 1 / 9, 1 / 9]]
    np.testing.assert_allclose(gradient, expected, rtol=3e-7, atol=2e-38)


@pytest.mark.parametrize("n_classes", [2, 16, 40])
def test_the_largest_logit_may_be_that_of_any_class(n_classes):
    """If another one were subtracted, exp would saturate."""
    logits = 1e4 * np.eye(n_classes) - 5e3
    losses, p, _ = loss.softmax_cross_entropy(logits, np.arange(n_classes))
    np.testing.assert_array_equal(losses, 0)
    np.testing.assert_allclose(p, np.eye(n_classes), atol=2e-38)


def test_a_certain_row_has_no_loss():
    losses, _, _ = loss.softmax_cross_entropy([[200.0, 0.0]], [0])
    assert losses[0] == 0


def test_does_not_depend_on_a_common_constant():
    logits = np.array([[1.0, -2.0, 0.5]])
    plain = loss.softmax_cross_entropy(logits, [1])
    for a, b in zip(loss.softmax_cross_entropy(logits + 64, [1]), plain, strict=True):
        np.testing.assert_array_equal(a, b)  # 64 is added without rounding


def test_no_rows():
    losses, p, gradient = loss.softmax_cross_entropy(np.zeros((0, 3)), [])
    assert losses.shape == (0,)
    assert p.shape == gradient.shape == (0, 3)


@pytest.mark.parametrize("target", [-1, 3])
def test_refuses_a_class_that_is_not_there(target):
    with pytest.raises(ValueError, match=r"target must be in \[0, 3\)"):
        loss.softmax_cross_entropy(np.zeros((2, 3)), [0, target])


def test_does_not_change_its_argument():
    logits = np.array([[1.0, 2.0]], dtype=np.float32)
    loss.softmax_cross_entropy(logits, [0])
    assert logits.tolist() == [[1.0, 2.0]]
