"""What a closed gate skips: the expert's row is neither read nor written.

Experts whose gate can never fire hold NaN, in their weights, their readout and their
optimiser's state. NaN spreads to all that it touches, also through multiplication by
zero, so a finite result that equals the one with zeros there has not read them.
"""

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

from stochnet._kernels.network import NetworkKernels
from stochnet.gaters import ESTIMATORS, GATERS
from stochnet.network import Optimizer

# Sigmoid gates never close; straight-through with full credit reads all experts in
# training, which is the price of that credit.
SPARSE = [name for name in GATERS if not make(name).unit_facts["always_fires"]]
CHOICE = [n for n in SPARSE if ESTIMATORS[GATERS[n].estimator]["credit_choice"]]
OPTIONS = {n: {"credit": "active"} if n in CHOICE else {} for n in SPARSE}

SHAPES = {
    "1 layer": Shape(20, 9, (6,), (21,), 3),
    "2 layers": Shape(20, 9, (6, 5), (21, 18), 3),
    "row panels": Shape(300, 9, (6,), (21,), 3),
    "column panels": Shape(20, 280, (260,), (270,), 3),
    "blocks": Shape(20, 9, (6, 5), (176, 90), 3, (16, 5)),
    "classes": Shape(20, 9, (6,), (42,), 70),
    "classes and gates": Shape(20, 9, (6,), (1050,), 65),
}

OPTIMIZERS = {
    "sgd": Optimizer(max_norm=1.0, alpha=0.1),
    "momentum": Optimizer(momentum=0.9, nesterovs_momentum=True, alpha=0.1),
    "adam": Optimizer("adam", learning_rate=0.01, alpha=0.1, max_norm=1.0),
}

# exp(-1e4) is 0 in float32, and so is the chance of a draw that passes it.
NEVER = -1e4


def dead_gates(layer):
    """A third of the gates, first and last among them."""
    return np.r_[0, np.arange(2, layer.n_gates - 1, 3), layer.n_gates - 1]


def dead_experts(layer):
    """The experts of those gates."""
    return np.flatnonzero(np.repeat(_is_dead(layer), layer.experts_per_gate))


def _is_dead(layer):
    return np.isin(np.arange(layer.n_gates), dead_gates(layer))


def experts_and_readout(network):
    """(layer, group) of what belongs to one expert each."""
    for layer in network.layers:
        yield layer, layer.expert
    yield network.layers[-1], network.readout


def bury(network, value):
    """Close the gates of the dead units for good and put `value` into their experts."""
    for layer in network.layers:
        layer.gate.bias_values[dead_gates(layer)] = NEVER
    for layer, group in experts_and_readout(network):
        dead = dead_experts(layer)
        for array in (group.weight, *group.weight_state):
            array[dead, : group.n] = value
        for array in (group.bias, *group.bias_state):
            if array is not None:
                array[dead] = value


def check_buried(network):
    """The rows are what `bury` with NaN made them, no step was counted for them, and
    nothing else is NaN."""
    for layer, group in experts_and_readout(network):
        dead = dead_experts(layer)
        alive = np.setdiff1d(np.arange(layer.n_units), dead)
        for array in (group.weight, *group.weight_state):
            assert np.isnan(array[dead, : group.n]).all()
            assert np.isfinite(array[alive]).all()
        for array in (group.bias, *group.bias_state):
            if array is not None:
                assert np.isnan(array[dead]).all()
                assert np.isfinite(array[alive]).all()
        assert not group.steps[dead].any()
    for layer in network.layers:
        assert not layer.fired[dead_gates(layer)].any()
        for group in (layer.hidden, layer.gate):
            assert np.isfinite(group.weight).all()
            assert np.isfinite(group.bias).all()


