"""Initial weights: their limits and distribution, and how often gates fire at first."""

import numpy as np
import pytest
from scipy import stats

from stochnet._kernels.random import MIN_SHARED_WEIGHTS
from stochnet.gaters import make_gater
from stochnet.network import Network, Optimizer

INITIALIZATIONS = ["sparse", "glorot", "authors"]
P_FLOOR = 1e-4  # seeds are fixed: each test always passes or always fails
Z_LIMIT = 5.0


def make_network(gater="st", initialization="sparse", seed=0, **options):
    return Network(
        150,
        10,
        [480, 160],
        [50, 40],
        make_gater(gater),
        Optimizer(),
        Optimizer(),
        initialization=initialization,
        seed=seed,
        **options,
    )


def limits_of(network, gate_factor, readout=None):
    """Limit of each group: Glorot's, times `gate_factor` for gates."""
    limits = {
        name: (6 / sum(group.values.shape)) ** 0.5
        for name, group in network.parameters()
    }
    for i in range(len(network.layers)):
        limits[f"{i}.gate"] *= gate_factor
    del limits["readout_bias"]
    limits["readout"] = readout or limits["readout"]
    return limits


@pytest.mark.parametrize(
    ("gater", "initialization", "gate_factor", "readout"),
    [
        ("st", "sparse", 4, None),
        ("st", "glorot", 1, None),
        ("st", "authors", 4, 0.05),
        ("sts", "sparse", 4, None),
        ("sts", "authors", 4, 0.005),
    ],
)
def test_weights_are_uniform_within_their_limits(
    gater, initialization, gate_factor, readout
):
    network = make_network(gater, initialization)
    groups = dict(network.parameters())
    for name, limit in limits_of(network, gate_factor, readout).items():
        weight = groups[name].values.ravel()
        expected = stats.uniform(-limit, 2 * limit)
        assert stats.kstest(weight, expected.cdf).pvalue > P_FLOOR
        # of n draws none is in the last 12 / n of the range with probability 6e-6
        assert limit * (1 - 24 / len(weight)) < np.abs(weight).max() <= limit


def test_biases_are_zero_but_for_balanced_gates():
    for initialization in INITIALIZATIONS:
        for name, group in make_network(initialization=initialization).parameters():
            if name == "readout_bias":
                assert not group.values.any()
            elif group.bias is not None:
                balanced = name.endswith("gate") and initialization == "sparse"
                assert np.all(group.bias_values < 0 if balanced else group.bias == 0)


def test_groups_and_seeds_are_independent():
    weights = [
        group.values.ravel()
        for seed in (0, 1)
        for name, group in make_network(seed=seed).parameters()
        if name != "readout_bias"
    ]
    n = min(map(len, weights))
    z = np.corrcoef([weight[:n] for weight in weights]) * n**0.5
    np.fill_diagonal(z, 0)
    assert np.abs(z).max() < Z_LIMIT


def test_authors_give_a_noisy_rectifier_few_connections():
    for layer in make_network("noisy_rectifier", "authors").layers:
        connections = layer.gate.values != 0
        assert (connections.sum(axis=1) == 15).all()
        drawn = layer.gate.values[connections]
        assert stats.kstest(drawn, "norm").pvalue > P_FLOOR


@pytest.mark.parametrize("initialization", INITIALIZATIONS)
def test_any_number_of_threads_draws_the_same(initialization):
    first, second = (
        make_network(initialization=initialization, n_threads=n) for n in (1, 2)
    )
    assert first.layers[0].expert.weight.size > MIN_SHARED_WEIGHTS
    for (name, mine), (_, other) in zip(
        first.parameters(), second.parameters(), strict=True
    ):
        np.testing.assert_array_equal(mine.weight, other.weight, err_msg=name)
        if mine.bias is not None:
            np.testing.assert_array_equal(mine.bias, other.bias, err_msg=name)


def test_rectifiers_fire_as_often_as_asked_for_at_first():
    """What the rows move the gates by is all that makes them fire, in each layer."""
    X = np.random.default_rng(0).normal(size=(256, 150)).astype(np.float32)
    network = make_network("rectifier", rows=X)
    y = np.zeros(len(X), dtype=np.int32)
    network.train(X, y, batch_size=len(X), rates=(0.0, 0.0))
    for layer in network.layers:
        # scores are normal but for what units of one random sign have in common
        density = layer.fired.mean() / len(X)
        assert density == pytest.approx(layer.gater.density, rel=0.1)
