"""`GatedMLPClassifier`: what scikit-learn asks of it, and what it promises itself."""

import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import oracle
import pytest
from helpers import (
    DENSE,
    assert_same_bits,
    copy_of_state,
    oracle_gater,
    oracle_parameters,
)
from scipy.sparse import csr_matrix
from scipy.special import softmax
from sklearn.base import clone
from sklearn.datasets import load_digits, make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import stochnet.estimator
import stochnet.network
from stochnet import GatedMLPClassifier
from stochnet._kernels import engine
from stochnet.gaters import GATERS, make_gater
from stochnet.training import Schedule

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


@pytest.fixture(scope="module")
def data():
    return make_data()


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


# ---------------------------------------------------------------------------
# scikit-learn's contract
# ---------------------------------------------------------------------------


# scikit-learn's own checks ignore ConvergenceWarning for its networks.
@pytest.mark.filterwarnings(
    "ignore:Stochastic Optimizer:sklearn.exceptions.ConvergenceWarning"
)
@parametrize_with_checks(
    [
        GatedMLPClassifier(
            gater=gater, hidden_layer_sizes=(24,), max_iter=30, batch_size=8
        )
        for gater in GATERS
    ]
)
def test_scikit_learn(estimator, check):
    check(estimator)


def test_parameters_come_back():
    changed = {
        "hidden_layer_sizes": (7, 5),
        "gater": "sts",
        "noise": "beta",
        "density": 0.25,
        "learning_rate_init": 0.02,
        "n_jobs": 3,
    }
    estimator = GatedMLPClassifier(**changed)
    parameters = estimator.get_params()
    assert changed.items() <= parameters.items()
    assert clone(estimator).get_params() == parameters
    assert GatedMLPClassifier().set_params(**parameters).get_params() == parameters
    with pytest.raises(ValueError, match="Invalid parameter 'nonsense'"):
        estimator.set_params(nonsense=1)


def test_parameters_reach_the_network(data):
    """Each that the network has under another name or in another place."""
    optimizer = {
        "momentum": 0.11,
        "nesterovs_momentum": False,
        "beta_1": 0.22,
        "beta_2": 0.33,
        "epsilon": 0.44,
        "alpha": 0.55,
        "max_norm": 0.66,
        "solver": "adam",
    }
    rates = {"learning_rate_init": 0.07, "gater_learning_rate_init": 0.08}
    gates = {
        "gater": "sts",
        "density": 0.2,
        "credit": "active",
        "probe_rate": 0.4,
        "sigmoid_derivative": True,
        "baseline": "mean",
        "temperature": "auto",
        "penalty": "l1",
        "penalty_weight": 0.09,
        "adaptive_penalty": True,
        "firing_rate_step": 0.12,
    }
    noise = {"noise": "beta+gaussian", "noise_scale": 1.3, "noise_beta": 20.0}
    parameters = {**optimizer, **rates, **gates, **noise, "noise_on": "draw"}
    network = make(max_iter=1, gater_momentum=0.01, **parameters).fit(*data)._network
    expected = {**optimizer, "learning_rate": 0.07}
    assert network.main.__dict__ == expected
    changes = {"learning_rate": 0.08, "momentum": 0.01}
    assert network.gater.__dict__ == {**expected, **changes}
    made = make_gater(gates.pop("gater"), **gates, **noise, noise_on="draw").__dict__
    found = network.layers[0].gater.__dict__
    assert found.keys() == made.keys()
    for name in made.keys() - {"noise"}:
        assert found[name] == made[name], name
    for name, value in made["noise"].__dict__.items():
        np.testing.assert_array_equal(getattr(found["noise"], name), value)

    network = make(max_iter=1, momentum=0.3, noise="auto").fit(*data)._network
    assert network.gater.momentum == network.main.momentum == 0.3


@pytest.mark.parametrize(
    ("options", "temperature", "factor"),
    [
        ({"gater": "st"}, 1.0, 1),
        ({"gater": "st", "estimator": "reinmax"}, 1.0, 10),
        ({"gater": "concrete"}, np.float32(2 / 3), 5),
        ({"gater": "concrete_st"}, np.float32(2 / 3), 10),
        ({"gater": "hard_concrete"}, np.float32(2 / 3), 5),
        ({"gater": "hard_concrete", "temperature": 0.3}, 0.3, 5),
    ],
)
def test_temperatures_and_rates_by_default(data, options, temperature, factor):
    network = make(max_iter=1, learning_rate_init=0.01, **options).fit(*data)._network
    assert network.layers[0].gater.temperature == temperature
    assert network.gater.learning_rate == pytest.approx(0.01 * factor)


@pytest.mark.parametrize("initialization", ["sparse", "glorot", "authors"])
def test_initialization_reaches_the_network(data, initialization):
    X, y = data
    frozen = {"learning_rate_init": 1e-30, "firing_rate_step": 0.0, "max_norm": None}
    estimator = make(max_iter=1, initialization=initialization, **frozen).fit(X, y)
    network = estimator._network
    expected = stochnet.network.Network(
        X.shape[1],
        3,
        [24],
        [16],
        network.layers[0].gater,
        network.main,
        network.gater,
        initialization=initialization,
        seed=network.seed,
    )
    groups = dict(expected.parameters())
    for name, group in network.parameters():
        np.testing.assert_allclose(group.weight, groups[name].weight, atol=1e-12)
        if group.bias is not None:
            np.testing.assert_allclose(group.bias, groups[name].bias, atol=1e-12)


def test_a_batch_larger_than_the_data(data):
    X, y = data
    expected = make(batch_size=len(X)).fit(X, y)
    assert_same_estimator(make(batch_size=10**12).fit(X, y), expected, X)
    other = make(batch_size=len(X) - 1).fit(X, y)
    assert_different(other.coefs_[0], expected.coefs_[0])


