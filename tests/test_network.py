"""One mini-batch, many mini-batches and prediction, against the float64 oracle.

Bounds are relative to the largest element of each array. In float32 an array of sums
of n terms is off by about sqrt(n) 6e-8 of its scale, the elementary functions by 3e-7,
and cancellation between the terms of a gradient costs up to another digit: see
`BOUND`. A wrong index, sign, factor or row is off by the whole scale.
"""

import copy
import pickle
from dataclasses import replace
from itertools import product

import numpy as np
import oracle
import pytest
from helpers import (
    FLIP,
    Shape,
    Simulation,
    assert_near,
    assert_same_bits,
    copy_of_state,
    gater_cases,
    group_arrays,
    make,
    make_batch,
    make_network,
    make_problem,
    margin,
    oracle_gater,
    oracle_noise,
    oracle_parameters,
    oracle_step,
)

from stochnet._kernels import random as noise_kernels
from stochnet._kernels.network import NetworkKernels
from stochnet.gaters import GATERS
from stochnet.network import Network, Optimizer

# Measured over all cases of this file: at most 6e-6, also after seven steps.
BOUND = 2e-5

CASES = [pytest.param(name, options, id=id) for id, name, options in gater_cases()]

DEPTHS = {
    1: Shape(),
    2: Shape(n_rows=10, n_hidden=(5, 6), n_units=(11, 18)),
    3: Shape(n_rows=6, n_hidden=(5, 3, 17), n_units=(9, 12, 7), n_classes=4),
}


def check_step(network, X, y, *, step, bound=BOUND):
    """`Network.gradient` is the oracle's step, and changes nothing."""
    before = copy_of_state(network)
    expected, noises = oracle_step(network, X, y, step)
    actual = network.gradient(X, y, step=step)
    assert_same_bits(copy_of_state(network), before)

    assert_near(actual["loss"], expected.row_loss, bound, "loss")
    assert_near([actual["criterion"]], [expected.criterion], bound, "criterion")
    for i, layer in enumerate(expected.layers):
        gates = actual["gates"][i]
        np.testing.assert_array_equal(gates != 0, layer.active, err_msg=f"gates {i}")
        assert_near(gates, layer.h, bound, f"gates {i}")
        fired = oracle.per_expert(layer.active, len(layer.H))
        assert_near(actual["experts"][i][fired], layer.H[fired], bound, f"experts {i}")
        assert_near(actual["da"][i], layer.da, bound, f"da {i}")

    assert list(actual["gradient"]) == [name for name, _ in network.parameters()]
    groups = group_arrays(oracle_parameters(network))
    weights = {name: weight for name, weight, _ in groups}
    for name, weight, bias in group_arrays(expected.gradient):
        weight = weight + decay(network, expected, name, len(X)) * weights[name]
        assert_near(actual["gradient"][name][0], weight, bound, f"{name} weight")
        if bias is None:
            assert actual["gradient"][name][1] is None
        else:
            assert_near(actual["gradient"][name][1], bias, bound, f"{name} bias")
    return expected, noises


def decay(network, result, name, n_rows):
    """Weight of each row of a group in its own gradient: 0 where nothing fired."""
    path = name.rpartition(".")[2]
    if path in ("hidden", "gate"):
        return network.gater.alpha / n_rows
    if path == "readout_bias":
        return 0.0
    layer = result.layers[-1 if path == "readout" else int(name.partition(".")[0])]
    fired = oracle.per_expert(layer.active.any(axis=1), len(layer.H))
    return network.main.alpha / n_rows * fired[:, None]


# ---------------------------------------------------------------------------
# One step
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_step_equals_the_oracle(name, options, depth):
    gater = make(name, noise_scale=0.7, **options)
    decays = {"main": Optimizer(alpha=0.3), "gater_optimizer": Optimizer(alpha=0.1)}
    network, X, y = make_problem(gater, DEPTHS[depth], step=5, **decays)
    expected, _ = check_step(network, X, y, step=5)
    if not gater.unit_facts["always_fires"]:
        assert all(0.05 < layer.active.mean() < 0.95 for layer in expected.layers)


@pytest.mark.parametrize("name", GATERS)
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(Shape(n_rows=1), id="1 row"),
        pytest.param(Shape(n_units=(1,)), id="1 expert"),
        pytest.param(Shape(n_hidden=(1,)), id="1 hidden unit"),
        pytest.param(Shape(n_inputs=1), id="1 input"),
        pytest.param(Shape(1, 1, (1, 1), (1, 1), 2), id="1 of all, twice"),
        pytest.param(Shape(n_hidden=(3, 4), n_units=(1, 5)), id="1 expert below"),
        pytest.param(Shape(16, 16, (16, 16), (16, 16), 16), id="16 of all"),
        pytest.param(Shape(17, 33, (15, 47), (31, 65), 2), id="around multiples of 16"),
        pytest.param(Shape(65, 100, (40,), (130,), 30), id="30 classes"),
    ],
)
def test_step_of_any_shape(name, shape):
    network, X, y = make_problem(make(name), shape, step=2)
    check_step(network, X, y, step=2)


