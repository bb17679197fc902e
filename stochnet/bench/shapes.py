"""Networks and data that are timed, with gates that really have the density asked for.

Everything is a function of `SEED`.
"""

from dataclasses import dataclass
from itertools import cycle

import numpy as np
from scipy.special import logit

from stochnet.calibration import threshold_for
from stochnet.gaters import make_gater
from stochnet.network import Network, Optimizer

SEED = 1
MAX_NORM = 2.0

#: Large enough that most weights change in a step, small enough not to go anywhere.
LEARNING_RATE = 1e-5

#: Experts that a gate of blocks switches.
EXPERTS_PER_GATE = 16

#: Relative error of a density that is timed.
DENSITY_TOLERANCE = 0.1


@dataclass(frozen=True)
class Shape:
    """Sizes of a network: inputs, tanh units and experts of each layer, classes."""

    n_inputs: int
    n_hidden: tuple
    n_units: tuple
    n_classes: int = 10


SHAPES = {
    "paper": Shape(784, (400,), (2000,)),
    "wide": Shape(4096, (128,), (4096,)),
    "huge": Shape(784, (64,), (65536,)),
    "deep": Shape(1024, (128, 128), (4096, 4096)),
    "small": Shape(64, (32,), (200,)),
    "classes": Shape(784, (400,), (2000,), 1000),
}


@dataclass(frozen=True)
class Case:
    """One combination of what can be chosen; `variant` is the gates' credit."""

    task: str
    shape: str
    density: float
    batch: int
    threads: int
    variant: str = ""

    @property
    def sizes(self):
        """The `Shape` that is named."""
        return SHAPES[self.shape]


@dataclass
class Data:
    """Rows and classes, both at random, and mini-batches of them without end."""

    X: np.ndarray
    y: np.ndarray
    batch: int

    def batches(self):
        """Cycle through the mini-batches as (X, y)."""
        starts = range(0, len(self.X), self.batch)
        return cycle(
            [
                (self.X[start : start + self.batch], self.y[start : start + self.batch])
                for start in starts
            ]
        )


def make_data(shape, batch, n_batches=None):
    """Standard normal rows: at least 4 mini-batches and 256 rows unless told.

    Of many classes only half as many occur as a mini-batch has rows, and ten at least:
    of more, scikit-learn warns that they could be a continuous target.
    """
    generator = np.random.default_rng(SEED)
    n_rows = batch * (n_batches or max(4, -(-256 // batch)))
    X = generator.standard_normal((n_rows, shape.n_inputs), dtype=np.float32)
    n_labels = min(shape.n_classes, max(batch // 2, 10))
    y = generator.integers(n_labels, size=n_rows, dtype=np.int32)
    y[:n_labels] = np.arange(n_labels)[:n_rows]
    return Data(X, y, batch)


def make_network(shape, density, credit="active", experts_per_gate=1):
    """A straight-through network without a control of the bias, norms within limits."""
    optimizer = Optimizer(learning_rate=LEARNING_RATE, max_norm=MAX_NORM)
    network = Network(
        shape.n_inputs,
        shape.n_classes,
        shape.n_units,
        shape.n_hidden,
        make_gater("st", density=density, credit=credit),
        optimizer,
        optimizer,
        experts_per_gate=[experts_per_gate] * len(shape.n_units),
        seed=SEED,
    )
    for layer in network.layers:
        for parameters in (layer.hidden, layer.gate, layer.expert):
            _limit_norms(parameters.values)
    return network


def _limit_norms(weight):
    norm = np.linalg.norm(weight, axis=1, keepdims=True)
    weight *= np.minimum(1, MAX_NORM / np.maximum(norm, 1e-12))


def switch_all_on(network):
    """Gates that always fire, in training and at prediction: nothing is skipped."""
    for layer in network.layers:
        layer.gate.bias_values[:] = 30.0
        layer.threshold = -np.inf


def set_training_density(network, data, density, n_threads):
    """Shift gate biases until the share of gates that fire in training is `density`.

    Raises
    ------
    RuntimeError
        If that does not come within `DENSITY_TOLERANCE`.
    """
    best = np.inf
    for _ in range(20):
        measured = _frozen_density(network, data, n_threads)
        best = max(abs(m / density - 1) for m in measured)
        if best < DENSITY_TOLERANCE / 5:
            break
        for layer, m in zip(network.layers, measured, strict=True):
            m = np.clip(m, 1e-5, 1 - 1e-5)
            layer.gate.bias_values[:] += np.float32(logit(density) - logit(m))
    if best > DENSITY_TOLERANCE:
        raise RuntimeError(f"Densities {measured} are too far from {density}.")


def _frozen_density(network, data, n_threads):
    """Density of each layer in one pass without updates."""
    clear_density(network)
    network.train(
        data.X, data.y, batch_size=data.batch, n_threads=n_threads, rates=(0.0, 0.0)
    )
    return training_density(network, len(data.X))


def clear_density(network):
    """Start the count of gates that fire again."""
    for layer in network.layers:
        layer.fired[:] = 0


def training_density(network, n_rows):
    """Density of each layer over the `n_rows` rows since `clear_density`."""
    return [float(layer.fired.mean() / n_rows) for layer in network.layers]


def set_thresholds(network, X, density, n_threads):
    """Thresholds that the share `density` of the gates exceeds at prediction."""
    for i, layer in enumerate(network.layers):
        scores = network.scores(i, X, n_threads=n_threads)
        layer.threshold = threshold_for([scores], density, scores.size)


def prediction_density(network, X, n_threads):
    """Density of each layer at prediction."""
    fired = [0] * len(network.layers)
    for gates in network.gates(X, n_threads=n_threads):
        fired = [f + np.count_nonzero(h) for f, h in zip(fired, gates, strict=True)]
    return [
        float(f / (len(X) * layer.n_gates))
        for f, layer in zip(fired, network.layers, strict=True)
    ]
