"""The package's own contenders: skipping, and with all gates on."""

import copy

from stochnet.bench.shapes import clear_density, switch_all_on, training_density


class TrainingStep:
    """A mini-batch step, with other rows and fresh gates at every call."""

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

    def __init__(self, network, data, n_threads):
        self.network, self.n_threads = network, n_threads
        self.batches = data.batches()

    def __call__(self):
        """Predict the next mini-batch."""
        return self.network.predict_proba(
            next(self.batches)[0], n_threads=self.n_threads
        )


def contenders(kind, network, data, n_threads):
    """The network as it is, and a copy that skips nothing, by name.

    Parameters
    ----------
    kind : {TrainingStep, Prediction}
    """
    dense = copy.deepcopy(network)
    switch_all_on(dense)
    return {
        "stochnet": kind(network, data, n_threads),
        "stochnet dense": kind(dense, data, n_threads),
    }
