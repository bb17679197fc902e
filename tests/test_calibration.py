"""Thresholds, the rows that they are chosen on, and the value that gates take."""

import pickle
from types import SimpleNamespace

import numpy as np
import oracle
import pytest
from helpers import (
    DENSE,
    DEPTHS,
    copy_of_state,
    make,
    make_batch,
    make_network,
    oracle_gater,
    oracle_parameters,
)

from stochnet._kernels.sample import next_below, priorities
from stochnet.calibration import (
    SCORES_AT_ONCE,
    CalibrationRows,
    calibrate,
    threshold_for,
)
from stochnet.gaters import GATERS

# ---------------------------------------------------------------------------
# threshold_for
# ---------------------------------------------------------------------------


def threshold(scores, density):
    """`threshold_for` of all scores at once, which is that of any pieces of them."""
    scores = scores.astype(np.float32)
    found = {
        threshold_for(np.array_split(scores, n, axis=1), density, scores.size)
        for n in (1, 2, 5)
    }
    assert len(found) == 1
    return found.pop()


@pytest.mark.parametrize("shape", [(1, 1), (7, 1), (1, 10), (23, 41)])
@pytest.mark.parametrize("density", [1e-9, 0.05, 0.1, 0.25, 0.3, 0.5, 0.9, 0.999])
def test_threshold_for_has_the_share_above_it(shape, density):
    rng = np.random.default_rng(0)
    scores = rng.permutation(np.prod(shape)).reshape(shape).astype(np.float32)
    found = threshold(scores, density)
    assert np.count_nonzero(scores > found) == round(density * scores.size)
    if found > -np.inf:
        assert found in scores


def test_threshold_for_density_one_lets_all_through():
    scores = np.array([[-3.0, -np.float32(3e38), 5.0]], dtype=np.float32)
    assert threshold(scores, 1.0) == -np.inf
    assert threshold(scores, 0.99) == -np.inf
    assert threshold(scores, 0.7) == -np.float32(3e38)


@pytest.mark.parametrize("density", [0.1, 0.35, 0.5, 0.75, 0.9])
def test_threshold_for_with_ties(density):
    """As many above it as ties allow, and never more than asked for."""
    scores = np.random.default_rng(0).integers(5, size=(20, 10)).astype(np.float32)
    found = threshold(scores, density)
    asked = round(density * scores.size)
    assert np.count_nonzero(scores > found) <= asked
    assert np.count_nonzero(scores >= found) > asked


def test_threshold_for_equal_scores_lets_none_through():
    assert threshold(np.full((4, 5), 2.5, dtype=np.float32), 0.5) == 2.5


def test_threshold_for_leaves_the_scores_alone():
    scores = np.random.default_rng(0).normal(size=(8, 9))
    scores = scores.astype(np.float32)
    before = scores.copy()
    threshold_for([scores], 0.3, scores.size)
    np.testing.assert_array_equal(scores, before)


@pytest.mark.parametrize("density", [1e-6, 0.01, 0.3, 0.49, 0.51, 0.99])
def test_threshold_for_more_scores_than_are_kept(density):
    """Or compared at a time; the least come first, the largest first, or neither."""
    n = 5 * SCORES_AT_ONCE + 7
    ascending = np.arange(n, dtype=np.float32)
    expected = n - 1 - round(density * n)
    for scores in (
        ascending,
        ascending[::-1],
        np.random.default_rng(0).permutation(ascending),
    ):
        assert threshold(scores.reshape(1, -1), density) == expected


def test_threshold_for_rare_gates_is_the_largest_score():
    scores = np.random.default_rng(0).normal(size=(8, 9))
    assert threshold(scores, 0.001) == np.float32(scores.max())


# ---------------------------------------------------------------------------
# CalibrationRows
# ---------------------------------------------------------------------------


def bare_network(n_units=(5,), n_inputs=2, seed=0):
    layers = [SimpleNamespace(n_units=n, n_inputs=n_inputs) for n in n_units]
    return SimpleNamespace(layers=layers, seed=seed)