def pair(name, shape, optimizer, **options):
    """The same network twice: NaN and zero in the dead units' experts."""
    networks = []
    for value in (np.nan, 0.0):
        network = make_network(make(name, **options), shape, main=optimizer)
        bury(network, value)
        networks.append(network)
    return networks


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", SPARSE)
def test_dead_experts_do_not_exist(name, optimizer, shape):
    shape = SHAPES[shape]
    X, y = make_batch(shape, n_rows=2 * shape.n_rows + 7)
    X[0] = 0
    with_nan, with_zero = pair(name, shape, OPTIMIZERS[optimizer], **OPTIONS[name])

    results = []
    for network in (with_nan, with_zero):
        loss, penalty, failed = network.train(
            X, y, batch_size=shape.n_rows, n_threads=2
        )
        assert failed == -1
        assert np.isfinite([loss, penalty]).all()
        results.append((loss, penalty))
        assert all((layer.fired > 0).any() for layer in network.layers)
    assert results[0] == results[1]
    check_buried(with_nan)
    dead = {layer: dead_experts(layer) for layer in with_nan.layers}
    states = copy_of_state(with_nan), copy_of_state(with_zero)
    for state in states:
        for i, layer in enumerate(with_nan.layers):
            for key in state:
                if key.startswith(f"{i}.expert"):
                    state[key][dead[layer]] = 0
        for key in state:
            if key.startswith("readout") and not key.startswith("readout_bias"):
                state[key][dead[with_nan.layers[-1]]] = 0
    assert_same_bits(*states)

    gradients = [network.gradient(X[:30], y[:30]) for network in (with_nan, with_zero)]
    for mine, other in zip(*(g["da"] for g in gradients), strict=True):
        assert np.isfinite(mine).all()
        np.testing.assert_array_equal(mine, other)
    for draw in (None, 0, 1):
        check_prediction(with_nan, with_zero, X, draw)


def check_prediction(with_nan, with_zero, X, draw):
    """Thresholded so that the dead units stay silent, as their scores ask for."""
    for network in (with_nan, with_zero):
        for i, layer in enumerate(network.layers):
            if draw is None:
                scores = network.scores(i, X)
                layer.threshold = float(np.median(scores[~_is_dead(layer)]))
    first, second = (n.predict_proba(X, draw=draw) for n in (with_nan, with_zero))
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, second)
    assert len(np.unique(first[:, 0])) > len(X) // 2, "the gates did nothing"


@pytest.mark.parametrize("n_layers", [1, 2])
def test_full_credit_reads_experts_in_training_only(n_layers):
    """Prediction and sampling of a straight-through network skip as the others do."""
    shape = SHAPES["1 layer" if n_layers == 1 else "2 layers"]
    X, y = make_batch(shape)
    with_nan, with_zero = pair("st", shape, Optimizer(), credit="all")
    for draw in (None, 0):
        check_prediction(with_nan, with_zero, X, draw)
        kernels = NetworkKernels(with_nan, len(X), 1, False)
        kernels.predict(X, draw=draw)
        for workspace in kernels.workspace:
            assert np.isfinite(workspace["expert_output"]).all()
    assert not np.isfinite(with_nan.gradient(X, y)["da"][-1]).all()


@pytest.mark.parametrize("name", SPARSE)
def test_weights_of_silent_input_blocks_are_not_touched(name):
    """Without decay and limits of norms, which concern whole rows of weights."""
    shape = SHAPES["blocks"]
    X, y = make_batch(shape, n_rows=2 * shape.n_rows + 7)
    network = make_network(make(name, **OPTIONS[name]), shape, main=Optimizer())
    below, above = network.layers
    below.gate.bias_values[dead_gates(below)] = NEVER
    silent = dead_experts(below)
    for group in (above.expert, above.hidden):
        group.values[:, silent] = np.nan
    loss, _, failed = network.train(X, y, batch_size=shape.n_rows, n_threads=2)
    assert failed == -1
    assert np.isfinite(loss)
    for group in (above.expert, above.hidden):
        spoilt = np.isnan(group.values)
        assert spoilt[:, silent].all()
        assert spoilt.sum() == len(group.values) * len(silent)
    for da in network.gradient(X[:30], y[:30])["da"]:
        assert np.isfinite(da).all()
    below.threshold = float(np.median(network.scores(0, X)[~_is_dead(below)]))
    for draw in (None, 0):
        assert np.isfinite(network.predict_proba(X, draw=draw)).all()


# ---------------------------------------------------------------------------
# Reads, counted by the kernels where they happen
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", GATERS)
def test_training_reads_the_active_pairs(name, shape):
    shape = SHAPES[shape]
    gater = make(name, **OPTIONS.get(name, {}))
    network = make_network(gater, shape, main=Optimizer(learning_rate=0.01))
    for layer in network.layers:
        layer.gate.bias_values[dead_gates(layer)] = NEVER
    X, y = make_batch(shape, n_rows=2 * shape.n_rows + 5)
    expected = [0] * len(network.layers)
    for first in range(0, len(X), shape.n_rows):
        rows = slice(first, first + shape.n_rows)
        gates = network.gradient(X[rows], y[rows])["gates"]
        expected = [
            e + (h != 0).sum(axis=1) for e, h in zip(expected, gates, strict=True)
        ]
        network.train(X[rows], y[rows], batch_size=shape.n_rows)
    workspace = network._training_kernels[2].workspace
    for i, layer in enumerate(network.layers):
        reads = workspace[i]["reads"]
        if gater.unit_facts["always_fires"]:
            expected[i] = np.full(layer.n_gates, len(X))
        else:
            assert not reads[dead_gates(layer)].any()
            assert 0.05 < expected[i].mean() / len(X) < 0.7
        np.testing.assert_array_equal(reads, layer.experts_per_gate * expected[i])
        np.testing.assert_array_equal(layer.fired, expected[i])