# Layers above blocks of whole vectors read active blocks alone, row by row up to a
# density of 0.2 where vectors are short, else tile by tile; panels of inputs may hold
# several blocks, one, or less than one.
BLOCKS = {
    "3 and 5": Shape(11, 9, (4, 6), (12, 20), 3, (3, 5)),
    "16 below": Shape(21, 20, (7, 5), (160, 33), 4, (16, 1)),
    "32 below 16": Shape(18, 30, (6, 9, 3), (224, 96, 26), 3, (32, 16, 13)),
    "panels of blocks": Shape(24, 40, (20, 17), (528, 36), 5, (48, 9)),
    "large blocks": Shape(7, 6, (3, 2), (576, 12), 3, (144, 4)),
}


def check_step_with_blocks(name, options, shape, density):
    gater = make(name, noise_scale=0.7, density=density, **options)
    decays = {"main": Optimizer(alpha=0.3), "gater_optimizer": Optimizer(alpha=0.1)}
    network, X, y = make_problem(gater, shape, step=3, **decays)
    expected, _ = check_step(network, X, y, step=3)
    return expected


@pytest.mark.parametrize(
    ("blocks", "density"),
    [*product(BLOCKS, [0.1, 0.3]), ("16 below", 0.6), ("32 below 16", 0.6)],
)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_step_with_block_gates(name, options, blocks, density):
    """Above a density of 0.5, layers above read all of their inputs."""
    check_step_with_blocks(name, options, BLOCKS[blocks], density)


@pytest.mark.parametrize("density", [0.1, 0.3, 0.6])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in GATERS),
        ("st", {"credit": "active"}),
        ("st", {"credit": "probe"}),
    ],
)
def test_step_with_more_blocks_than_are_indexed_at_once(name, options, density):
    shape = Shape(280, 12, (4, 5), (1600, 34), 3, (16, 17))
    expected = check_step_with_blocks(name, options, shape, density)
    assert expected.layers[0].active.sum() > 8192


@pytest.mark.parametrize("n_experts", [5, 17])
def test_step_with_more_blocks_than_are_read_together(n_experts):
    shape = Shape(6, 5, (3, 2), (16 * 520, n_experts), 3, (16, 1))
    check_step_with_blocks("st", {}, shape, 0.1)


@pytest.mark.parametrize("seed", range(20))
def test_step_of_a_random_shape(seed):
    rng = np.random.default_rng([11, seed])
    n_layers = rng.integers(1, 4)
    experts_per_gate = rng.choice([1, 1, 2, 5, 16], n_layers)
    n_gates = rng.integers(1, 40, n_layers) // np.sqrt(experts_per_gate) + 1
    shape = Shape(
        n_rows=int(rng.integers(1, 40)),
        n_inputs=int(rng.integers(1, 40)),
        n_hidden=tuple(rng.integers(1, 24, n_layers).tolist()),
        n_units=tuple((n_gates * experts_per_gate).astype(int).tolist()),
        n_classes=int(rng.choice([rng.integers(2, 31), rng.integers(65, 150)])),
        experts_per_gate=tuple(experts_per_gate.tolist()),
    )
    for name in GATERS:
        network, X, y = make_problem(make(name), shape, step=seed + 1)
        check_step(network, X, y, step=seed + 1)


# Inputs, hidden units, units and rows all need several of the engine's panels of 256,
# and the last panel is a partial one; update panels hold 32 rows of weights.
LARGE = Shape(300, 270, (290, 140), (530, 270), 11)


# Rows of up to 128 floats are transposed where there are 16 of them.
SHORT = {
    "the longest": Shape(33, 128, (128,), (70,), 3),
    "longer ones": Shape(33, 129, (129,), (70,), 3),
    "several panels": Shape(300, 100, (120, 30), (270, 100), 3),
    "above and below": Shape(40, 200, (20, 60), (90, 40), 3),
    "blocks": Shape(40, 30, (20, 30), (96, 40), 3, (16, 4)),
}


@pytest.mark.parametrize("shape", SHORT)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_step_on_short_rows(name, options, shape):
    network, X, y = make_problem(make(name, **options), SHORT[shape], flip=1e-6)
    check_step(network, X, y, step=0)


