"""The package's own contenders: skipping, with all gates on, and as users call them."""

import copy

import numpy as np

from stochnet.bench.shapes import (
    LEARNING_RATE,
    SEED,
    clear_density,
    switch_all_on,
    training_density,
)
from stochnet.estimator import GatedMLPClassifier


class TrainingStep:
    """A mini-batch step, with other rows and fresh gates at every call."""

    method = "partial_fit"

    def __init__(self, network, data, n_threads):
        self.network, self.n_threads = network, n_threads
        self.batches = data.batches()
        self.n_rows = 0
        clear_density(network)

    def __call__(self):
        """Train on the next mini-batch."""
        X, y = next(self.batches)
        self.network.train(X, y, batch_size=len(X), n_threads=self.n_threads)
        self.n_rows += len(X)

    @property
    def density(self):
        """Density of each layer in the calls so far."""
        return training_density(self.network, self.n_rows)


class Prediction:
    """Class probabilities of a mini-batch."""

    method = "predict_proba"

    def __init__(self, network, data, n_threads):
        self.network, self.n_threads = network, n_threads
        self.batches = data.batches()

    def __call__(self):
        """Predict the next mini-batch."""
        return self.network.predict_proba(
            next(self.batches)[0], n_threads=self.n_threads
        )


def classifier_of(network, data, n_threads):
    """An estimator that trains the network, and predicts with its thresholds."""
    layers, gater = network.layers, network.layers[0].gater
    model = GatedMLPClassifier(
        [layer.n_units for layer in layers],
        gater_hidden_size=[layer.n_hidden for layer in layers],
        density=gater.density,
        credit=gater.credit,
        batch_size=data.batch,
        learning_rate_init=LEARNING_RATE,
        firing_rate_step=0.0,
        random_state=SEED,
        n_jobs=n_threads,
    )
    classes = np.arange(network.n_classes)
    model.partial_fit(data.X[: data.batch], data.y[: data.batch], classes=classes)
    model._network, model._stale = network, False
    return model


class Call:
    """A method of the estimator on the next mini-batch, with all its checks."""

    def __init__(self, method, network, data, n_threads):
        self.run = getattr(classifier_of(network, data, n_threads), method)
        self.takes_y = method == "partial_fit"
        self.batches = data.batches()

    def __call__(self):
        """Train on the next mini-batch, or predict it."""
        X, y = next(self.batches)
        return self.run(X, y) if self.takes_y else self.run(X)


def contenders(kind, network, data, n_threads):
    """The network as it is, a copy that skips nothing, and a call of an estimator.

    Parameters
    ----------
    kind : {TrainingStep, Prediction}

    Returns
    -------
    dict of str to callable
    """
    dense, called = copy.deepcopy(network), copy.deepcopy(network)
    switch_all_on(dense)
    return {
        "stochnet": kind(network, data, n_threads),
        "stochnet dense": kind(dense, data, n_threads),
        f"stochnet {kind.method}": Call(kind.method, called, data, n_threads),
    }
