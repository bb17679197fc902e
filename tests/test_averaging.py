"""Averaged weights: what they are, that they predict, and that training is the same."""

import pickle

import numpy as np
import pytest
from helpers import assert_same_bits, copy_of_state
from sklearn.datasets import make_classification

from stochnet import GatedMLPClassifier
from stochnet.training import AVERAGING_INTERVAL

POWER = 2.5
BATCH = 4


def make(**parameters):
    parameters = {
        "hidden_layer_sizes": (24,),
        "density": 0.3,
        "batch_size": BATCH,
        "averaging": POWER,
        "momentum": 0.5,
        "max_iter": 3,
        "n_iter_no_change": np.inf,
        "random_state": 0,
        **parameters,
    }
    return GatedMLPClassifier(**parameters)


@pytest.fixture(scope="module")
def data():
    # neither the epoch nor the whole is a multiple of the interval
    X, y = make_classification(
        BATCH * AVERAGING_INTERVAL + 50, 9, n_informative=5, n_classes=3, random_state=0
    )
    return X.astype(np.float32), y


def weights(network):
    """All weights and biases, without padding."""
    parts = []
    for _, p in network.parameters():
        parts.append(p.values.ravel())
        if p.bias is not None:
            parts.append(p.bias_values)
    return np.concatenate(parts).astype(float)


def steps(estimator, X, y, n_epochs):
    """The weights after every AVERAGING_INTERVAL mini-batches, one call for each."""
    found, n_steps = [], 0
    for _ in range(n_epochs):
        for start in range(0, len(X), BATCH):
            piece = slice(start, start + BATCH)
            estimator.partial_fit(X[piece], y[piece], classes=[0, 1, 2])
            n_steps += 1
            if n_steps % AVERAGING_INTERVAL == 0:
                found.append(weights(estimator._network))
    return found


def test_average_is_the_polynomial_decay_average_of_the_weights(data):
    X, y = data
    plain = make(averaging=None)
    taken = steps(plain, X, y, 3)
    assert len(taken) == 3
    mean = taken[0]
    for t, now in enumerate(taken[1:], start=2):
        mean = mean + (1 + POWER) / (t + POWER) * (now - mean)
    averaged = make()
    np.testing.assert_array_equal(steps(averaged, X, y, 3), taken)
    found = weights(averaged._network.predictor)
    np.testing.assert_allclose(found, mean, rtol=0, atol=1e-6 * np.abs(mean).max())
    assert np.abs(found - taken[-1]).max() > 1e-3
    # and in closed form: products of 1 - share
    shares = np.array([(1 + POWER) / (t + POWER) for t in range(1, 4)])
    factors = [shares[i] * np.prod(1 - shares[i + 1 :]) for i in range(3)]
    np.testing.assert_allclose(factors @ np.array(taken), mean, atol=1e-12)


def test_power_zero_is_the_mean(data):
    X, y = data
    averaged = make(averaging=0)
    taken = steps(averaged, X, y, 3)
    found = weights(averaged._network.predictor)
    np.testing.assert_allclose(found, np.mean(taken, axis=0), atol=1e-6)


def test_training_is_the_same_and_prediction_is_not(data):
    X, y = data
    plain, averaged = (make(averaging=a).fit(X, y) for a in (None, POWER))
    assert_same_bits(*(copy_of_state(e._network) for e in (plain, averaged)))
    assert plain.loss_curve_ == averaged.loss_curve_
    assert plain._network.predictor is plain._network
    assert np.abs(plain.predict_proba(X) - averaged.predict_proba(X)).max() > 1e-3
    for name in ("coefs_", "intercepts_"):
        for mine, other in zip(
            getattr(averaged, name), getattr(plain, name), strict=True
        ):
            assert np.abs(mine - other).max() > 1e-4


def test_thresholds_belong_to_the_averaged_weights(data):
    X, y = data
    averaged = make().fit(X, y)
    assert averaged.density_ == [pytest.approx(0.3, abs=0.02)]
    scores = averaged._network.predictor.scores(0, averaged._calibration.X)
    assert averaged.thresholds_ == [averaged._network.predictor.layers[0].threshold]
    assert np.mean(scores > averaged.thresholds_[0]) == pytest.approx(0.3, abs=0.02)


def test_pieces_and_pickles_give_the_same_bits(data):
    X, y = data
    whole = make(shuffle=False, max_iter=2).fit(X, y)
    pieces = make()
    for _ in range(2):
        for start in range(0, len(X), 3 * BATCH):
            piece = slice(start, start + 3 * BATCH)
            pieces.partial_fit(X[piece], y[piece], classes=[0, 1, 2])
            pieces = pickle.loads(pickle.dumps(pieces))
    assert pieces._network.n_averaged == whole._network.n_averaged == 2
    found, expected = (copy_of_state(e._network.predictor) for e in (pieces, whole))
    for name in expected:
        if "weight" in name or "bias" in name:
            np.testing.assert_array_equal(found[name], expected[name])


def test_threads_do_not_change_the_average(data):
    one, two = (make(n_jobs=n).fit(*data).predict_proba(data[0]) for n in (1, 2))
    np.testing.assert_array_equal(one, two)


def test_a_warm_start_goes_on_averaging(data):
    X, y = data
    warm = make(max_iter=1, warm_start=True)
    for _ in range(3):
        warm.fit(X, y)
    np.testing.assert_array_equal(
        warm.predict_proba(X), make(max_iter=3).fit(X, y).predict_proba(X)
    )


def test_early_stopping_keeps_the_best_average(data):
    X, y = data
    averaged = make(early_stopping=True, max_iter=12, learning_rate_init=0.3)
    averaged.fit(X[:-60], y[:-60], X_val=X[-60:], y_val=y[-60:])
    scores = averaged.validation_scores_
    assert max(scores) > scores[-1]  # or the best would be the last
    assert averaged.score(X[-60:], y[-60:]) == max(scores)


def test_before_the_first_average_the_weights_predict(data):
    X, y = data[0][:60], data[1][:60]
    plain, averaged = (make(averaging=a, max_iter=1).fit(X, y) for a in (None, POWER))
    np.testing.assert_array_equal(plain.predict_proba(X), averaged.predict_proba(X))


@pytest.mark.parametrize("averaging", [-1, np.nan, "mean"])
def test_bad_averaging(averaging, data):
    with pytest.raises(ValueError, match="The 'averaging' parameter of"):
        make(averaging=averaging).fit(*data)