# Longer ones are as well, 128 inputs at a time, but for those of a network's input that
# has chunks of zeros; with AVX-512 in mini-batches of 32, 48, ... 96 rows alone.
LONG = {
    "two vectors of eight": Shape(16, 150, (141,), (75,), 3),
    "two vectors twice": Shape(25, 270, (138,), (73,), 3),
    "a piece and more": Shape(80, 1500, (140,), (74,), 3),
    "the fewest rows": Shape(32, 129, (130,), (70,), 3),
    "the most": Shape(96, 300, (600,), (70,), 3),
    "more": Shape(112, 300, (270,), (70,), 3),
    "a vector that is not full": Shape(40, 300, (270,), (70,), 3),
    "the longest": Shape(48, 1008, (40,), (70,), 3),
    "longer ones": Shape(48, 1024, (40,), (70,), 3),
    "above and below": Shape(64, 20, (140, 150), (300, 40), 3),
    "blocks": Shape(64, 200, (140, 150), (320, 40), 3, (16, 4)),
}


@pytest.mark.parametrize("filled", [0.6, 1.0])
@pytest.mark.parametrize("shape", LONG)
@pytest.mark.parametrize("name", GATERS)
def test_step_on_long_rows_of_few_examples(name, shape, filled):
    network, X, y = make_problem(make(name), LONG[shape], filled=filled)
    check_step(network, X, y, step=0)


# More than 64 classes have kernels of their own; logits are summed row by row where
# there are fewer than 16 gates for each class.
CLASSES = {
    "64": Shape(33, 9, (6,), (50,), 64),
    "65": Shape(33, 9, (6,), (50,), 65),
    "gates by block": Shape(20, 9, (6,), (1040,), 65),
    "2 layers": Shape(20, 9, (6, 5), (21, 40), 130),
    "blocks of experts": Shape(37, 9, (6, 5), (48, 90), 200, (16, 5)),
    "1 row": Shape(1, 9, (6,), (50,), 300),
}


@pytest.mark.parametrize("shape", CLASSES)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_step_with_many_classes(name, options, shape):
    network, X, y = make_problem(make(name, **options), CLASSES[shape], flip=1e-6)
    check_step(network, X, y, step=0)


@pytest.mark.parametrize("shape", ["65", "gates by block", "1 row"])
def test_step_of_local_expectation_with_many_classes(shape):
    gater = make("sbn", estimator="local_expectation")
    network, X, y = make_problem(gater, CLASSES[shape], flip=1e-6)
    check_step(network, X, y, step=0)


@pytest.mark.parametrize("name", ["st", "noisy_rectifier"])
def test_step_with_many_classes_and_more_experts_for_a_row_than_are_listed(name):
    shape = Shape(20, 9, (6,), (400,), 70)
    network, X, y = make_problem(make(name), shape, shift=1.0, flip=1e-6)
    expected, _ = check_step(network, X, y, step=0)
    assert expected.layers[0].active.sum(axis=0).min() > 2 * 128


@pytest.mark.parametrize("filled", [0.1, 0.6])
@pytest.mark.parametrize("name", GATERS)
def test_step_on_inputs_with_zeros(name, filled):
    shape = Shape(33, 1100, (40,), (70,), 5)
    network, X, y = make_problem(make(name), shape, filled=filled)
    check_step(network, X, y, step=0)


@pytest.mark.parametrize("nonzero", [0.02, 0.2])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_step_on_sparse_inputs(name, options, nonzero):
    """Of one layer or two: the upper one's input is the lower one's output."""
    shape = Shape(50, 1100, (40, 9), (70, 33), 5)
    gater = make(name, **options)
    network, X, y = make_problem(gater, shape, nonzero=nonzero, flip=1e-6)
    check_step(network, X, y, step=0)


@pytest.mark.parametrize("name", GATERS)
def test_step_of_several_panels(name):
    """With so many draws one comes closer to flipping, but not to within 1e-6."""
    network, X, y = make_problem(make(name), LARGE, flip=1e-6)
    check_step(network, X, y, step=0)


SPARSE_NAMES = [name for name in GATERS if not make(name).unit_facts["always_fires"]]


@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("name", SPARSE_NAMES)
def test_step_without_an_active_gate(name, n_layers):
    """What is left is the readout's bias, and the penalty's pull on dead units."""
    shape = replace(DEPTHS[2], n_hidden=(5, 6)[:n_layers], n_units=(11, 18)[:n_layers])
    network, X, y = make_problem(make(name), shape, shift=-40.0)
    expected, _ = check_step(network, X, y, step=0)
    assert not any(layer.active.any() for layer in expected.layers)
    np.testing.assert_allclose(
        network.gradient(X, y)["loss"],
        oracle.cross_entropy(np.tile(network.readout_bias.values, (len(X), 1)), y),
        rtol=1e-6,
    )