def numbered_rows(n):
    """Rows that tell their own number, in X and in y."""
    number = np.arange(n)
    X = np.stack([number, -number], axis=1).astype(np.float32)
    return X, number.astype(np.int32)


def sample(n, pieces=1, seed=0, n_units=(5,)):
    rows = CalibrationRows(bare_network(n_units=n_units, seed=seed))
    X, y = numbered_rows(n)
    for part in np.array_split(np.arange(n), pieces):
        rows.add(X[part], y[part])
    return rows


@pytest.mark.parametrize(
    ("n_units", "capacity"),
    [
        ((1,), 2048),
        ((4096,), 2048),
        ((8192,), 1024),
        ((100, 8192, 100), 1024),
        ((10**6,), 128),
    ],
)
def test_capacity_bounds_the_scores(n_units, capacity):
    rows = sample(3000, n_units=n_units)
    assert rows.capacity == capacity
    assert len(rows.X) == len(rows.y) == capacity


@pytest.mark.parametrize(
    ("n_inputs", "capacity"), [(1024, 2048), (2048, 1024), (4096, 512), (10**5, 128)]
)
def test_capacity_bounds_the_inputs(n_inputs, capacity):
    rows = CalibrationRows(bare_network(n_inputs=n_inputs))
    rows.add(np.zeros((600, n_inputs), np.float32), np.zeros(600, np.int32))
    assert rows.capacity == capacity
    assert len(rows.X) == min(600, capacity)


@pytest.mark.parametrize("n", [1, 2047, 2048])
def test_all_rows_are_kept_while_there_is_room(n):
    rows = sample(n)
    X, y = numbered_rows(n)
    np.testing.assert_array_equal(rows.X, X)
    np.testing.assert_array_equal(rows.y, y)
    assert rows.X.dtype == np.float32
    assert rows.y.dtype == np.int32


@pytest.mark.parametrize("pieces", [2, 3, 7, 100, 2500])
def test_pieces_give_the_sample_of_all_at_once(pieces):
    at_once, in_pieces = sample(2500), sample(2500, pieces)
    np.testing.assert_array_equal(in_pieces.X, at_once.X)
    np.testing.assert_array_equal(in_pieces.y, at_once.y)
    assert at_once.n_seen == in_pieces.n_seen == 2500


def test_a_pickle_goes_on_with_the_sample_and_holds_nothing_else():
    rows, (X, y) = sample(300, pieces=3), numbered_rows(2500)
    assert len(pickle.dumps(rows)) < 300 * 40 + 1000
    copied = pickle.loads(pickle.dumps(rows))
    copied.add(X[300:], y[300:])
    np.testing.assert_array_equal(copied.X, sample(2500).X)
    np.testing.assert_array_equal(rows.y, y[:300])


def test_no_rows_change_nothing():
    rows, X = sample(2500), np.empty((0, 2), dtype=np.float32)
    before = rows.X.copy()
    rows.add(X, np.empty(0, dtype=np.int32))
    np.testing.assert_array_equal(rows.X, before)


@pytest.mark.parametrize("pieces", [1, 40])
def test_rows_are_kept_in_order_once_with_their_labels(pieces):
    rows = sample(5000, pieces)
    assert (np.diff(rows.y) > 0).all()
    np.testing.assert_array_equal(rows.X[:, 0], rows.y)
    np.testing.assert_array_equal(rows.X[:, 1], -rows.y)


