"""Many mini-batches, against a simulation in float64; copies and snapshots."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
from helpers import (
    Shape,
    assert_same_bits,
    copy_of_state,
    make,
    make_batch,
    make_network,
)
from network_checks import ADAM, DEPTHS, SETTINGS, compare, train_both

from stochnet.gaters import GATERS
from stochnet.network import Optimizer


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(Shape(23, 6, (4, 5), (10, 8), 3), id="experts"),
        pytest.param(Shape(23, 6, (4, 5), (96, 15), 3, (16, 3)), id="blocks"),
    ],
)
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", GATERS)
def test_training_equals_the_simulation(name, setting, shape):
    """Two passes of three batches, the last of them smaller, in orders that repeat."""
    options, main, gater_optimizer = SETTINGS[setting]
    rng = np.random.default_rng(5)
    orders = [None, rng.integers(23, size=21)]
    network, simulation = train_both(
        make(name, **options),
        shape,
        main,
        gater_optimizer,
        orders,
        9,
    )
    start = make_network(make(name, **options), shape)
    compare(network, simulation)
    moved = [
        np.abs(mine.values - other.values).max()
        for (_, mine), (_, other) in zip(
            network.parameters(), start.parameters(), strict=True
        )
    ]
    assert min(moved) > 1e-3, "nothing was compared"


@pytest.mark.parametrize("baseline", ["unit", "mean", None])
def test_reinforce_averages_follow_the_simulation(baseline):
    gater = replace(make("sbn", baseline=baseline), averages_decay=0.7)
    network, simulation = train_both(
        gater, Shape(20), Optimizer(learning_rate=0.1), None, [None], 4
    )
    compare(network, simulation)
    start = make_network(gater, Shape(20)).layers[0].reinforce
    assert (network.layers[0].reinforce == start).all() == (baseline is None)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_training_on_inputs_that_leave_the_caches_follows_the_simulation(momentum):
    """Experts take their steps after all gates' gradients, columns by columns."""
    main = Optimizer(learning_rate=0.1, momentum=momentum, max_norm=0.9)
    shape = Shape(520, 1030, (5,), (40,), 3)
    compare(*train_both(make("st"), shape, main, None, [None], 520))


def test_adaptive_penalty_stays_in_its_limits():
    for shift, factor in ((9.0, 1e3), (-9.0, 1e-3)):
        gater = make("st", adaptive_penalty=True, penalty_weight=0.01)
        gater = replace(gater, penalty_factor=9.0)
        network = make_network(gater, Shape(), main=Optimizer(learning_rate=1e-6))
        network.layers[0].gate.bias_values[:] += shift
        X, y = make_batch(Shape())
        network.train(X, y, batch_size=2)
        assert network.layers[0].penalty_weight[0] == np.float32(0.01 * factor)


def test_rates_replace_the_optimisers_learning_rates():
    shape = Shape(12)
    X, y = make_batch(shape)
    slow, fast = Optimizer(learning_rate=0.01), Optimizer(learning_rate=0.4)
    network = make_network(make("st"), shape, main=fast, gater_optimizer=slow)
    other = make_network(make("st"), shape)
    network.train(X, y, batch_size=5)
    other.train(X, y, batch_size=5, rates=(0.4, 0.01))
    assert_same_bits(copy_of_state(network), copy_of_state(other))


@pytest.mark.parametrize("name", GATERS)
def test_one_long_pass_is_several_short_ones(name):
    """No state but what is in the network: passes, workspaces, unused rows."""
    shape = DEPTHS[2]
    X, y = make_batch(shape, n_rows=40)
    optimizer = Optimizer(momentum=0.5)
    whole, parts = (make_network(make(name), shape, main=optimizer) for _ in range(2))
    whole.train(X, y, batch_size=8, capacity=100)
    parts.train(X[:16], y[:16], batch_size=8)
    parts.release()
    parts.train(X, y, order=np.arange(16, 24), batch_size=8)
    parts.gradient(X, y)
    parts.predict_proba(X)
    parts.train(X[24:], y[24:], batch_size=8, capacity=33)
    assert_same_bits(copy_of_state(whole), copy_of_state(parts))
    assert whole.step == parts.step == 5