@pytest.mark.parametrize("name", SPARSE_NAMES)
def test_step_with_all_gates_active(name):
    """At p of 0.95, 1 - p and h - p still have five digits in float32."""
    shape = Shape(5, 7, (3, 4), (4, 3), 3)
    network, X, y = make_problem(make(name), shape, shift=3.0, all_fire=True)
    check_step(network, X, y, step=0)


def test_penalty_pulls_back_a_unit_that_is_all_but_dead():
    """KL's gradient at the clipped q: csrc/penalties/kl.c."""
    network, X, y = make_problem(make("st", penalty_weight=2.0), Shape(), shift=-17.0)
    expected, _ = check_step(network, X, y, step=0)
    assert np.all(expected.layers[0].probability.mean(axis=1) < 1e-6)
    full = network.gradient(X, y)
    for layer in network.layers:
        layer.penalty_weight[:] = 0
    np.testing.assert_array_less(full["da"][0], network.gradient(X, y)["da"][0])


def test_layers_may_have_different_gaters():
    shape = DEPTHS[3]
    network, X, y = make_problem(make("sts"), shape)
    for layer, name in zip(
        network.layers, ("sbn", "noisy_rectifier", "st"), strict=True
    ):
        layer.gater = make(name)
        layer.penalty_weight[:] = 0.2
    expected, noises = oracle_step(network, X, y, 4)
    assert margin(network, expected, noises) > FLIP
    check_step(network, X, y, step=4)


def test_step_draws_the_noise_of_its_number():
    """The next step's by default; another step's, another layer's or key's differs."""
    network, X, y = make_problem(make("st"), DEPTHS[2])
    network.step = 3
    third = network.gradient(X, y)
    same = network.gradient(X, y, step=3)["gates"]
    assert all((a == b).all() for a, b in zip(third["gates"], same, strict=True))
    assert (third["gates"][0] != network.gradient(X, y, step=4)["gates"][0]).any()
    network.seed += 1 << 40
    assert (third["gates"][0] != network.gradient(X, y, step=3)["gates"][0]).any()


# ---------------------------------------------------------------------------
# Many steps
# ---------------------------------------------------------------------------

# Adam divides by the root of the second moment: with the usual epsilon of 1e-8 the
# update of a weight with a tiny gradient would be that gradient's sign, of which
# float32 knows nothing.
ADAM = Optimizer("adam", learning_rate=0.05, epsilon=1e-2)

SETTINGS = {
    "sgd": ({}, Optimizer(learning_rate=0.1), None),
    "two rates": ({}, Optimizer(learning_rate=0.1), Optimizer(learning_rate=0.02)),
    "momentum": ({}, Optimizer(learning_rate=0.05, momentum=0.8), None),
    "one with momentum": (
        {},
        Optimizer(learning_rate=0.1),
        Optimizer(learning_rate=0.05, momentum=0.8),
    ),
    "nesterov": (
        {},
        Optimizer(learning_rate=0.05, momentum=0.8, nesterovs_momentum=True),
        None,
    ),
    "adam": ({}, ADAM, None),
    "adam and alpha": ({}, replace(ADAM, alpha=0.5), replace(ADAM, alpha=0.2)),
    "max_norm": (
        {},
        Optimizer(learning_rate=0.1, max_norm=0.9),
        Optimizer(learning_rate=0.1, max_norm=1.1),
    ),
    "alpha": (
        {},
        Optimizer(learning_rate=0.1, alpha=0.6),
        Optimizer(learning_rate=0.1, alpha=0.2),
    ),
    "firing rate": ({"firing_rate_step": 0.3}, Optimizer(learning_rate=0.1), None),
    "adaptive penalty": (
        {"adaptive_penalty": True, "penalty_weight": 0.2},
        Optimizer(learning_rate=0.1),
        None,
    ),
    "all": (
        {"firing_rate_step": 0.2, "adaptive_penalty": True},
        Optimizer(
            learning_rate=0.05,
            momentum=0.7,
            nesterovs_momentum=True,
            alpha=0.3,
            max_norm=1.0,
        ),
        None,
    ),
}


def train_both(gater, shape, main, gater_optimizer, orders, batch_size):
    """Network and float64 simulation after the same mini-batches."""
    for seed in range(100):
        network = make_network(
            gater, shape, seed=seed, main=main, gater_optimizer=gater_optimizer
        )
        network.step = 7
        X, y = make_batch(shape, seed=seed)
        simulation = Simulation(network)
        simulated = [
            simulation.train(X, y, order=order, batch_size=batch_size)
            for order in orders
        ]
        if simulation.margin > FLIP:
            break
    else:
        raise AssertionError("No seed keeps all draws away from where gates flip.")
    for order, expected in zip(orders, simulated, strict=True):
        *found, failed = network.train(X, y, order=order, batch_size=batch_size)
        assert failed == -1
        np.testing.assert_allclose(found, expected, rtol=BOUND)
    return network, simulation


