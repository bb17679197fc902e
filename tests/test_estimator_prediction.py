"""What a fitted estimator predicts, gates and samples."""

import numpy as np
import oracle
import pytest
from estimator_checks import SIZES, STOCHASTIC, assert_different, make, make_data, state
from helpers import DENSE, assert_same_bits, oracle_gater, oracle_parameters
from scipy.sparse import csr_matrix
from scipy.special import softmax
from sklearn.datasets import make_classification

import stochnet.network
from stochnet.gaters import GATERS


@pytest.fixture(scope="module")
def data():
    return make_data()


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