@pytest.mark.parametrize("sigmoid_derivative", [False, True])
def test_full_credit_reads_every_expert_in_training(sigmoid_derivative):
    shape = SHAPES["2 layers"]
    gater = make("st", credit="all", sigmoid_derivative=sigmoid_derivative)
    network = make_network(gater, shape)
    X, y = make_batch(shape)
    network.train(X, y, batch_size=7)
    for layer, workspace in zip(
        network.layers, network._training_kernels[2].workspace, strict=True
    ):
        np.testing.assert_array_equal(workspace["reads"], len(X))
        assert layer.fired.sum() < 0.9 * len(X) * layer.n_units


@pytest.mark.parametrize("shape", ["2 layers", "blocks", "classes"])
@pytest.mark.parametrize("draw", [None, 3])
@pytest.mark.parametrize("name", GATERS)
def test_prediction_reads_the_active_pairs(name, draw, shape):
    shape = SHAPES[shape]
    network = make_network(make(name), shape)
    X, _ = make_batch(shape)
    for i, layer in enumerate(network.layers):
        layer.gate.bias_values[dead_gates(layer)] = NEVER
        if not layer.gater.unit_facts["always_fires"]:
            layer.threshold = float(np.median(network.scores(i, X)))
    kernels = NetworkKernels(network, len(X), 1, False)
    kernels.predict(X, draw=draw, keep_gates=True)
    for i, layer in enumerate(network.layers):
        reads = kernels.workspace[i]["reads"]
        if layer.gater.unit_facts["always_fires"]:
            np.testing.assert_array_equal(reads, len(X) * layer.experts_per_gate)
            continue
        if draw is None:
            fires = network.scores(i, X) > layer.threshold
        else:
            fires = kernels.workspace[i]["h"][:, : len(X)] != 0
        np.testing.assert_array_equal(reads, layer.experts_per_gate * fires.sum(axis=1))
        assert not reads[dead_gates(layer)].any()
        assert 0.1 < fires.mean() < 0.7


# ---------------------------------------------------------------------------
# The optimiser's state
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    ("name", "options"),
    [*OPTIONS.items(), *((name, {"credit": "all"}) for name in CHOICE)],
)
def test_experts_that_did_not_fire_keep_weights_and_state(name, options, optimizer):
    """Also with full credit, where all experts were read but only some fired."""
    optimizer = replace(OPTIMIZERS[optimizer], learning_rate=0.003)
    shape = Shape(3, 9, (6, 5), (31, 28), 3)
    network = make_network(make(name, **options), shape, main=optimizer)
    for layer in network.layers:
        layer.gate.bias_values[:] -= 1.0
    X, y = make_batch(shape, n_rows=30)
    network.train(X, y, batch_size=3)  # so that there is some state
    kept = moved = 0
    for step in range(5):
        rows = slice(3 * step, 3 * step + 3)
        gates = network.gradient(X[rows], y[rows])["gates"]
        before = copy_of_state(network)
        network.train(X[rows], y[rows], batch_size=3)
        after = copy_of_state(network)
        fired = {f"{i}.expert": (h != 0).any(axis=1) for i, h in enumerate(gates)}
        fired["readout"] = fired["1.expert"]
        for name_, rows_ in fired.items():
            quiet = np.flatnonzero(~rows_)
            kept, moved = kept + len(quiet), moved + rows_.sum()
            for key in before:
                if not key.startswith(f"{name_}."):
                    continue
                old, new = before[key], after[key]
                assert old[quiet].tobytes() == new[quiet].tobytes(), key
                if ".weight" in key:
                    changed = (old != new).any(axis=1)[: len(rows_)]
                    np.testing.assert_array_equal(changed, rows_, err_msg=key)
                if key.endswith(".steps") and optimizer.solver == "adam":
                    np.testing.assert_array_equal(new - old, rows_)
    assert min(kept, moved) > 20, "nothing was compared"