def compare(network, simulation, bound=BOUND):
    """All that training changes, after it."""
    assert network.step == simulation.n_steps
    expected = {name: arrays for name, *arrays in group_arrays(simulation.parameters)}
    for name, group in network.parameters():
        weight, bias = expected[name]
        assert_near(group.values, weight, bound, f"{name} weight")
        assert not group.weight[:, group.n :].any(), f"{name}: padding is not zero"
        if bias is not None:
            assert_near(group.bias_values, bias, bound, f"{name} bias")
    for i, layer in enumerate(network.layers):
        np.testing.assert_array_equal(layer.fired, simulation.fired[i])
        assert_near(layer.rate, simulation.rate[i], bound, "rate")
        assert_near(
            layer.penalty_weight, [simulation.penalty_weight[i]], bound, "penalty"
        )
        if layer.gater.estimator == "reinforce":
            assert_near(layer.reinforce, simulation.averages[i], bound, "Eq. 10")


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
# Failure
# ---------------------------------------------------------------------------


def group(network, name):
    return dict(network.parameters())[name]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("0.hidden", "layer 1 (hidden)"),
        ("0.gate", "layer 1 (gate)"),
        ("0.expert", "layer 1 (expert)"),
        ("1.gate", "layer 2 (gate)"),
        ("1.expert", "layer 2 (expert)"),
        ("readout", "readout"),
        ("readout_bias", "readout"),
    ],
)
def test_first_nonfinite_names_the_lowest_group(name, called, bad):
    network = make_network(make("st"), DEPTHS[2])
    assert network.first_nonfinite() is None
    group(network, name).values[-1, -1] = bad
    assert network.first_nonfinite() == called
    if name != "readout_bias":
        group(network, "readout_bias").values[:] = bad
        assert network.first_nonfinite() == called


@pytest.mark.parametrize("name", ["0.hidden", "0.gate", "0.expert", "1.expert"])
def test_first_nonfinite_looks_at_biases(name):
    network = make_network(make("st"), DEPTHS[2])
    group(network, name).bias_values[-1] = np.nan
    assert network.first_nonfinite() is not None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["0.expert", "1.expert", "readout", "readout_bias"])
def test_failed_is_the_first_batch_that_is_not_finite(name, bad):
    """A sigmoid gater reads every expert, so that the first batch already fails."""
    network = make_network(make("sigmoid"), DEPTHS[2])
    X, y = make_batch(DEPTHS[2], n_rows=12)
    group(network, name).values[0, 0] = bad
    loss, _, failed = network.train(X, y, batch_size=4)
    assert failed == 0
    assert not np.isfinite(loss)


@pytest.mark.parametrize("name", GATERS)
def test_failed_is_where_the_bad_row_comes(name):
    """And nothing after that mini-batch is computed."""
    shape = Shape()  # above it, gaters would be closed by what is not finite
    X, y = make_batch(shape, n_rows=20)
    network = make_network(make(name), shape)
    # Gates see a saturated bottleneck, experts overflow, for row 9 and no other.
    X[:, 0], X[9, 0] = 0, 1e20
    network.layers[0].expert.values[:, 0] = 1e20
    snapshot = network.snapshot()
    order = np.array([0, 1, 2, 3, 4, 5, 9, 7, 8, 10, 11, 12])
    loss, _, failed = network.train(X, y, order=order, batch_size=3)
    assert failed == 2
    assert not np.isfinite(loss)
    state = copy_of_state(network)
    network.restore(snapshot)
    network.step = 0
    network.train(X, y, order=order[:9], batch_size=3)
    assert_same_bits(copy_of_state(network), state)


@pytest.mark.parametrize("name", SPARSE_NAMES)
def test_a_gate_that_is_not_a_number_is_closed(name):
    """The loss does not show it, but the step of its weights does."""
    X, y = make_batch(Shape())
    network = make_network(make(name), Shape())
    network.layers[0].gate.values[:] = np.nan
    loss, _, failed = network.train(X, y, batch_size=len(X))
    assert failed == 0
    assert np.isfinite(loss)
    assert not network.layers[0].fired.any()
    assert network.first_nonfinite() == "layer 1 (hidden)"


