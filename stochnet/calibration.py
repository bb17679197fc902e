"""Thresholds at prediction, set on a sample of the training rows (Appendix A.3)."""

import numpy as np

from stochnet._kernels.arrays import copy_above
from stochnet._kernels.sample import next_below, priorities

#: Gate scores and inputs of the rows that calibration may take, and the most rows.
CALIBRATION_SCORES = 1 << 23
CALIBRATION_INPUTS = 1 << 21
CALIBRATION_ROWS = 2048

#: Scores that are compared at a time where a threshold is sought.
SCORES_AT_ONCE = 1 << 16


class CalibrationRows:
    """A sample of the training rows seen so far, for the thresholds of Appendix A.3.

    Each row has a pseudo-random priority that depends on the seed and on its position
    among all rows seen; the rows with the lowest are kept. The sample is therefore the
    same whether rows come at once or in pieces.
    """

    def __init__(self, network):
        widest = max(layer.n_units for layer in network.layers)
        n_inputs = network.layers[0].n_inputs
        most = min(CALIBRATION_SCORES // widest, CALIBRATION_INPUTS // n_inputs)
        self.capacity = min(max(most, 128), CALIBRATION_ROWS)
        self.seed = network.seed
        self.n_seen = 0
        self._next = 0  # no row before this one takes a place
        self._n = 0  # rows of the sample: the first of each array
        self._arrays = {
            "priority": np.empty(0, dtype=np.uint64),
            "position": np.empty(0, dtype=np.uint64),
            "X": np.empty((0, network.layers[0].n_inputs), dtype=np.float32),
            "y": np.empty(0, dtype=np.int32),
        }

    def add(self, X, y):
        """See more rows: those that stay take the places of those that go."""
        first = self.n_seen
        self.n_seen += len(X)
        if self.n_seen <= self._next:
            return
        priority = priorities(first, len(X), self.seed)
        position = np.arange(first, self.n_seen, dtype=np.uint64)
        kept = self._arrays["priority"][: self._n]
        stays = self._lowest(np.concatenate([kept, priority]))
        new = np.flatnonzero(stays[self._n :])
        places = np.flatnonzero(~stays[: self._n])
        start, n_left = self._n, len(places)
        self._reserve(start + len(new) - n_left)
        self._n += len(new) - n_left
        rows = {"priority": priority, "position": position, "X": X, "y": y}
        for name, array in self._arrays.items():
            array[places] = rows[name][new[:n_left]]
            # with a mode other than "raise" nothing is copied twice
            more = array[start : self._n]
            np.take(rows[name], new[n_left:], axis=0, out=more, mode="clip")
        if self._n == self.capacity:
            highest = self._arrays["priority"][: self._n].max()
            self._next = next_below(self.n_seen, self.seed, highest)

    def _lowest(self, priority):
        """Mask of those that are kept."""
        if len(priority) <= self.capacity:
            return np.ones(len(priority), dtype=bool)
        mask = np.zeros(len(priority), dtype=bool)
        mask[np.argpartition(priority, self.capacity)[: self.capacity]] = True
        return mask

    def _reserve(self, n):
        """Make place for n rows; for all that will be kept where more come later."""
        n_places = len(self._arrays["y"])
        if n > n_places:
            n_places = n if n_places == 0 else self.capacity
            for name, array in self._arrays.items():
                larger = np.zeros((n_places, *array.shape[1:]), dtype=array.dtype)
                larger[: self._n] = array[: self._n]
                self._arrays[name] = larger

    def __getstate__(self):
        """The sample, without the places that are left."""
        rows = {name: array[: self._n] for name, array in self._arrays.items()}
        return self.__dict__ | {"_arrays": rows}

    def _in_order(self, name):
        """One of the arrays of the sample, its rows in the order in which they came."""
        position = self._arrays["position"][: self._n]
        if (position[1:] < position[:-1]).any():
            order = np.argsort(position)
            for array in self._arrays.values():
                array[: self._n] = array[order]
        return self._arrays[name][: self._n]

    @property
    def X(self):  # noqa: N802, the name of the field
        """Rows of the sample, (n, n_inputs), float32."""
        return self._in_order("X")

    @property
    def y(self):
        """Their class indices, (n,), int32."""
        return self._in_order("y")


def threshold_for(chunks, density, size):
    """Threshold that the share `density` of all scores exceeds; -inf for all.

    Parameters
    ----------
    chunks : iterable of ndarray, float32
        The scores, of which the largest alone are kept.
    density : float in (0, 1]
    size : int
        How many scores there are in all.
    """
    n_above = round(density * size)
    if n_above >= size:
        return -np.inf
    n_kept, n, least = n_above + 1, 0, -np.inf
    largest = np.empty(2 * n_kept + SCORES_AT_ONCE, dtype=np.float32)
    for scores in chunks:
        scores = scores.ravel()
        for start in range(0, len(scores), SCORES_AT_ONCE):
            piece = scores[start : start + SCORES_AT_ONCE]
            n += copy_above(largest[n:], piece, least)
            if n > 2 * n_kept:  # often enough, as each time takes about as long
                largest[:n].partition(n - n_kept)
                largest[:n_kept] = largest[n - n_kept : n]
                n, least = n_kept, largest[0]
    first = max(n - n_kept, 0)
    largest[:n].partition(first)
    return float(largest[first])


def calibrate(network, calibration, n_threads, validation=None):
    """Set each layer's threshold, bottom up, and the value that its gates take.

    Parameters
    ----------
    network : stochnet.network.Network
    calibration : CalibrationRows
        Rows on which the target density is met.
    n_threads : int
    validation : (X, y), optional
        Rows on which the gates' deterministic value is chosen, where the unit offers
        more than one, by cross-entropy; the calibration rows by default.
    """
    facts = network.layers[0].gater.unit_facts
    if facts["always_fires"]:
        return
    X, y = validation or (calibration.X, calibration.y)
    best = np.inf, None
    lowest = _threshold(network, 0, calibration, n_threads)  # whatever the value
    for value, least in enumerate(facts["positive_above"]):
        for i, layer in enumerate(network.layers):
            layer.value = value
            layer.threshold = lowest
            if i > 0:
                layer.threshold = _threshold(network, i, calibration, n_threads)
            # up to `least` the value is 0 and the gate does not fire
            layer.threshold = max(layer.threshold, least)
        setting = [(layer.threshold, layer.value) for layer in network.layers]
        if len(facts["values"]) == 1:
            return
        reached = least == -np.inf or min(t for t, _ in setting) > least
        loss = _cross_entropy(predict_while_fitting(network, X, n_threads), y)
        if best[1] is None or (reached and loss < best[0]):
            best = loss, setting
    for layer, (threshold, value) in zip(network.layers, best[1], strict=True):
        layer.threshold, layer.value = threshold, value


def _threshold(network, i, calibration, n_threads):
    """Threshold of layer `i`, with the layers below as they are."""
    X, layer = calibration.X, network.layers[i]
    size = network.fitting_rows()
    chunks = network.scores_of_chunks(i, X, n_threads=n_threads, size=size)
    return threshold_for(chunks, layer.gater.density, len(X) * layer.n_gates)


def predict_while_fitting(network, X, n_threads):
    """Class probabilities, in chunks that take less memory than a mini-batch."""
    size = network.fitting_rows()
    return network.predict_proba(X, n_threads=n_threads, size=size)


def _cross_entropy(probability, y):
    chosen = probability[np.arange(len(y)), y]
    return -np.log(np.maximum(chosen, np.finfo(np.float32).tiny)).mean(dtype=float)