def test_a_batch_is_32_rows_by_default(data):
    X, y = data
    expected = make(batch_size=32).fit(X, y)
    assert_same_estimator(make(batch_size="auto").fit(X, y), expected, X)


def test_a_clone_is_not_fitted_and_fits_the_same(data):
    X, y = data
    estimator = make().fit(X, y)
    twin = clone(estimator)
    assert not hasattr(twin, "classes_")
    assert_same_estimator(twin.fit(X, y), estimator, X)


@pytest.mark.parametrize("depth", SIZES)
@pytest.mark.parametrize("gater", GATERS)
def test_pickles_predict_the_same(data, gater, depth):
    X, y = data
    estimator = make(gater, hidden_layer_sizes=SIZES[depth]).fit(X, y)
    copy = pickle.loads(pickle.dumps(estimator))
    assert_same_estimator(copy, estimator, X)
    sampled = [e.sample_proba(X, 2, random_state=0) for e in (estimator, copy)]
    np.testing.assert_array_equal(*sampled)


@pytest.mark.parametrize("mmap_mode", [None, "r", "c"])
def test_joblib_dumps_predict_and_learn_the_same(data, tmp_path, mmap_mode):
    X, y = data
    options = {"solver": "adam", "learning_rate_init": 0.01}
    estimator = make("sbn", **options).partial_fit(X, y, classes=np.unique(y))
    joblib.dump(estimator, tmp_path / "estimator")
    copy = joblib.load(tmp_path / "estimator", mmap_mode=mmap_mode)
    assert_same_estimator(copy, estimator, X)
    for either in (copy, estimator):
        either.partial_fit(X, y)
    assert_same_estimator(copy, estimator, X)


def test_grid_search_in_two_processes(data):
    X, y = data
    grid = {
        "gater": ["st", "sts", "rectifier"],
        "density": [0.2, 0.5],
        "hidden_layer_sizes": [(12,), (10, 8)],
    }
    searches = [
        GridSearchCV(make(max_iter=2), grid, cv=2, n_jobs=n_jobs).fit(X, y)
        for n_jobs in (1, 2)
    ]
    serial, parallel = (search.cv_results_ for search in searches)
    assert len(serial["params"]) == 12
    for name in serial:
        if "time" not in name:
            np.testing.assert_array_equal(serial[name], parallel[name])
    assert len(set(serial["mean_test_score"])) > 6
    assert_same_estimator(*(search.best_estimator_ for search in searches), X)


def test_pipeline(data):
    X, y = data
    X = X * 100 + 1000
    pipeline = make_pipeline(StandardScaler(), make()).fit(X, y)
    scaled = StandardScaler().fit_transform(X)
    alone = make().fit(scaled, y)
    np.testing.assert_array_equal(
        pipeline.predict_proba(X), alone.predict_proba(scaled)
    )
    pipeline.set_params(gatedmlpclassifier__density=0.6).fit(X, y)
    assert pipeline[-1].density_ == pytest.approx([0.6], abs=0.01)