LARGEST = np.finfo(np.float32).max


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize(
    ("max_norm", "share", "expected"),
    [(None, 1 / 3, 1), (None, 0.9, 0), (1.0, 1 / 3, -1), (1.0, 0.9, 0)],
)
@pytest.mark.parametrize("name", ["0.hidden", "0.gate", "0.expert", "readout"])
def test_failed_is_the_batch_that_leaves_a_bad_weight(
    name, max_norm, share, expected, momentum
):
    """Inputs are zeros and a class is never met: decay alone moves weights, to twice.

    A limit on the norm saves those that are still finite. The readout has none.
    """
    X, y = np.zeros((8, Shape().n_inputs), np.float32), np.zeros(8, np.int32)
    if name == "readout":
        expected = int(share < 0.5)
    for alpha in (0.0, -4.0):
        growing = Optimizer(
            learning_rate=1.0, alpha=alpha, momentum=momentum, max_norm=max_norm
        )
        network = make_network(
            make("sigmoid"), Shape(), main=growing, gater_optimizer=growing
        )
        for biased in ("0.hidden", "0.gate", "0.expert"):
            group(network, biased).bias_values[:] = 0.0
        network.readout_bias.values[0, -1] = -1e4
        group(network, name).values[-1, -1] = share * LARGEST
        loss, _, failed = network.train(X, y, batch_size=4)
        assert failed == (expected if alpha else -1)
        assert np.isfinite(loss)


@pytest.mark.parametrize(("scale", "failed"), [(1e-3, -1), (8.0, 0)])
def test_failed_is_the_batch_that_leaves_a_bad_bias(scale, failed):
    """Inputs and outputs of the experts are zeros: their biases alone move.

    Each row's part of the larger step is finite, so that zeros remain zeros.
    """
    X, y = np.zeros((4, Shape().n_inputs), np.float32), np.zeros(4, np.int32)
    network = make_network(make("sigmoid"), Shape())
    network.layers[0].expert.bias_values[:] = 0.0
    network.readout.values[:] = scale
    network.readout.values[:, 0] = -scale
    loss, _, found = network.train(X, y, batch_size=4, rates=(1e38, 0.1))
    assert found == failed
    assert np.isfinite(loss)
    assert network.first_nonfinite() == (None if failed else "layer 1 (expert)")
    assert np.isfinite(network.layers[0].expert.values).all()


@pytest.mark.parametrize(("input_value", "failed"), [(1e-3, -1), (100.0, 0)])
@pytest.mark.parametrize("experts_per_gate", [1, 16])
def test_failed_is_the_batch_that_leaves_a_bad_block(
    experts_per_gate, input_value, failed
):
    """Experts are zeros, so that they alone move, and by as much as their inputs."""
    shape = Shape(21, 20, (7, 5), (160, 48), 4, (16, experts_per_gate))
    network = make_network(make("st", credit="active"), shape, main=Optimizer())
    below, above = network.layers
    below.expert.values[:], below.expert.bias_values[:] = 0.0, input_value
    above.expert.values[:], above.expert.bias_values[:] = 0.0, 0.0
    network.readout.values[:] = np.sign(network.readout.values)
    X, y = make_batch(shape)
    loss, _, found = network.train(X, y, batch_size=len(X), rates=(1e38, 0.1))
    assert found == failed
    assert np.isfinite(loss)
    assert network.first_nonfinite() == (None if failed else "layer 2 (expert)")
    assert np.isfinite(above.expert.bias_values).all()


def test_failed_is_the_batch_that_leaves_a_bad_bias_of_the_readout():
    """It alone takes a step of the main path where no gate fires."""
    X, y = make_batch(Shape())
    network = make_network(make("st"), Shape())
    network.layers[0].gate.bias_values[:] = -1e4
    _, _, failed = network.train(X, y, batch_size=len(X), rates=(np.inf, 0.1))
    assert failed == 0
    assert network.first_nonfinite() == "readout"
    assert np.isfinite(network.readout.values).all()


@pytest.mark.parametrize("rates", [(np.inf, 0.1), (0.1, np.inf)])
@pytest.mark.parametrize("name", GATERS)
def test_failed_is_the_batch_whose_step_is_infinite(name, rates):
    X, y = make_batch(Shape())
    network = make_network(make(name), Shape())
    loss, _, failed = network.train(X, y, batch_size=len(X), rates=rates)
    assert failed == 0
    assert np.isfinite(loss)


@pytest.mark.parametrize("name", GATERS)
def test_a_huge_learning_rate_fails_and_says_so(name):
    X, y = make_batch(Shape(), n_rows=64)
    network = make_network(make(name), Shape())
    loss, _, failed = network.train(X, y, batch_size=8, rates=(1e25, 1e25))
    assert 0 < failed < 8
    assert not np.isfinite(loss)
    assert network.first_nonfinite() is not None


