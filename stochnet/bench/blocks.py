"""The second of two layers with block gates, which skips in both directions.

Timed as the difference between a network of two such layers and one of the first alone,
beside the dense matrix product of the second.
"""

from dataclasses import replace

import numpy as np
from scipy.special import softmax

from stochnet.bench.agreement import check_close, gates_of
from stochnet.bench.shapes import (
    EXPERTS_PER_GATE,
    SEED,
    make_data,
    make_network,
    prediction_density,
    set_thresholds,
)
from stochnet.bench.timing import Timing


def make_networks(case, data):
    """Networks of both layers and of the first alone, with thresholds."""
    sizes, networks = case.sizes, []
    for n in (2, 1):
        shape = replace(sizes, n_hidden=sizes.n_hidden[:n], n_units=sizes.n_units[:n])
        network = make_network(shape, case.density, experts_per_gate=EXPERTS_PER_GATE)
        set_thresholds(network, data.X, case.density, case.threads)
        networks.append(network)
    return networks


def check_blocks(network, X, n_threads):
    """Compare with a network that computes everything, given the gates."""
    x, gates = X, gates_of(network, X, n_threads)
    for layer, h in zip(network.layers, gates, strict=True):
        expert = layer.expert
        H = x @ expert.values.T + expert.bias_values
        x = np.repeat(h, layer.experts_per_gate, axis=1) * H
    logits = x @ network.readout.values + network.readout_bias.values[0]
    given = softmax(logits, axis=1)
    check_close("probabilities", network.predict_proba(X, n_threads=n_threads), given)


def contenders(case):
    """Predictions of both networks, the dense product, and the gates' densities."""
    data = make_data(case.sizes, case.batch, 1)
    both, first = make_networks(case, data)
    check_blocks(both, data.X, case.threads)
    dense = both.layers[1].expert.values
    x = np.random.default_rng(SEED).standard_normal((case.batch, dense.shape[1]))
    x = x.astype(np.float32)
    runs = {
        "two layers": lambda: both.predict_proba(data.X, n_threads=case.threads),
        "first layer": lambda: first.predict_proba(data.X, n_threads=case.threads),
        "numpy sgemm": lambda: x @ dense.T,
    }
    return runs, prediction_density(both, data.X, case.threads)


def second_layer(timings):
    """The `Timing` of the second layer: a difference, with both spreads in it."""
    both, first = timings["two layers"], timings["first layer"]
    seconds = both.median - first.median
    spread = np.hypot(both.spread * both.median, first.spread * first.median) / seconds
    return Timing(seconds, float(spread), min(both.n_samples, first.n_samples))