#: Networks, and rows of a small batch. With "columns" what a large one left lies where
#: the small one has zeros behind the last of 40 hidden units.
LEFT_OVER = {
    "1 layer": (DEPTHS[1], 5),
    "2 layers": (DEPTHS[2], 5),
    "columns": (Shape(n_rows=40, n_hidden=(6, 40), n_units=(11, 18)), 16),
}


@pytest.mark.parametrize("case", LEFT_OVER)
@pytest.mark.parametrize("name", GATERS)
def test_what_lies_in_the_workspace_does_not_matter(name, case):
    """A small batch after a large one that overflowed, against the small one alone."""
    shape, n_rows = LEFT_OVER[case]
    X, y = make_batch(shape)
    first, second = (make_network(make(name), shape) for _ in range(2))
    snapshot = first.snapshot()
    overflowing = X.copy()
    overflowing[:, 0] = 1e20
    first.layers[0].expert.values[:, 0] = 1e20
    first.train(overflowing, y, batch_size=len(X))
    workspace = first._training_kernels[2].workspace
    assert not np.isfinite(workspace[0]["expert_output"]).all()
    first.restore(snapshot)
    for network in (first, second):
        network.step = 9
        network.train(X[:n_rows], y[:n_rows], batch_size=n_rows)
    assert_same_bits(copy_of_state(first), copy_of_state(second))


@pytest.mark.parametrize("how", ["pickle", "deepcopy"])
@pytest.mark.parametrize("solver", ["sgd", "momentum", "adam"])
def test_copies_continue_with_the_same_bits(how, solver):
    shape = DEPTHS[2]
    X, y = make_batch(shape, n_rows=24)
    gater = make("sbn", adaptive_penalty=True, firing_rate_step=0.1)
    network = make_network(gater, shape, main=SETTINGS[solver][1])
    network.layers[1].threshold, network.layers[1].value = 0.25, 0
    network.train(X, y, batch_size=7)
    if how == "pickle":
        twin = pickle.loads(pickle.dumps(network))
    else:
        twin = copy.deepcopy(network)
    before = copy_of_state(network)
    assert_same_bits(copy_of_state(twin), before)
    twin.train(X, y, batch_size=5)
    assert_same_bits(copy_of_state(network), before)  # they share nothing
    network.train(X, y, batch_size=5)
    assert_same_bits(copy_of_state(twin), copy_of_state(network))
    assert twin.step == network.step
    np.testing.assert_array_equal(twin.predict_proba(X), network.predict_proba(X))


def test_restore_undoes_training():
    shape = DEPTHS[2]
    X, y = make_batch(shape)
    network = make_network(make("sbn", firing_rate_step=0.1), shape, main=ADAM)
    network.train(X, y, batch_size=4)
    snapshot, before = network.snapshot(), copy_of_state(network)
    network.train(X, y, batch_size=4)
    network.layers[0].threshold = 1.0
    after = copy_of_state(network)
    assert any((before[name] != after[name]).any() for name in before)
    network.restore(snapshot)
    assert_same_bits(copy_of_state(network), before)
    assert network.layers[0].threshold == -np.inf


# ---------------------------------------------------------------------------
# Zero rows
# ---------------------------------------------------------------------------


def test_zero_rows():
    network = make_network(make("st"), DEPTHS[2])
    X, y = make_batch(DEPTHS[2])
    before = copy_of_state(network)
    assert network.train(X[:0], y[:0], batch_size=4) == (0.0, 0.0, -1)
    none = np.zeros(0, dtype=np.int64)
    assert network.train(X, y, order=none, batch_size=4) == (0.0, 0.0, -1)
    assert_same_bits(copy_of_state(network), before)
    assert network.step == 0
    for draw in (None, 1):
        assert network.predict_proba(X[:0], draw=draw).shape == (0, 3)
    assert list(network.gates(X[:0])) == []
    assert network.scores(1, X[:0]).shape == (18, 0)