def test_wrong_arguments_are_refused():
    network = make_network(make("st"), Shape())
    X, y = make_batch(Shape())
    for bad_X, bad_y in ((X[:, :-1].copy(), y), (X, y[:-1])):
        with pytest.raises(ValueError, match="do not fit"):
            network.train(bad_X, bad_y, batch_size=4)
    for bad in (-1, Shape().n_classes):
        with pytest.raises(ValueError, match="y holds values outside"):
            network.train(X, np.full_like(y, bad), batch_size=4)
    for bad in (-1, len(X)):
        with pytest.raises(ValueError, match="order holds values outside"):
            network.train(X, y, order=np.array([0, bad]), batch_size=4)
    with pytest.raises(ValueError, match="does not fit"):
        network.predict_proba(X[:, :-1].copy())
    kernels = NetworkKernels(network, len(X), 1, False)
    for shape in ((len(X) - 1, Shape().n_classes), (len(X), Shape().n_classes + 1)):
        with pytest.raises(ValueError, match="out does not fit"):
            kernels.predict(X, out=np.empty(shape, dtype=np.float32))


# ---------------------------------------------------------------------------
# Prediction
# ---------------------------------------------------------------------------


# What prediction depends on: every named gater's noises, and where they are added.
NOISES = sorted(
    {(name, o["noise"], o["noise_on"]) for _, name, o in gater_cases()}, key=str
)
NOISE_CASES = [
    pytest.param(name, {"noise": noise, "noise_on": on}, id=f"{name}-{noise}-{on}")
    for name, noise, on in NOISES
]
VALUE_CASES = [
    pytest.param(*case.values, value, id=f"{case.id}-{value}")
    for case in NOISE_CASES
    for value in make(case.values[0]).unit_facts["values"]
]


