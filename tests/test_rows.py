"""A row's prediction is the same bits whatever rows stand beside it."""

import numpy as np
import pytest
from helpers import Shape, make, make_batch, make_network

from stochnet.gaters import GATERS

# Around the sizes that the kernels work in: vectors of 4, 8 and 16, tiles of 8, 4 and 1
# units and 3 rows, 8 pairs of an expert with a row, panels of 256.
SHAPES = {
    "small": Shape(37, 7, (5,), (11,), 3),
    "2 layers": Shape(37, 18, (17, 6), (33, 19), 12),
    "1 of all": Shape(19, 1, (1,), (1,), 2),
    "panels": Shape(300, 40, (260,), (530,), 10),
    "long rows": Shape(45, 700, (33,), (66,), 17),
    "hidden units of a piece": Shape(40, 8, (1008,), (33,), 3),
    "more than a piece": Shape(40, 8, (1009,), (33,), 3),
    "blocks": Shape(37, 18, (17, 6), (112, 40), 4, (16, 5)),
    "few blocks": Shape(37, 18, (17, 6), (112, 40), 4, (16, 5)),
    "classes": Shape(37, 18, (17,), (200,), 70),
    "classes and gates": Shape(19, 5, (4,), (1200,), 70),
}

# Up to 0.2, short vectors take blocks row by row, not tile by tile.
DENSITY = {"few blocks": 0.1}

VALUES = [(name, value) for name in GATERS for value in make(name).unit_facts["values"]]


def thresholded(name, value, shape, X, density=0.3):
    """A network whose gates fire for about a third of the pairs."""
    network = make_network(make(name, density=density), shape)
    for i, layer in enumerate(network.layers):
        facts = layer.gater.unit_facts
        layer.value = facts["values"].index(value)
        if not facts["always_fires"]:
            layer.threshold = float(np.quantile(network.scores(i, X), 2 / 3))
    return network


def same_bits(first, second):
    return first.tobytes() == np.ascontiguousarray(second).tobytes()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("name", "value"), VALUES)
def test_a_prediction_depends_on_its_row_alone(name, value, shape):
    density = DENSITY.get(shape, 0.3)
    shape = SHAPES[shape]
    X, _ = make_batch(shape)
    network = thresholded(name, value, shape, X, density)
    expected = network.predict_proba(X)
    n = len(X)
    assert len(np.unique(expected[:, 0])) > n // 4, "all rows are predicted alike"

    alone = range(n) if n < 100 else range(0, n, 7)
    for b in alone:
        assert same_bits(network.predict_proba(X[b : b + 1]), expected[b])
    for n_threads in (1, 2):
        for order in (slice(None, None, -1), np.random.default_rng(0).permutation(n)):
            shuffled = network.predict_proba(
                np.ascontiguousarray(X[order]), n_threads=n_threads
            )
            assert same_bits(shuffled, expected[order])
    for size in (2, 3, 5, 8, 16, 17):
        for start in range(0, min(n - size, 20)):
            part = network.predict_proba(X[start : start + size])
            assert same_bits(part, expected[start : start + size])
    # the same row at every position, beside itself and beside others
    again = network.predict_proba(np.repeat(X[1:2], n, axis=0))
    assert same_bits(again, np.repeat(expected[1:2], n, axis=0))


@pytest.mark.parametrize("name", GATERS)
def test_neighbours_that_are_not_finite_change_nothing(name):
    shape = SHAPES["2 layers"]
    X, _ = make_batch(shape)
    network = thresholded(name, make(name).unit_facts["values"][0], shape, X)
    expected = network.predict_proba(X)
    X[::3] = np.array([[np.nan], [np.inf], [-np.inf], [3e38]])[
        np.arange(len(X))[::3] % 4
    ]
    others = np.arange(len(X)) % 3 != 0
    assert same_bits(network.predict_proba(X)[others], expected[others])


@pytest.mark.parametrize("name", GATERS)
def test_scores_and_gates_depend_on_their_row_alone(name):
    shape = SHAPES["2 layers"]
    X, _ = make_batch(shape)
    network = thresholded(name, make(name).unit_facts["values"][0], shape, X)
    (gates,) = network.gates(X)
    for i in range(2):
        scores = network.scores(i, X)
        for b in range(0, len(X), 5):
            row = X[b : b + 1]
            assert same_bits(network.scores(i, row), scores[:, b : b + 1])
            assert same_bits(next(network.gates(row))[i][0], gates[i][b])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", GATERS)
def test_a_draw_depends_on_the_rows_number_and_inputs_alone(name, shape):
    """Row 17 draws the same gates whatever stands in the other rows."""
    shape = SHAPES[shape]
    X, _ = make_batch(shape)
    others, _ = make_batch(shape, seed=1)
    network = make_network(make(name), shape)
    n = len(X)
    for draw in (0, 1, 12345):
        expected = network.predict_proba(X, draw=draw)
        assert same_bits(network.predict_proba(X, draw=draw, n_threads=2), expected)
        for b in (0, 1, 4, 15, 16, n - 1):
            beside = others.copy()
            beside[b] = X[b]
            assert same_bits(network.predict_proba(beside, draw=draw)[b], expected[b])
            # a batch that ends there
            assert same_bits(
                network.predict_proba(X[: b + 1], draw=draw)[b], expected[b]
            )


@pytest.mark.parametrize("name", GATERS)
def test_rows_and_draws_differ(name):
    """The same inputs in every row: only what is drawn tells them apart."""
    shape = SHAPES["small"]
    gater = make(name, noise="gaussian") if name == "sigmoid" else make(name)
    network = make_network(gater, shape)
    X = np.repeat(make_batch(shape)[0][1:2], 37, axis=0)
    drawn = gater.unit_facts["z"] is not None or gater.noise.additive is not None
    first, second = (network.predict_proba(X, draw=draw)[:, 0] for draw in (0, 1))
    assert (len(np.unique(first)) > 20) == drawn
    assert ((first != second).sum() > 20) == drawn


def test_chunks_of_a_long_prediction_do_not_show():
    """Rows around the end of a chunk, in a call that takes several."""
    shape = Shape(0, 7, (5,), (11,), 3)
    network = make_network(make("sts"), shape)
    size = network.prediction_rows()
    X, _ = make_batch(shape, n_rows=2 * size + 21)
    whole = network.predict_proba(X)
    for start in (1, 7, size - 3, size, size + 1):
        assert same_bits(network.predict_proba(X[start:]), whole[start:])
    sampled = network.predict_proba(X, draw=0)
    for end in (size - 1, size + 5, 2 * size + 2):
        assert same_bits(network.predict_proba(X[:end], draw=0), sampled[:end])
