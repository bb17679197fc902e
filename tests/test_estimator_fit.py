"""When `fit` stops and what it goes on from, and `partial_fit`."""

import pickle

import numpy as np
import pytest
from estimator_checks import (
    SIZES,
    assert_different,
    assert_same_estimator,
    make,
    make_data,
    state,
    without,
)
from helpers import assert_same_bits, copy_of_state
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from stochnet.gaters import GATERS
from stochnet.training import Schedule


@pytest.fixture(scope="module")
def data():
    return make_data()


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
