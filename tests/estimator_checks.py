"""Small estimators, data for them, and whether two have the same bits."""

import numpy as np
from helpers import assert_same_bits, copy_of_state
from sklearn.datasets import make_classification

from stochnet import GatedMLPClassifier

# Those whose gates are zero at random.
STOCHASTIC = ["noisy_rectifier", "sts", "sbn", "st", "concrete_st", "hard_concrete"]
SIZES = {1: (24,), 2: (20, 18)}


def make(gater="st", **parameters):
    """A small estimator; as many epochs as it is given, without a warning."""
    parameters = {
        "hidden_layer_sizes": (24,),
        "density": 0.3,
        "batch_size": 16,
        "max_iter": 3,
        "n_iter_no_change": np.inf,
        "random_state": 0,
        **parameters,
    }
    return GatedMLPClassifier(gater=gater, **parameters)


def make_data(n_rows=120, n_features=9, n_classes=3, seed=0):
    X, y = make_classification(
        n_rows, n_features, n_informative=5, n_classes=n_classes, random_state=seed
    )
    return X.astype(np.float32), y


def state(estimator, X):
    """Every array that makes up the fitted estimator, and its predictions."""
    arrays = copy_of_state(estimator._network)
    for i, coefs in enumerate(estimator.coefs_):
        arrays[f"coefs_[{i}]"] = coefs
    for i, intercepts in enumerate(estimator.intercepts_):
        arrays[f"intercepts_[{i}]"] = intercepts
    arrays["thresholds_"] = np.array(estimator.thresholds_)
    arrays["loss_"] = np.array(estimator.loss_)
    arrays["predict_proba"] = estimator.predict_proba(X)
    return arrays


def without(arrays, *words):
    """What of `state` has none of these words in its name."""
    return {k: v for k, v in arrays.items() if not any(word in k for word in words)}


def assert_same_estimator(first, second, X):
    assert_same_bits(state(first, X), state(second, X))


def assert_different(first, second):
    assert not np.array_equal(first, second)
