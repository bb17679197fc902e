"""Epochs over a training set: order, learning rates, stopping, history."""

import warnings
from dataclasses import dataclass, field

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from stochnet.calibration import calibrate, predict_while_fitting

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
            [int(layer.fired.sum()) / (n * layer.n_gates) for layer in network.layers]
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
        probability = predict_while_fitting(self.network.predictor, X, self.n_threads)
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
