"""One mini-batch, against the float64 oracle."""

from dataclasses import replace
from itertools import product

import numpy as np
import oracle
import pytest
from helpers import (
    FLIP,
    Shape,
    make,
    make_batch,
    make_network,
    make_problem,
    margin,
    oracle_step,
)
from network_checks import BLOCKS, CASES, CLASSES, DEPTHS, SPARSE_NAMES, check_step

from stochnet._kernels import random as noise_kernels
from stochnet.gaters import GATERS
from stochnet.network import Optimizer


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

# More than 2 MB of inputs, and blocks of 16 gates.
FAR = Shape(520, 1030, (5,), (300,), 3)


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


@pytest.mark.parametrize("name", GATERS)
def test_step_on_inputs_that_leave_the_caches(name):
    """Several blocks of gates are taken together, and more than are taken together."""
    network, X, y = make_problem(make(name), FAR, flip=1e-6)
    check_step(network, X, y, step=0)


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
