"""A network's step and training against the float64 oracle, and cases to check them on.

Bounds are relative to the largest element of each array. In float32 an array of sums
of n terms is off by about sqrt(n) 6e-8 of its scale, the elementary functions by 3e-7,
and cancellation between the terms of a gradient costs up to another digit: see
`BOUND`. A wrong index, sign, factor or row is off by the whole scale.
"""

from dataclasses import replace

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
    oracle_parameters,
    oracle_step,
)

from stochnet.gaters import GATERS
from stochnet.network import Optimizer

# Measured over all cases: at most 6e-6, also after seven steps.
BOUND = 2e-5

CASES = [pytest.param(name, options, id=id) for id, name, options in gater_cases()]

SPARSE_NAMES = [name for name in GATERS if not make(name).unit_facts["always_fires"]]

DEPTHS = {
    1: Shape(),
    2: Shape(n_rows=10, n_hidden=(5, 6), n_units=(11, 18)),
    3: Shape(n_rows=6, n_hidden=(5, 3, 17), n_units=(9, 12, 7), n_classes=4),
}

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
