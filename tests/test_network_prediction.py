"""Prediction and sampling, against the float64 oracle."""

from dataclasses import replace

import numpy as np
import oracle
import pytest
from helpers import (
    FLIP,
    Shape,
    assert_near,
    gater_cases,
    make,
    make_batch,
    make_network,
    margin,
    oracle_gater,
    oracle_noise,
    oracle_parameters,
)
from network_checks import BOUND, CLASSES, DEPTHS

from stochnet.gaters import GATERS
from stochnet.network import Network

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