def test_priorities_are_splitmix64s():
    """First outputs of the published generator for seed 1234567."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert list(priorities(1, 3, 1234567)) == expected
    assert list(priorities(2, 1, 1234567)) == expected[1:2]
    assert priorities(5, 0, 7).dtype == np.uint64


@pytest.mark.parametrize("start", [0, 7, 400])
def test_the_next_row_below_a_limit(start):
    found = priorities(start, 2000, 3)
    for limit in np.quantile(found, [0.9, 0.1, 0.01]).astype(np.uint64):
        assert next_below(start, 3, limit) == start + np.argmax(found < limit)
    assert next_below(start, 3, 0) == start + 2**24


def test_seeds_decide_the_sample():
    samples = [set(sample(20000, seed=seed).y) for seed in (0, 1, 2, 2**61)]
    for i, first in enumerate(samples):
        for second in samples[:i]:
            # two independent ones share a tenth of their 2048 rows
            assert 130 < len(first & second) < 280
    assert set(sample(20000, seed=1).y) == samples[1]


def test_every_row_is_as_likely_as_any_other():
    """Over 200 seeds, 128 of 512 rows: counts have the binomial's mean and spread."""
    counts = np.zeros(512)
    for seed in range(200):
        counts[sample(512, seed=seed * 977, n_units=(10**6,)).y] += 1
    z = (counts - 50) / np.sqrt(200 * 0.25 * 0.75)
    assert np.abs(z).max() < 4.5
    assert np.sqrt(np.mean(z**2)) == pytest.approx(1, abs=0.15)
    halves = z.reshape(2, -1).sum(axis=1) / 16
    assert np.abs(halves).max() < 4


# ---------------------------------------------------------------------------
# calibrate
# ---------------------------------------------------------------------------


def calibrated(name, depth, seed, *, validate=False, **options):
    """A network, calibrated, and the rows for its thresholds and for its value.

    With an odd seed labels are what the network says, else they are random: large
    outputs are good in the one case and bad in the other.
    """
    network = make_network(make(name, **options), DEPTHS[depth], seed=seed)
    rows = CalibrationRows(network)
    rows.add(*make_batch(DEPTHS[depth], seed=seed))
    own = rows.X, rows.y
    other = make_batch(DEPTHS[depth], seed=100 + seed)
    if seed % 2:
        calibrate(network, rows, 1)
        own, other = (
            (X, network.predict_proba(X).argmax(axis=1).astype(np.int32))
            for X, _ in (own, other)
        )
        rows = CalibrationRows(network)
        rows.add(*own)
    calibrate(network, rows, 1, *([other] if validate else []))
    return network, rows, other if validate else own


def oracle_settings(network, rows):
    """For each value of the gates: thresholds and a function to a cross-entropy."""
    gater = network.layers[0].gater
    facts, own = gater.unit_facts, oracle_gater(gater)
    parameters = oracle_parameters(network)
    n_layers = len(network.layers)
    for value, least in zip(facts["values"], facts["positive_above"], strict=True):
        x, thresholds = rows.X.astype(np.float64), []
        for layer in parameters.layers:
            score = oracle.gater_pre_activation(layer, x)[1] + gater.noise.mean
            n_above = round(gater.density * score.size)
            threshold = np.sort(score, axis=None)[-n_above - 1]
            thresholds.append(max(threshold, least))
            h = np.where(
                score > thresholds[-1], oracle.gate_value(score, value, own), 0.0
            )
            x = (h * oracle.expert_output(layer, x)).T

        def loss(X, y, thresholds=thresholds, value=value):
            probability = oracle.predict_proba(
                parameters,
                X,
                [own] * n_layers,
                thresholds,
                [value] * n_layers,
                [gater.noise.mean] * n_layers,
            )
            return -np.log(probability[np.arange(len(y)), y]).mean()

        yield thresholds, loss


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("name", [name for name in GATERS if name not in DENSE])
def test_calibration_meets_the_density(name, depth):
    network, rows, _ = calibrated(name, depth, 0, density=0.25)
    (gates,) = network.gates(rows.X)
    for layer, h in zip(network.layers, gates, strict=True):
        if name == "rectifier":
            assert layer.threshold >= 0
        assert np.count_nonzero(h) == round(0.25 * h.size)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("name", DENSE)