def in_a_gap(scores):
    """A threshold in the widest gap between the scores around the median."""
    ranked = np.sort(scores, axis=None)
    central = slice(len(ranked) // 3, -(len(ranked) // 3) or None)
    gaps = np.diff(ranked[central])
    widest = gaps.argmax()
    assert gaps[widest] > FLIP
    return float(ranked[central][widest] + gaps[widest] / 2)


def set_thresholds(network, X, value):
    """Put each layer's threshold into a gap of the oracle's scores."""
    params, x = oracle_parameters(network), X.astype(np.float64)
    expected = []
    for layer, own in zip(params.layers, network.layers, strict=True):
        gater = oracle_gater(own.gater)
        _, a = oracle.gater_pre_activation(layer, x)
        score = a + own.gater.noise.mean
        own.value = own.gater.unit_facts["values"].index(value)
        if not own.gater.unit_facts["always_fires"]:
            own.threshold = in_a_gap(score)
        smooth = a if own.gater.noise.draw_only else score
        h = oracle.gate_value(smooth, value, gater) * (score > own.threshold)
        expected.append((score, h))
        x = (h * oracle.expert_output(layer, x)).T
    return expected


PREDICTED = {
    "1 layer": DEPTHS[1],
    "2 layers": DEPTHS[2],
    "many classes": CLASSES["2 layers"],
    "many classes, gates by block": CLASSES["gates by block"],
}


@pytest.mark.parametrize("shape", PREDICTED)
@pytest.mark.parametrize(("name", "options", "value"), VALUE_CASES)
def test_prediction_equals_the_oracle(name, options, value, shape):
    shape = PREDICTED[shape]
    gater, depth = make(name, noise_scale=0.7, **options), len(shape.n_units)
    network = make_network(gater, shape)
    X, _ = make_batch(shape, n_rows=21)
    expected = set_thresholds(network, X, value)
    probability = network.predict_proba(X)
    assert probability.dtype == np.float32
    assert_near(
        probability,
        oracle.predict_proba(
            oracle_parameters(network),
            X,
            [oracle_gater(gater)] * depth,
            [layer.threshold for layer in network.layers],
            [value] * depth,
            [gater.noise.mean] * depth,
        ),
        BOUND,
    )
    (gates,) = network.gates(X)
    for i, (score, h) in enumerate(expected):
        assert_near(network.scores(i, X), score, BOUND, f"scores {i}")
        np.testing.assert_array_equal(gates[i].T != 0, h != 0)
        assert_near(gates[i].T, h, BOUND, f"gates {i}")
        if not gater.unit_facts["always_fires"]:
            assert 0.1 < (h != 0).mean() < 0.9


@pytest.mark.parametrize("name", GATERS)
def test_a_score_at_the_threshold_does_not_fire(name):
    """Or ties at the threshold that a quantile picks would all fire."""
    network = make_network(make(name), Shape())
    X, _ = make_batch(Shape())
    # all of them positive, or a rectifier would be zero in any case
    network.layers[0].gate.bias_values[:] += 1 + np.abs(network.scores(0, X)).max()
    network.layers[0].threshold = float(np.sort(network.scores(0, X), axis=None)[-5])
    (gates,) = network.gates(X)
    always = network.layers[0].gater.unit_facts["always_fires"]
    assert (gates[0] != 0).sum() == (gates[0].size if always else 4)


@pytest.mark.parametrize("shape", [*DEPTHS.values(), CLASSES["65"]])
@pytest.mark.parametrize(("name", "options"), NOISE_CASES)
def test_sampled_prediction_equals_the_oracle(name, options, shape):
    network = make_network(make(name, noise_scale=0.7, **options), shape)
    gaters = [oracle_gater(layer.gater) for layer in network.layers]
    X, y = make_batch(shape, n_rows=37)
    compared = 0
    for draw in range(8):
        noises = oracle_noise(network, len(X), draw, mode="sampling")
        for noise in noises:
            noise.baseline = None
        expected = oracle.forward(oracle_parameters(network), X, y, gaters, noises)
        if margin(network, expected, noises) > FLIP:
            probability = np.exp(-expected.row_loss)
            sampled = network.predict_proba(X, draw=draw)[np.arange(len(y)), y]
            assert_near(sampled, probability, BOUND)
            compared += 1
    assert compared >= 4


def test_sampling_draws_what_training_does_not():
    network = make_network(make("st"), Shape())
    for step in range(3):
        training = oracle_noise(network, 40, step)[0].uniform
        sampling = oracle_noise(network, 40, step, mode="sampling")[0].uniform
        assert not (training == sampling).any()


@pytest.mark.parametrize("name", GATERS)
def test_prediction_in_several_chunks(name):
    """More rows than one call takes: the noise and the gates of the later chunks."""
    shape = replace(DEPTHS[1], n_units=(3,), n_hidden=(2,))
    network = make_network(make(name), shape)
    size = network.prediction_rows()
    X, y = make_batch(shape, n_rows=size + 19)
    probability = network.predict_proba(X)
    parts = [network.predict_proba(part) for part in (X[:size], X[size:])]
    np.testing.assert_array_equal(probability, np.concatenate(parts))
    np.testing.assert_array_equal(network.predict(X), probability.argmax(axis=1))
    chunks = list(network.gates(X))
    assert [len(gates[0]) for gates in chunks] == [size, 19]
    np.testing.assert_array_equal(chunks[1][0], next(network.gates(X[size:]))[0])
    assert network.scores(0, X).shape == (3, len(X))
    np.testing.assert_array_equal(
        network.scores(0, X)[:, size:], network.scores(0, X[size:])
    )
    # noise of all rows in one piece, and a draw without a gate about to flip
    gaters = [oracle_gater(network.layers[0].gater)]
    for draw in range(100):
        noises = oracle_noise(network, len(X), draw, mode="sampling")
        noises[0].baseline = None
        expected = oracle.forward(oracle_parameters(network), X, y, gaters, noises)
        if margin(network, expected, noises) > FLIP:
            break
    sampled = network.predict_proba(X, draw=draw)[np.arange(len(y)), y]
    assert_near(sampled, np.exp(-expected.row_loss), BOUND)


def test_prediction_rows_bound_the_memory():
    for n_inputs, n_units, rows in [
        (1, (1,), 1024),
        (1024, (16384,), 1024),
        (1500, (1,), 688),
        (2048, (1,), 512),
        (10**6, (1,), 512),
        (1, (32768, 32768), 256),
    ]:
        network = Network.__new__(Network)
        network.layers = [
            type("Layer", (), {"n_units": n, "n_inputs": n_inputs}) for n in n_units
        ]
        assert network.prediction_rows() == rows
        assert network.prediction_rows() % 16 == 0


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


# ---------------------------------------------------------------------------
# Dropout on the inputs
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.2, 0.7])
def test_dropout_is_training_on_masked_inputs(share):
    shape = Shape(21, 37, (5,), (11,), 3)
    network = make_network(make("st"), shape)
    X, y = make_batch(shape)
    u = noise_kernels.uniform(*X.shape, network.key, step=4, purpose="dropout")
    masked = np.where(u < share, 0, X * (np.float32(1) / (1 - np.float32(share))))
    expected = network.gradient(masked.astype(np.float32), y, step=4)
    assert abs(np.mean(masked[1:] == 0) - share) < 4 * (0.25 / masked[1:].size) ** 0.5
    network.input_dropout = share
    found = network.gradient(X, y, step=4)
    np.testing.assert_array_equal(found["loss"], expected["loss"])
    np.testing.assert_array_equal(found["da"][0], expected["da"][0])
    kept = network.predict_proba(X)
    network.input_dropout = 0.0
    np.testing.assert_array_equal(network.predict_proba(X), kept)
