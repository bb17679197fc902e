"""Epochs over a training set: order, learning rates, thresholds, stopping, history."""

import warnings
from dataclasses import dataclass, field

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from stochnet._kernels.arrays import copy_above
from stochnet.network import FITTING_FLOATS

#: Gate scores and inputs of the rows that calibration may take, and the most rows.
CALIBRATION_SCORES = 1 << 23
CALIBRATION_INPUTS = 1 << 21
CALIBRATION_ROWS = 2048

#: Scores that are compared at a time where a threshold is sought.
SCORES_AT_ONCE = 1 << 16

#: Mini-batches of one call of the engine, between which an interrupt is noticed.
BATCHES_PER_CALL = 512

#: Mini-batches from one weights to the next that are averaged: a pass over all weights
#: each time is a small part of what so many steps cost.
AVERAGING_INTERVAL = 64


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train; names and meaning as in `GatedMLPClassifier`."""

    batch_size: int
    max_iter: int = 1
    learning_rate: float = 0.1
    gater_learning_rate: float = 0.1
    learning_rate_decay: float = 1.0
    learning_rate_min: float = 0.0
    shuffle: bool = True
    tol: float = 1e-4
    n_iter_no_change: float = 10
    verbose: bool = False

    def rates(self, epoch):
        """Learning rates of main path and gater in an epoch, counted from 0."""
        factor = self.learning_rate_decay**epoch
        return tuple(
            max(rate * factor, min(rate, self.learning_rate_min))
            for rate in (self.learning_rate, self.gater_learning_rate)
        )


@dataclass
class History:
    """What each epoch brought."""

    loss: list = field(default_factory=list)
    density: list = field(default_factory=list)
    validation: list = field(default_factory=list)


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
        self._n = 0  # rows of the sample: the first of each array
        self._arrays = {
            "priority": np.empty(0, dtype=np.uint64),
            "position": np.empty(0, dtype=np.uint64),
            "X": np.empty((0, network.layers[0].n_inputs), dtype=np.float32),
            "y": np.empty(0, dtype=np.int32),
        }

    def add(self, X, y):
        """See more rows: those that stay take the places of those that go."""
        position = np.arange(self.n_seen, self.n_seen + len(X), dtype=np.uint64)
        self.n_seen += len(X)
        priority = _hash(position, self.seed)
        kept = self._arrays["priority"][: self._n]
        if self._n == self.capacity and not (priority < kept.max()).any():
            return
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


def _hash(position, seed):
    """Mix position and seed as SplitMix64 does (Steele, Lea & Flood 2014)."""
    with np.errstate(over="ignore"):
        x = position * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


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
        loss = _cross_entropy(_predict(network, X, n_threads), y)
        if best[1] is None or (reached and loss < best[0]):
            best = loss, setting
    for layer, (threshold, value) in zip(network.layers, best[1], strict=True):
        layer.threshold, layer.value = threshold, value


def _threshold(network, i, calibration, n_threads):
    """Threshold of layer `i`, with the layers below as they are."""
    X, layer = calibration.X, network.layers[i]
    size = network.prediction_rows(FITTING_FLOATS)
    chunks = network.scores_of_chunks(i, X, n_threads=n_threads, size=size)
    return threshold_for(chunks, layer.gater.density, len(X) * layer.n_gates)


def _predict(network, X, n_threads):
    size = network.prediction_rows(FITTING_FLOATS)
    return network.predict_proba(X, n_threads=n_threads, size=size)


def _cross_entropy(probability, y):
    chosen = probability[np.arange(len(y)), y]
    return -np.log(np.maximum(chosen, np.finfo(np.float32).tiny)).mean(dtype=float)


class Trainer:
    """Trains a network by a schedule and keeps the history.

    Parameters
    ----------
    network : stochnet.network.Network
    schedule : Schedule
    n_threads : int
    """

    def __init__(self, network, schedule, n_threads):
        self.network, self.schedule, self.n_threads = network, schedule, n_threads
        self.history = History()
        self.best_score, self.epochs_without_gain = None, 0

    def run_epoch(self, X, y, epoch, order=None):
        """One pass over the rows; returns the mean cross-entropy.

        Raises
        ------
        ValueError
            If loss or weights become non-finite.
        """
        network, size = self.network, self.schedule.batch_size
        for layer in network.layers:
            layer.fired[:] = 0
        total, start, n = 0.0, 0, len(X)
        while start < n:
            stop = min(start + size * self._steps_of_call(), n)
            piece = slice(start, stop)
            loss, _, failed = network.train(
                X if order is not None else X[piece],
                y if order is not None else y[piece],
                order=None if order is None else order[piece],
                batch_size=size,
                n_threads=self.n_threads,
                rates=self.schedule.rates(epoch),
            )
            if failed >= 0:
                self._fail(epoch)
            if network.averaging is not None and network.step % AVERAGING_INTERVAL == 0:
                network.add_to_average()
            total += loss * (stop - start)
            start = stop
        self.history.loss.append(total / n)
        self.history.density.append(
            [float(layer.fired.mean() / n) for layer in network.layers]
        )
        return total / n

    def _steps_of_call(self):
        """Mini-batches until the engine has to return."""
        if self.network.averaging is None:
            return BATCHES_PER_CALL
        return AVERAGING_INTERVAL - self.network.step % AVERAGING_INTERVAL

    def _fail(self, epoch):
        where = self.network.first_nonfinite() or "the softmax's input"
        raise ValueError(
            f"Training produced non-finite values in epoch {epoch + 1}, in {where}. "
            "The input data may contain large values and need to be preprocessed, or "
            "learning_rate_init is too high."
        )

    def run(self, X, y, validation=None, calibration=None):
        """Epochs until the schedule ends or nothing improves.

        With `validation` = (X, y), the score is the accuracy there at prediction, and
        the best epoch's network is restored at the end; else it is the training loss.
        """
        schedule, best, stopped = self.schedule, None, False
        for epoch in range(schedule.max_iter):
            order = None
            if schedule.shuffle:
                draw = self.network.generator(1, self.network.step)
                order = draw.permutation(len(X)).astype(np.int64)
            loss = self.run_epoch(X, y, epoch, order)
            score = -loss
            if validation is not None:
                calibrate(
                    self.network.predictor, calibration, self.n_threads, validation
                )
                score = self._accuracy(*validation)
                self.history.validation.append(score)
                if self.best_score is None or score > self.best_score:
                    best = self.network.snapshot()
            self._report(epoch)
            if self._no_gain(score):
                stopped = True
                break
        if best is not None:
            self.network.restore(best)
        if not stopped and schedule.n_iter_no_change < schedule.max_iter:
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({schedule.max_iter}) "
                "reached and the optimization hasn't converged yet.",
                ConvergenceWarning,
                stacklevel=4,
            )
        self.network.release()

    def _accuracy(self, X, y):
        probability = _predict(self.network.predictor, X, self.n_threads)
        return float(np.mean(probability.argmax(axis=1) == y))

    def _no_gain(self, score):
        """Whether the score has not risen by tol for n_iter_no_change epochs."""
        gained = self.best_score is None or score > self.best_score + self.schedule.tol
        self.epochs_without_gain = 0 if gained else self.epochs_without_gain + 1
        self.best_score = (
            score if self.best_score is None else max(score, self.best_score)
        )
        return self.epochs_without_gain > self.schedule.n_iter_no_change

    def _report(self, epoch):
        if not self.schedule.verbose:
            return
        line = f"Iteration {epoch + 1}, loss = {self.history.loss[-1]:.8f}"
        densities = ", ".join(f"{d:.3f}" for d in self.history.density[-1])
        line += f", density = {densities}"
        if self.history.validation:
            line += f", validation score = {self.history.validation[-1]:.6f}"
        print(line)