def test_calibration_leaves_a_gate_that_always_fires(name, depth):
    network, rows, _ = calibrated(name, depth, 0)
    assert [(v.threshold, v.value) for v in network.layers] == [(-np.inf, 0)] * depth
    (gates,) = network.gates(rows.X)
    assert all((h != 0).all() for h in gates)


def assert_chosen(network, value, thresholds):
    """Every layer takes this value; its threshold is this, but for rounding."""
    assert {layer.value for layer in network.layers} == {value}
    actual = [layer.threshold for layer in network.layers]
    np.testing.assert_allclose(actual, thresholds, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("validate", [False, True])
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("name", ["noisy_rectifier", "sts", "hard_concrete"])
def test_the_value_with_the_lower_cross_entropy(name, depth, validate):
    """On the validation rows if there are any; thresholds on the calibration rows."""
    chosen = []
    for seed in range(12):
        network, rows, (X, y) = calibrated(
            name, depth, seed, validate=validate, density=0.2
        )
        settings = list(oracle_settings(network, rows))
        losses = [loss(X, y) for _, loss in settings]
        if abs(losses[0] - losses[1]) < 1e-5:
            continue  # rounding decides
        best = int(np.argmin(losses))
        facts = network.layers[0].gater.unit_facts
        if min(settings[1][0]) <= facts["positive_above"][1]:
            best = 0
        assert_chosen(network, best, settings[best][0])
        chosen.append(best)
    assert 3 <= sum(chosen) <= 9


@pytest.mark.parametrize(("depth", "density"), [(1, 0.8), (2, 0.8), (2, 0.45)])
def test_no_positive_value_below_a_threshold_of_zero(depth, density):
    """Even where its cross-entropy is lower, and only one layer's threshold is."""
    was_better = 0
    for seed in range(24):
        network, rows, (X, y) = calibrated(
            "noisy_rectifier", depth, seed, density=density
        )
        settings = list(oracle_settings(network, rows))
        if min(settings[1][0]) == 0:
            losses = [loss(X, y) for _, loss in settings]
            mixed = density == 0.8 or max(settings[1][0]) > 0
            was_better += losses[1] < losses[0] and mixed
            assert_chosen(network, 0, settings[0][0])
    assert was_better > 2


def test_a_rectifiers_threshold_is_not_negative():
    network, rows, _ = calibrated("rectifier", 1, 0, density=0.8)
    score = network.scores(0, rows.X)
    assert network.layers[0].threshold == 0
    ((h,),) = network.gates(rows.X)
    np.testing.assert_array_equal(h.T != 0, score > 0)


def test_clamped_gates_have_thresholds_above_which_they_are_not_zero():
    """Those of hard concrete gates: sigm(a) stretched is positive above -log(11)."""
    network, rows, _ = calibrated("hard_concrete", 1, 0, density=0.95)
    layer = network.layers[0]
    score, edge = network.scores(0, rows.X), -np.log(11)
    assert np.quantile(score, 0.05) < edge
    layer.value, layer.threshold = 1, layer.gater.unit_facts["positive_above"][1]
    assert layer.threshold == pytest.approx(edge, rel=1e-6)
    ((h,),) = network.gates(rows.X)
    np.testing.assert_array_equal(h.T != 0, score > edge)
    assert 0.1 < (h != 0).mean() < 0.95
    # so the mean is taken, with which the density is met
    calibrate(network, rows, 1)
    assert layer.value == 0
    ((h,),) = network.gates(rows.X)
    assert np.count_nonzero(h) == round(0.95 * h.size)


def test_calibration_again_changes_nothing():
    network, rows, _ = calibrated("sts", 2, 3)
    before = [(layer.threshold, layer.value) for layer in network.layers]
    state = copy_of_state(network)
    calibrate(network, rows, 2)
    assert [(layer.threshold, layer.value) for layer in network.layers] == before
    for name, values in copy_of_state(network).items():
        np.testing.assert_array_equal(values, state[name])
