"""`GatedMLPClassifier`: what scikit-learn asks of it, its parameters and attributes."""

import pickle

import joblib
import numpy as np
import oracle
import pytest
from estimator_checks import (
    SIZES,
    STOCHASTIC,
    assert_different,
    assert_same_estimator,
    make,
    make_data,
)
from helpers import DENSE, oracle_gater, oracle_parameters
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import stochnet.network
from stochnet import GatedMLPClassifier
from stochnet.gaters import GATERS, make_gater


@pytest.fixture(scope="module")
def data():
    return make_data()


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
