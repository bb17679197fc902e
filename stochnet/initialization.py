"""Initial weights of a network, and gate biases that go with its inputs."""

import numpy as np

from stochnet._kernels.random import fill_uniform

INITIALIZATIONS = ("sparse", "glorot", "authors")


def draw_weights(network, how, n_threads):
    """Draw the initial weights; see `GatedMLPClassifier.initialization`."""
    limits = {name: _glorot_limit(p) for name, p in network.parameters()}
    del limits["readout_bias"]
    for i, layer in enumerate(network.layers):
        rectifies = 0.0 in layer.gater.unit_facts["positive_above"]
        if how == "authors" and rectifies:
            del limits[f"{i}.gate"]
            _sparse_normal(layer.gate, network.generator(0, i))
        elif how != "glorot":
            limits[f"{i}.gate"] *= 4
    if how == "authors":
        binary = network.layers[-1].gater.unit == "bernoulli"
        limits["readout"] = 0.05 if binary else 0.005
    for number, (name, p) in enumerate(network.parameters()):
        if name in limits:
            fill_uniform(
                p.weight,
                p.n,
                limits[name],
                network.key,
                number=number,
                n_threads=n_threads,
            )


def balance_gates(network, rows, n_threads):
    """Set gate biases at which units fire with about the target density."""
    if rows is None:
        draw = network.generator(2)
        rows = draw.standard_normal((64, network.n_inputs), dtype=np.float32)
    size = network.fitting_rows()
    for i, layer in enumerate(network.layers):
        mean, below = layer.gater.noise.mean, i + 1 < len(network.layers)
        chunks = network.scores_of_chunks(i, rows, n_threads=n_threads, size=size)
        chunks = list(chunks) if below else chunks  # which are read once again
        squares = [
            np.square(scores - mean, dtype=float).mean(axis=0) for scores in chunks
        ]
        bias = layer.gater.initial_bias(np.sqrt(np.mean(np.concatenate(squares))))
        layer.gate.bias_values[:] = bias
        if below:
            # the layers above see this one as sparse as it is going to be
            scores = np.concatenate(chunks, axis=1)
            layer.threshold = np.quantile(scores, 1 - layer.gater.density) + bias
    for layer in network.layers:
        layer.threshold = -np.inf


def _pieces(n_rows, n):
    """Slices of rows of at most about a megabyte of float64."""
    size = max(1, (1 << 17) // max(n, 1))
    return [slice(start, start + size) for start in range(0, n_rows, size)]


def _glorot_limit(parameters):
    """Of uniform weights: sqrt(6 / (fan_in + fan_out)), Glorot & Bengio (2010)."""
    return np.sqrt(6.0 / sum(parameters.values.shape))


def _sparse_normal(parameters, draw, n_connections=15):
    """Fifteen standard normal weights a unit, the others zero (Martens 2010)."""
    n_rows, n = parameters.values.shape
    n_connections = min(n_connections, n)
    chosen = np.empty((n_rows, n_connections), dtype=np.int64)
    for piece in _pieces(n_rows, n):
        order = draw.random((len(chosen[piece]), n)).argsort(axis=1)
        chosen[piece] = order[:, :n_connections]
    np.put_along_axis(
        parameters.values, chosen, draw.standard_normal((n_rows, n_connections)), axis=1
    )