LABELS = {
    "strings": np.array(["zebra", "ant", "mule"]),
    "objects": np.array(["zebra", "ant", "mule"], dtype=object),
    "integers with gaps": np.array([1000, -5, 3]),
    "unsigned bytes": np.array([255, 0, 7], dtype=np.uint8),
    "whole floats": np.array([2.0, -1.0, 0.0]),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels(data, kind):
    X, y = data
    labels = LABELS[kind]
    order = np.argsort(labels)
    codes = np.argsort(order)
    expected = make().fit(X, codes[y])
    estimator = make().fit(X, labels[y])
    np.testing.assert_array_equal(estimator.classes_, labels[order])
    assert estimator.classes_.dtype == labels.dtype
    assert_same_estimator(estimator, expected, X)
    predicted = estimator.predict(X)
    assert predicted.dtype == labels.dtype
    np.testing.assert_array_equal(predicted, labels[order][expected.predict(X)])
    assert set(predicted) == set(labels)

    partial = make().partial_fit(X, labels[y], classes=labels)
    expected = make().partial_fit(X, codes[y], classes=[0, 1, 2])
    np.testing.assert_array_equal(
        partial.predict(X), labels[order][expected.predict(X)]
    )


def test_two_classes_of_booleans():
    X, y = make_data(n_classes=2)
    estimator = make(max_iter=20).fit(X, y == 1)
    assert estimator.predict_proba(X).shape == (len(X), 2)
    assert estimator.predict(X).dtype == bool
    assert estimator.score(X, y == 1) > 0.8


# ---------------------------------------------------------------------------
# Attributes
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("depth", SIZES)
@pytest.mark.parametrize("gater", GATERS)
def test_attributes(data, gater, depth):
    X, y = data
    sizes = SIZES[depth]
    estimator = make(gater, hidden_layer_sizes=sizes).fit(X, y)
    np.testing.assert_array_equal(estimator.classes_, [0, 1, 2])
    assert estimator.n_features_in_ == 9
    assert estimator.n_iter_ == 3
    assert estimator.t_ == 3 * len(X)
    assert len(estimator.loss_curve_) == 3
    assert estimator.loss_ == estimator.loss_curve_[-1]
    assert estimator.best_loss_ == min(estimator.loss_curve_)
    assert estimator.loss_curve_[-1] < estimator.loss_curve_[0]
    assert estimator.validation_scores_ is None
    assert estimator.best_validation_score_ is None

    widths = [9, *sizes, 3]
    shapes = list(zip(widths[:-1], widths[1:], strict=True))
    assert [coefs.shape for coefs in estimator.coefs_] == shapes
    assert [b.shape for b in estimator.intercepts_] == [(n,) for n in widths[1:]]

    # all rows are among the calibration rows, there are few
    matrices = estimator.gates(X) if depth > 1 else [estimator.gates(X)]
    rates = [(matrix.toarray() != 0).mean(axis=0) for matrix in matrices]
    for rate, expected in zip(estimator.firing_rates_, rates, strict=True):
        np.testing.assert_allclose(rate, expected, rtol=1e-12)
    means = [rate.mean() for rate in rates]
    np.testing.assert_allclose(estimator.density_, means, rtol=1e-12)
    if gater in DENSE:
        assert estimator.density_ == [1.0] * depth
        assert estimator.thresholds_ == [-np.inf] * depth
    else:
        assert np.isfinite(estimator.thresholds_).all()

    assert len(estimator.density_curve_) == 3
    assert estimator.density_curve_[-1] == pytest.approx(estimator.training_density_)
    for rate, density, size in zip(
        estimator.training_firing_rates_,
        estimator.training_density_,
        sizes,
        strict=True,
    ):
        assert rate.shape == (size,)
        assert rate.mean() == pytest.approx(density)
        assert 0 <= rate.min() <= rate.max() <= 1
        counts = rate * len(X)
        np.testing.assert_allclose(counts, counts.round(), atol=1e-9)


@pytest.mark.parametrize("gater", STOCHASTIC)
def test_training_firing_rates_are_those_of_the_gates(data, gater):
    """Weights that hardly move fire as often as their probability says."""
    X, y = data
    frozen = {"learning_rate_init": 1e-30, "firing_rate_step": 0.0}
    estimator = make(gater, max_iter=1, **frozen).fit(X, y)
    (layer,) = oracle_parameters(estimator._network).layers
    _, a = oracle.gater_pre_activation(layer, X)
    own = oracle_gater(estimator._network.layers[0].gater)
    rng = np.random.default_rng(0)
    noise = oracle.LayerNoise(
        uniform=None if gater == "noisy_rectifier" else rng.random(a.shape),
        additive=rng.normal(size=a.shape) if gater == "noisy_rectifier" else None,
    )
    p = oracle.apply_unit(a, noise, own)[1].probability.T
    fired = estimator.training_firing_rates_[0] * len(X)
    z = (fired - p.sum(axis=0)) / np.sqrt((p * (1 - p)).sum(axis=0))
    assert np.abs(z).max() < 4.5
    assert 0.5 < np.sqrt(np.mean(z**2)) < 1.5


def test_attributes_of_partial_fit(data):
    X, y = data
    estimator = make().partial_fit(X[:50], y[:50], classes=[0, 1, 2])
    estimator.partial_fit(X[50:], y[50:])
    assert estimator.n_iter_ == 2
    assert estimator.t_ == len(X)
    assert len(estimator.loss_curve_) == len(estimator.density_curve_) == 2
    assert estimator.loss_ == estimator.loss_curve_[-1]
    assert estimator.best_loss_ == min(estimator.loss_curve_)
    assert estimator.validation_scores_ is None
    assert estimator.best_validation_score_ is None
    counts = estimator.training_firing_rates_[0] * (len(X) - 50)
    np.testing.assert_allclose(counts, counts.round(), atol=1e-9)
    assert estimator.density_curve_[-1] == pytest.approx(estimator.training_density_)
    fired = estimator.gates(X).toarray() != 0
    np.testing.assert_allclose(estimator.firing_rates_[0], fired.mean(axis=0))


# ---------------------------------------------------------------------------
# Stopping, schedule, history
# ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def noisy_data():
    """Training and validation rows whose best epoch is not the last."""
    X, y = make_data(300)
    rng = np.random.default_rng(0)
    y = np.where(rng.random(len(y)) < 0.3, rng.integers(3, size=len(y)), y)
    return train_test_split(X, y, test_size=100, random_state=0)


@pytest.mark.parametrize(
    ("depth", "solver", "learning_rate"), [(1, "sgd", 0.2), (2, "adam", 0.05)]
)
@pytest.mark.parametrize("gater", GATERS)
def test_early_stopping_restores_the_best_epoch(
    noisy_data, gater, depth, solver, learning_rate
):
    X, X_val, y, y_val = noisy_data
    options = {"hidden_layer_sizes": SIZES[depth], "solver": solver}
    options["learning_rate_init"] = learning_rate
    for seed in range(5):  # until the best epoch is not the last
        options["random_state"] = seed
        estimator = make(gater, max_iter=12, early_stopping=True, **options)
        estimator.fit(X, y, X_val=X_val, y_val=y_val)
        scores = estimator.validation_scores_
        best = int(np.argmax(scores))
        if best < 11:
            break
    assert best < 11
    assert len(scores) == estimator.n_iter_ == 12
    assert estimator.t_ == 12 * len(X)
    assert estimator.best_loss_ is None
    assert estimator.best_validation_score_ == scores[best]
    assert estimator.score(X_val, y_val) == scores[best]

    shorter = make(gater, max_iter=best + 1, **options).fit(X, y)
    arrays = (copy_of_state(e._network) for e in (estimator, shorter))
    assert_same_bits(*arrays)
    assert estimator.training_density_ == shorter.training_density_


def test_early_stopping_splits_the_training_rows(noisy_data):
    X, _, y, _ = noisy_data
    labels = np.array(["a", "b", "c"])[y]
    options = {"max_iter": 8, "early_stopping": True, "validation_fraction": 0.25}
    estimator = make(random_state=3, **options).fit(X, labels)
    assert estimator.t_ == 8 * 150
    X_train, X_held, y_train, y_held = train_test_split(
        X, labels, test_size=0.25, random_state=3, stratify=labels
    )
    assert estimator.score(X_held, y_held) == estimator.best_validation_score_
    twin = make(random_state=3, **options)
    twin.fit(X_train, y_train, X_val=X_held, y_val=y_held)
    assert twin.validation_scores_ == estimator.validation_scores_


def epochs_until_stop(scores, tol, n_iter_no_change):
    """How many epochs with these scores there are before training stops."""
    best, without_gain = -np.inf, 0
    for epoch, score in enumerate(scores):
        without_gain = 0 if score > best + tol else without_gain + 1
        best = max(best, score)
        if without_gain > n_iter_no_change:
            return epoch + 1
    raise AssertionError("training would go on")


def test_early_stopping_stops(noisy_data):
    X, X_val, y, y_val = noisy_data
    rule = {"tol": 0.01, "n_iter_no_change": 3}
    estimator = make(max_iter=100, early_stopping=True, **rule)
    estimator.fit(X, y, X_val=X_val, y_val=y_val)
    assert estimator.n_iter_ == epochs_until_stop(estimator.validation_scores_, **rule)
    assert estimator.n_iter_ == len(estimator.validation_scores_)


def test_validation_data_may_lack_classes(data):
    X, y = data
    estimator = make(early_stopping=True)
    estimator.fit(X, y, X_val=X[y == 1], y_val=y[y == 1])
    assert estimator.best_validation_score_ == estimator.score(X[y == 1], y[y == 1])


def test_validation_data_choose_what_gates_become(data):
    """Small ones are better for wrong labels, large ones for the right ones."""
    X, y = data
    options = {"max_iter": 8, "gater_learning_rate_init": 0.1}
    values = []
    for y_val in (y, (y + 1) % 3):
        estimator = make("sts", early_stopping=True, **options)
        estimator.fit(X, y, X_val=X, y_val=y_val)
        assert estimator.score(X, y_val) == estimator.best_validation_score_
        values.append(estimator._network.layers[0].value)
    assert values == [1, 0]


def test_validation_errors(data):
    X, y = data
    estimator = make(early_stopping=True)
    for given in ({"X_val": X}, {"y_val": y}):
        with pytest.raises(ValueError, match="X_val and y_val must be given together"):
            estimator.fit(X, y, **given)
    with pytest.raises(ValueError, match="need early_stopping=True"):
        make().fit(X, y, X_val=X, y_val=y)
    with pytest.raises(ValueError, match=r"y_val has classes .*not have: \[7\]"):
        estimator.fit(X, y, X_val=X, y_val=np.where(y == 2, 7, y))
    with pytest.raises(ValueError, match="8 features.*expecting 9"):
        estimator.fit(X, y, X_val=X[:, :8], y_val=y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        estimator.fit(X, y, X_val=X, y_val=y[1:])
    with pytest.raises(ValueError, match="0 sample"):
        estimator.fit(X, y, X_val=X[:0], y_val=y[:0])


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("gater", GATERS)
def test_warm_start_continues(data, gater, shuffle):
    """Two epochs and three are five: order, noise and optimiser's state go on."""
    X, y = data
    options = {"shuffle": shuffle, "solver": "adam", "learning_rate_init": 0.01}
    once = make(gater, max_iter=5, **options).fit(X, y)
    twice = make(gater, max_iter=2, warm_start=True, **options).fit(X, y)
    assert_different(twice.coefs_[0], once.coefs_[0])
    twice.set_params(max_iter=3).fit(X, y)
    assert_same_estimator(twice, once, X)
    assert twice.n_iter_ == 5
    assert twice.t_ == 5 * len(X)
    assert twice.loss_curve_ == once.loss_curve_
    assert twice.density_curve_ == once.density_curve_
    assert twice.best_loss_ == once.best_loss_


def test_without_warm_start_nothing_is_left_of_the_first_fit(data):
    X, y = data
    once = make().fit(X, y)
    twice = make().fit(X[:, :4], y == 1).fit(X, y)
    assert_same_estimator(twice, once, X)
    assert twice.n_iter_ == 3
    assert len(twice.loss_curve_) == 3


def test_warm_start_starts_the_decay_again(data):
    X, y = data
    twice = make(max_iter=1, warm_start=True, learning_rate_decay=0.5)
    twice.fit(X, y).fit(X, y)
    assert_same_estimator(twice, make(max_iter=2).fit(X, y), X)


def test_warm_start_errors(data):
    X, y = data
    estimator = make(warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match="same classes as in the previous call"):
        estimator.fit(X, y + 1)
    with pytest.raises(ValueError, match="expecting 9 features"):
        estimator.fit(X[:, :5], y)


def test_stops_where_the_loss_does_not_fall(data):
    """After as many epochs as scikit-learn's network."""
    X, y = data
    options = {"tol": 1e9, "n_iter_no_change": 4, "max_iter": 50}
    estimator = make(**options).fit(X, y)
    theirs = MLPClassifier(solver="sgd", **options).fit(X, y)
    assert estimator.n_iter_ == theirs.n_iter_ == 6
    assert len(estimator.loss_curve_) == 6


def test_tol_is_the_least_gain(noisy_data):
    X, _, y, _ = noisy_data
    scores = -np.array(make(max_iter=100).fit(X, y).loss_curve_)
    stops = []
    for rule in (
        {"tol": 0.0, "n_iter_no_change": 1},
        {"tol": 0.1, "n_iter_no_change": 1},
        {"tol": 0.0, "n_iter_no_change": 4},
    ):
        estimator = make(max_iter=100, **rule).fit(X, y)
        stops.append(epochs_until_stop(scores, **rule))
        assert estimator.n_iter_ == stops[-1]
        assert -estimator.loss_ == scores[stops[-1] - 1]
    assert len(set(stops)) == 3


def test_warns_at_the_callers_line_that_epochs_have_run_out(data):
    X, y = data
    estimator = make(n_iter_no_change=2)
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(3\)") as caught:
        estimator.fit(X, y)
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize(
    ("schedule", "second_rates"),
    [
        ({"learning_rate_decay": 0.5}, (0.05, 0.1)),
        ({"learning_rate_decay": 0.5, "learning_rate_min": 0.07}, (0.07, 0.1)),
        ({"learning_rate_decay": 0.5, "learning_rate_min": 0.15}, (0.1, 0.15)),
        ({"learning_rate_min": 0.3}, (0.1, 0.2)),
    ],
)
def test_learning_rates_follow_the_schedule(data, schedule, second_rates):
    """The second epoch's rates, and with them its weights, are these exactly."""
    X, y = data
    rates = {"learning_rate_init": 0.1, "gater_learning_rate_init": 0.2}
    decayed = make(max_iter=2, **rates, **schedule).fit(X, y)
    by_hand = make(max_iter=1, warm_start=True, **rates).fit(X, y)
    names = ("learning_rate_init", "gater_learning_rate_init")
    by_hand.set_params(**dict(zip(names, second_rates, strict=True))).fit(X, y)
    assert_same_estimator(decayed, by_hand, X)


def test_schedule_of_an_estimator(data):
    X, y = data
    seen = []

    class Spy(Schedule):
        def rates(self, epoch):
            seen.append((epoch, super().rates(epoch)))
            return seen[-1][1]

    rates = {"learning_rate_init": 0.3, "learning_rate_decay": 0.9}
    estimator = make(max_iter=4, learning_rate_min=0.25, **rates)
    original = estimator._schedule(len(X))
    estimator._schedule = lambda n_rows: Spy(**original.__dict__)
    estimator.fit(X, y)
    expected = [max(0.3 * 0.9**epoch, 0.25) for epoch in range(4)]
    assert seen == [(epoch, (rate, rate)) for epoch, rate in enumerate(expected)]


@pytest.mark.parametrize("early_stopping", [False, True])
def test_verbose_prints_a_line_for_each_epoch(data, capsys, early_stopping):
    X, y = data
    options = {"hidden_layer_sizes": (8, 6), "early_stopping": early_stopping}
    make(**options).fit(X, y)
    assert capsys.readouterr().out == ""
    estimator = make(verbose=True, **options).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    for epoch, line in enumerate(lines):
        words = f"Iteration {epoch + 1}, loss = {estimator.loss_curve_[epoch]:.8f}"
        assert line.startswith(words)
        densities = ", ".join(f"{d:.3f}" for d in estimator.density_curve_[epoch])
        assert f"density = {densities}" in line
        assert ("validation score = " in line) == early_stopping
        if early_stopping:
            assert line.endswith(f"{estimator.validation_scores_[epoch]:.6f}")


# ---------------------------------------------------------------------------
# The same bits
# ---------------------------------------------------------------------------


# Above the work below which the engine does not use threads.
LARGE = {1: {"hidden_layer_sizes": (300,)}, 2: {"hidden_layer_sizes": (300, 90)}}
for _options in LARGE.values():
    _options.update(gater_hidden_size=400, batch_size=32)


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return (X / 16).astype(np.float32)[:100], y[:100]


def test_large_is_above_the_serial_threshold(digits):
    n_inputs = digits[0].shape[1]
    assert 32 * 400 * (n_inputs + 300) > engine.serial_work()


@pytest.mark.parametrize("depth", LARGE)
@pytest.mark.parametrize("gater", GATERS)
def test_any_number_of_threads(digits, gater, depth):
    X, y = digits
    options = {"max_iter": 2, "momentum": 0.5, **LARGE[depth]}
    fits = [make(gater, n_jobs=n, **options).fit(X, y) for n in (1, 2, 3, 4, None)]
    serial = fits[0]
    assert len(serial.coefs_) == depth + 1
    sampled = serial.sample_proba(X, 2, random_state=0)
    for fit in fits[1:]:
        assert_same_estimator(fit, serial, X)
        np.testing.assert_array_equal(fit.sample_proba(X, 2, random_state=0), sampled)
        assert fit.density_ == serial.density_


FINGERPRINT = """
import hashlib
import numpy as np
from sklearn.datasets import load_digits
from stochnet import GatedMLPClassifier
from stochnet.gaters import GATERS

X, y = load_digits(return_X_y=True)
X, y = X[:100] / 16, y[:100]
hashes = {}
for gater in GATERS:
    estimator = GatedMLPClassifier(
        (300, 20), gater, max_iter=2, n_iter_no_change=2, gater_hidden_size=400,
        random_state=5, n_jobs=N_JOBS,
    ).fit(X, y)
    arrays = [*estimator.coefs_, *estimator.intercepts_, estimator.predict_proba(X)]
    arrays += [np.array(estimator.thresholds_), estimator.sample_proba(X, 2, 7)]
    hashes[gater] = hashlib.sha256(b"".join(map(bytes, arrays))).hexdigest()
"""


def test_a_fresh_process_gives_the_same_bits():
    here = {"N_JOBS": 1}
    exec(FINGERPRINT, here)
    hashes = here["hashes"]
    assert len(set(hashes.values())) == len(GATERS)
    code = "N_JOBS = 2\n" + FINGERPRINT + "print(hashes)"
    run = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=100
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == str(hashes)


def test_random_state(data):
    X, y = data

    def fit(random_state):
        return make(random_state=random_state).fit(X, y).predict_proba(X)

    np.testing.assert_array_equal(fit(1), fit(1))
    assert_different(fit(1), fit(2))
    np.testing.assert_array_equal(fit(np.random.RandomState(1)), fit(1))
    shared = np.random.RandomState(1)
    assert_different(fit(shared), fit(shared))
    before = np.random.get_state()[1].copy()
    fit(1)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    assert_different(fit(None), fit(None))


# ---------------------------------------------------------------------------
# partial_fit
# ---------------------------------------------------------------------------

SOLVERS = {
    "momentum": {"solver": "sgd", "momentum": 0.9, "learning_rate_init": 0.05},
    "adam": {"solver": "adam", "learning_rate_init": 0.01},
}


@pytest.mark.parametrize("depth", SIZES)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("gater", GATERS)
def test_partial_fit_in_pieces_is_a_pass_of_fit(data, gater, solver, depth):
    """Also through a pickle between any two pieces, and with predictions between."""
    X, y = data
    options = {"hidden_layer_sizes": SIZES[depth], **SOLVERS[solver]}
    whole = make(gater, shuffle=False, max_iter=1, **options).fit(X, y)
    for size in (16, 48):
        pieces = make(gater, **options)
        for start in range(0, len(X), size):
            piece = slice(start, start + size)
            pieces.partial_fit(X[piece], y[piece], classes=[0, 1, 2])
            pieces = pickle.loads(pickle.dumps(pieces))
            if start == size:
                pieces.predict(X[:3])
        assert len(X) % size and pieces.t_ == len(X)
        # those are counts and losses of the last piece alone
        arrays = [
            without(state(e, X), "fired", "loss_", "reads") for e in (pieces, whole)
        ]
        assert_same_bits(*arrays)
        n_states = 1 if solver == "momentum" else 2
        assert f"0.expert.weight_state[{n_states - 1}]" in arrays[0]
        assert pieces._network.step == whole._network.step
        weights = [len(X[start : start + size]) for start in range(0, len(X), size)]
        mean = np.average(pieces.loss_curve_, weights=weights)
        assert mean == pytest.approx(whole.loss_, rel=1e-12)
        assert pieces.density_ == whole.density_


def test_partial_fit_continues_a_fit(data):
    X, y = data
    options = {"shuffle": False, **SOLVERS["momentum"]}
    both = make(max_iter=1, **options).fit(X, y).partial_fit(X, y)
    twice = make(max_iter=2, **options).fit(X, y)
    assert_same_bits(copy_of_state(both._network), copy_of_state(twice._network))
    assert both.n_iter_ == 2
    assert both.loss_curve_ == twice.loss_curve_


def test_fit_forgets_partial_fit(data):
    X, y = data
    estimator = make().partial_fit(X[:, :4], y == 1, classes=[False, True])
    assert_same_estimator(estimator.fit(X, y), make().fit(X, y), X)


def test_partial_fit_with_classes_that_come_later(data):
    X, y = data
    order = np.argsort(y, kind="stable")
    X, y = X[order], y[order]
    estimator = make().partial_fit(X[:20], y[:20], classes=[2, 0, 1])
    assert set(y[:20]) == {0}
    np.testing.assert_array_equal(estimator.classes_, [0, 1, 2])
    estimator.partial_fit(X[20:], y[20:])
    whole = make(shuffle=False, max_iter=1, batch_size=20).fit(X, y)
    pieces = make(batch_size=20).partial_fit(X[:20], y[:20], classes=[2, 0, 1])
    pieces.partial_fit(X[20:], y[20:])
    np.testing.assert_array_equal(pieces.predict_proba(X), whole.predict_proba(X))


def test_partial_fit_errors(data):
    X, y = data
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        make().partial_fit(X, y)
    estimator = make().partial_fit(X, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="not the same as on last call"):
        estimator.partial_fit(X, y, classes=[0, 1, 3])
    with pytest.raises(ValueError, match="`y` has classes not in `self.classes_`"):
        estimator.partial_fit(X, y + 1)
    with pytest.raises(ValueError, match="expecting 9 features"):
        estimator.partial_fit(X[:, 1:], y)
    before = copy_of_state(estimator._network)
    estimator.partial_fit(X, y, classes=[0, 1, 2])
    assert estimator.n_iter_ == 2
    assert_different(copy_of_state(estimator._network)["0.expert.weight"], before)


def test_partial_fit_refuses_one_class_and_takes_more_later(data):
    X, y = data
    estimator = make()
    with pytest.raises(ValueError, match="at least 2 classes"):
        estimator.partial_fit(X[y == 1], y[y == 1], classes=[1])
    estimator.partial_fit(X, y, classes=[0, 1, 2])
    assert estimator.n_iter_ == 1


# ---------------------------------------------------------------------------
# Prediction
# ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many_rows():
    X, y = make_classification(6000, 20, n_informative=10, n_classes=3, random_state=0)
    X = X.astype(np.float32)
    return X[:4000], y[:4000], X[4000:]


@pytest.mark.parametrize("density", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("gater", GATERS)
def test_density_on_rows_not_seen(many_rows, gater, density):
    X, y, X_held = many_rows
    estimator = make(
        gater, hidden_layer_sizes=(300,), density=density, max_iter=2, batch_size=32
    ).fit(X, y)
    gates = estimator.gates(X_held)
    held = gates.nnz / np.prod(gates.shape)
    (threshold,) = estimator.thresholds_
    if gater in DENSE:
        assert held == 1.0
    elif gater == "rectifier" and threshold == 0:
        # fewer gates are above 0, the least threshold of a rectifier
        assert density - 0.05 < held < density + 0.01
    else:
        assert held == pytest.approx(density, abs=0.01)
    assert held == pytest.approx(estimator.density_[0], abs=0.01)
    assert estimator.density_[0] < density + 1e-4 or gater in DENSE


@pytest.fixture(scope="module", params=GATERS)
def fitted(request):
    """Estimators of one and two layers of each gater, by depth, and 1100 rows."""
    X, y = make_data(1100)
    estimators = {
        depth: make(request.param, hidden_layer_sizes=sizes).fit(X[:200], y[:200])
        for depth, sizes in SIZES.items()
    }
    return request.param, estimators, X


@pytest.mark.parametrize("depth", SIZES)
def test_probabilities(fitted, depth):
    _, estimators, X = fitted
    estimator = estimators[depth]
    probability = estimator.predict_proba(X)
    assert probability.shape == (1100, 3)
    assert probability.dtype == np.float32
    assert probability.min() >= 0
    np.testing.assert_allclose(probability.sum(axis=1), 1, atol=1e-6)
    assert probability.std(axis=0).min() > 0.01
    np.testing.assert_array_equal(estimator.predict_log_proba(X), np.log(probability))
    np.testing.assert_array_equal(estimator.predict(X), probability.argmax(axis=1))


@pytest.mark.parametrize("depth", SIZES)
def test_a_row_does_not_depend_on_its_neighbours(fitted, depth):
    _, estimators, X = fitted
    estimator = estimators[depth]
    X = X.copy()
    X[17] = 0
    probability = estimator.predict_proba(X)
    for i in (0, 1, 17, 18, 31, 1023, 1024, 1099):
        alone = estimator.predict_proba(X[i : i + 1])
        np.testing.assert_array_equal(alone[0], probability[i])
    order = np.random.default_rng(0).permutation(len(X))
    np.testing.assert_array_equal(estimator.predict_proba(X[order]), probability[order])
    for rows in (slice(3, 8), slice(5, 38), slice(500, 1100), slice(None, None, 7)):
        np.testing.assert_array_equal(
            estimator.predict_proba(X[rows]), probability[rows]
        )


@pytest.mark.parametrize("depth", SIZES)
def test_gates(fitted, depth):
    """They are what lies between the experts and predict_proba."""
    _, estimators, X = fitted
    estimator = estimators[depth]
    matrices = estimator.gates(X)
    assert isinstance(matrices, list) == (depth > 1)
    matrices = matrices if depth > 1 else [matrices]
    assert len(matrices) == depth
    x = X.astype(np.float64)
    for gates, W, b in zip(
        matrices, estimator.coefs_, estimator.intercepts_, strict=False
    ):
        assert isinstance(gates, csr_matrix)
        assert gates.dtype == np.float32
        assert gates.shape == (len(X), W.shape[1])
        assert (gates.data > 0).all()
        x = gates.toarray().astype(np.float64) * (x @ W.astype(np.float64) + b)
    logits = x @ estimator.coefs_[-1].astype(np.float64) + estimator.intercepts_[-1]
    # float32 against float64; logits are of the order of 10
    np.testing.assert_allclose(
        estimator.predict_proba(X), softmax(logits, axis=1), atol=1e-5
    )
    density = np.mean([np.diff(m.indptr).mean() / m.shape[1] for m in matrices])
    assert density == 1 if fitted[0] in DENSE else 0.1 < density < 0.4


def test_gates_of_one_row(fitted):
    _, estimators, X = fitted
    for depth, estimator in estimators.items():
        matrices, alone = estimator.gates(X), estimator.gates(X[700:701])
        if depth == 1:
            matrices, alone = [matrices], [alone]
        for matrix, row in zip(matrices, alone, strict=True):
            np.testing.assert_array_equal(row.toarray(), matrix[[700]].toarray())


# ---------------------------------------------------------------------------
# sample_proba
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("depth", SIZES)
def test_samples_are_functions_of_their_random_state(fitted, depth):
    gater, estimators, X = fitted
    estimator, X = estimators[depth], X[:60]
    first = estimator.sample_proba(X, 2, random_state=1)
    assert first.shape == (60, 3)
    assert first.dtype == np.float32
    np.testing.assert_allclose(first.sum(axis=1), 1, atol=1e-6)
    estimator.sample_proba(X, 3, random_state=8)
    np.testing.assert_array_equal(estimator.sample_proba(X, 2, random_state=1), first)
    others = [
        estimator.sample_proba(X, 2, random_state=2),
        estimator.sample_proba(X, 2),
        estimator.sample_proba(X, 3, random_state=1),
    ]
    for other in others:
        if gater in (*STOCHASTIC, "concrete"):
            assert_different(other, first)
        else:
            np.testing.assert_array_equal(other, first)
    if gater == "sigmoid":
        np.testing.assert_array_equal(first, estimator.predict_proba(X))


@pytest.mark.parametrize("depth", SIZES)
def test_sampling_changes_nothing(fitted, depth):
    _, estimators, X = fitted
    estimator, X = estimators[depth], X[:20]
    before = (
        state(estimator, X),
        estimator._network.seed,
        np.random.get_state()[1].copy(),
    )
    estimator.sample_proba(X, 2, random_state=1)
    assert_same_bits(state(estimator, X), before[0])
    assert estimator._network.seed == before[1]
    np.testing.assert_array_equal(np.random.get_state()[1], before[2])


def test_sampling_does_not_copy_the_network(fitted):
    _, estimators, _ = fitted
    network = estimators[1]._network
    twin = network.with_seed(network.seed + 1)
    assert twin.seed == network.seed + 1
    for name, group in twin.parameters():
        assert np.shares_memory(group.weight, dict(network.parameters())[name].weight)


def test_ten_draws_by_default(fitted):
    _, estimators, X = fitted
    estimator, X = estimators[1], X[:20]
    np.testing.assert_array_equal(
        estimator.sample_proba(X, random_state=1),
        estimator.sample_proba(X, 10, random_state=1),
    )


@pytest.mark.parametrize("depth", SIZES)
@pytest.mark.parametrize("gater", STOCHASTIC)
def test_samples_have_the_mean_of_independent_draws(gater, depth):
    """Of draws made in NumPy; and so has the variance of means of four draws."""
    X, y = make_data(100)
    sizes = {1: (10,), 2: (9, 8)}[depth]
    # trained for long, some rows are as sure of a class as single precision can be
    options = {"max_iter": 1, "learning_rate_init": 0.01}
    estimator = make(gater, hidden_layer_sizes=sizes, **options).fit(X, y)
    X, y, n = X[:12], y[:12], 3000
    network = estimator._network
    parameters = oracle_parameters(network)
    gaters = [oracle_gater(layer.gater) for layer in network.layers]
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(n):
        noises = [
            oracle.LayerNoise(additive=rng.normal(size=(size, 12)))
            if gater == "noisy_rectifier"
            else oracle.LayerNoise(uniform=rng.random((size, 12)))
            for size in sizes
        ]
        logits = oracle.forward(parameters, X, y, gaters, noises).logits
        draws.append(softmax(logits, axis=1))
    mean, variance = np.mean(draws, axis=0), np.var(draws, axis=0)
    assert variance.min() > 1e-6
    z = (estimator.sample_proba(X, n, random_state=3) - mean) / np.sqrt(
        2 * variance / n
    )
    assert np.abs(z).max() < 5
    assert 0.4 < np.sqrt(np.mean(z**2)) < 1.6

    fours = [estimator.sample_proba(X, 4, random_state=seed) for seed in range(400)]
    ratio = 4 * np.var(fours, axis=0).mean() / variance.mean()
    assert ratio == pytest.approx(1, abs=0.15)


def test_rows_are_drawn_independently(data):
    X, y = data
    estimator = make().fit(X, y)
    same = np.repeat(X[:1], 64, axis=0)
    assert len(np.unique(estimator.sample_proba(same, 1, random_state=0)[:, 0])) > 32
    assert len(np.unique(estimator.predict_proba(same)[:, 0])) == 1


def test_chunks_change_nothing(fitted, monkeypatch):
    gater, estimators, X = fitted
    X = X[:100]

    def results():
        for depth, estimator in estimators.items():
            yield estimator.predict_proba(X)
            yield estimator.sample_proba(X, 2, random_state=0)
            gates = estimator.gates(X)
            yield from (m.toarray() for m in (gates if depth > 1 else [gates]))
            yield from estimator.firing_rates_

    at_once = list(results())
    monkeypatch.setattr(stochnet.network, "PREDICTION_FLOATS", 1)
    assert estimators[1]._network.prediction_rows() == 16
    for first, second in zip(at_once, results(), strict=True):
        np.testing.assert_array_equal(first, second)


# ---------------------------------------------------------------------------
# Several Python threads
# ---------------------------------------------------------------------------


def in_threads(functions):
    """Their results, all started at once in a thread each."""
    barrier = threading.Barrier(len(functions))

    def run(function):
        barrier.wait(timeout=60)
        return function()

    with ThreadPoolExecutor(len(functions)) as pool:
        return list(pool.map(run, functions))


@pytest.mark.parametrize("gater", GATERS)
def test_predictions_in_several_threads(digits, gater):
    X, y = digits
    estimator = make(gater, n_jobs=2, max_iter=1, **LARGE[2]).fit(X, y)
    calls = [
        lambda: estimator.predict_proba(X),
        lambda: estimator.predict_proba(X[::-1]),
        lambda: estimator.sample_proba(X, 2, random_state=0),
        lambda: estimator.gates(X)[0].toarray(),
        lambda: estimator.sample_proba(X, 2, random_state=1),
        lambda: np.array(estimator.firing_rates_[1]),
    ]
    serial = [call() for call in calls]
    for _ in range(3):
        for first, second in zip(in_threads(calls), serial, strict=True):
            np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("gater", ["sts", "st"])
def test_first_predictions_after_partial_fit_in_several_threads(
    data, gater, monkeypatch
):
    """One thread calibrates, and none predicts before it has finished."""
    X, y = data
    estimator = make(gater).partial_fit(X, y, classes=[0, 1, 2])
    expected = pickle.loads(pickle.dumps(estimator)).predict_proba(X)
    calibrate, calls = stochnet.estimator.calibrate, []

    def slowly(network, *args, **kwargs):
        calls.append(threading.get_ident())
        network.layers[0].threshold = np.inf
        time.sleep(0.05)
        calibrate(network, *args, **kwargs)

    monkeypatch.setattr(stochnet.estimator, "calibrate", slowly)
    results = in_threads([lambda: estimator.predict_proba(X)] * 4)
    for result in results:
        np.testing.assert_array_equal(result, expected)
    assert len(calls) == 1


def test_fits_in_several_threads(digits):
    X, y = digits

    def fit(gater):
        return make(gater, n_jobs=2, max_iter=2, **LARGE[1]).fit(X, y)

    serial = [fit(gater) for gater in GATERS]
    parallel = in_threads([lambda gater=gater: fit(gater) for gater in GATERS])
    for first, second in zip(parallel, serial, strict=True):
        assert_same_estimator(first, second, X)


def test_joblib_threads_predict_the_same(data):
    X, y = data
    estimator = make().fit(X, y)
    expected = estimator.predict_proba(X)
    with joblib.Parallel(n_jobs=2, backend="threading") as parallel:
        parts = parallel(
            joblib.delayed(estimator.predict_proba)(X[start : start + 40])
            for start in range(0, 120, 40)
        )
    np.testing.assert_array_equal(np.concatenate(parts), expected)


@pytest.mark.parametrize("gater", ["st", "noisy_rectifier", "sbn"])
def test_block_gates(gater):
    """One gate for each 16 experts: shapes, pickling, and that they learn."""
    X, y = load_digits(return_X_y=True)
    X = X / 16
    estimator = GatedMLPClassifier(
        512,
        gater=gater,
        experts_per_gate=16,
        max_iter=40,
        n_iter_no_change=np.inf,
        random_state=0,
    ).fit(X[:1200], y[:1200])
    assert estimator.coefs_[0].shape == (64, 512)
    assert estimator.gates(X[:9]).shape == (9, 32)
    assert estimator.firing_rates_[0].shape == (32,)
    assert abs(estimator.density_[0] - 0.1) < 0.01
    assert estimator.score(X[1200:], y[1200:]) > 0.85
    again = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(again.predict_proba(X), estimator.predict_proba(X))
