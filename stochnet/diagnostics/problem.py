"""What estimators are compared on, and its exact gradient."""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit
from sklearn.utils import check_X_y

from stochnet._kernels.enumeration import MOST_GATES, enumerate_gates
from stochnet._validation import prediction_data
from stochnet.calibration import CalibrationRows, calibrate
from stochnet.diagnostics.quadrature import (
    MOST_QUADRATURE_GATES,
    RULES,
    cross_entropy,
    integrate,
)

#: Unit -> most gates for which the gradient of its expected loss is computed.
MOST_GATES_OF = {
    "bernoulli": MOST_GATES,
    "sts": MOST_GATES,
    **dict.fromkeys(RULES, MOST_QUADRATURE_GATES),
}


@dataclass(frozen=True)
class GateProblem:
    """Examples, each with gates that add their contributions to the logits.

    Attributes
    ----------
    a : ndarray of shape (n_rows, n_gates)
        Pre-activations of the gates.
    base : ndarray of shape (n_rows, n_classes)
        Logits where all gates are zero.
    contribution : ndarray of shape (n_rows, n_gates, n_classes)
        What a gate of 1 adds to them.
    target : ndarray of shape (n_rows,)
        Class indices.
    noise_scale : float, default=1.0
        Standard deviation of the noisy rectifier's Gaussian noise.

    Raises
    ------
    ValueError
        If shapes do not fit, a class index is none, or `noise_scale` is not positive.
    """

    a: np.ndarray
    base: np.ndarray
    contribution: np.ndarray
    target: np.ndarray
    noise_scale: float = 1.0

    def __post_init__(self):
        """Make arrays of everything, and check them."""
        for name in ("a", "base", "contribution"):
            value = np.asarray(getattr(self, name), dtype=float)
            object.__setattr__(self, name, value)
        object.__setattr__(self, "target", np.asarray(self.target, dtype=np.int64))
        shapes = {
            name: np.shape(getattr(self, name))
            for name in ("a", "base", "contribution", "target")
        }
        if len(shapes["contribution"]) != 3:
            raise ValueError(f"Shapes do not fit: {shapes}.")
        n_rows, n_gates, n_classes = shapes["contribution"]
        expected = {
            "a": (n_rows, n_gates),
            "base": (n_rows, n_classes),
            "contribution": (n_rows, n_gates, n_classes),
            "target": (n_rows,),
        }
        if shapes != expected or 0 in shapes["contribution"]:
            raise ValueError(f"Shapes do not fit: {shapes}.")
        if not 0 <= self.target.min() <= self.target.max() < n_classes:
            raise ValueError(f"target holds values outside [0, {n_classes}).")
        if not self.noise_scale > 0:
            raise ValueError(f"noise_scale must be positive, got {self.noise_scale}.")

    @property
    def n_gates(self):
        """Gates of each example."""
        return self.a.shape[1]

    @classmethod
    def from_network(cls, network, X, y):
        """The last layer of a network, on the rows of a batch.

        The layers below take the values that they have at prediction.

        Parameters
        ----------
        network : stochnet.network.Network
        X : array-like of shape (n_rows, n_inputs)
        y : array-like of shape (n_rows,)
            Class indices.

        Returns
        -------
        GateProblem
        """
        X = np.ascontiguousarray(X, dtype=np.float32)
        last = network.layers[-1]
        *gates, _ = (np.concatenate(c).T for c in zip(*network.gates(X), strict=True))
        everywhere = np.ones((last.n_gates, len(X)))
        *_, H = network.expert_outputs(X, [*gates, everywhere])
        V = network.readout.values.astype(float)
        parts = H.T[:, :, None] * V  # (rows, experts, classes)
        shape = (len(X), last.n_gates, last.experts_per_gate, V.shape[1])
        noise = last.gater.noise
        rectifier = last.gater.unit == "noisy_rectifier"
        gaussian = rectifier and noise.additive == "gaussian"
        scores = network.scores(len(network.layers) - 1, X).T.astype(float)
        return cls(
            a=scores - noise.mean,  # the scores contain it
            base=np.tile(network.readout_bias.values[0].astype(float), (len(X), 1)),
            contribution=parts.reshape(shape).sum(axis=2),
            target=np.asarray(y, dtype=np.int64),
            noise_scale=noise.scale if gaussian else 1.0,
        )

    @classmethod
    def from_estimator(cls, estimator, X, y):
        """The last layer of a `GatedMLPClassifier`, fitted or not.

        One that is not fitted is left as it is; what is measured is the network that
        `fit` on X and y would start from, with thresholds calibrated on X.

        Parameters
        ----------
        estimator : GatedMLPClassifier
        X : array-like of shape (n_rows, n_features)
        y : array-like of shape (n_rows,)
            Labels.

        Returns
        -------
        GateProblem

        Raises
        ------
        ValueError
            If X or a parameter is invalid, or `y` has labels that `fit` did not see.
        """
        if estimator.__sklearn_is_fitted__():
            X = prediction_data(estimator, X)
            codes = _codes(y, estimator.classes_)
            return cls.from_network(estimator._ready(), X, codes)
        estimator._validate_params()
        X, y = check_X_y(X, y, dtype=np.float32, order="C")
        classes = np.unique(y)
        network = estimator._new_network(X, len(classes))
        rows = CalibrationRows(network)
        rows.add(X, _codes(y, classes))
        calibrate(network, rows, n_threads=1)
        return cls.from_network(network, X, _codes(y, classes))

    def restrict(self, gates, h=None):
        """The problem of some of the gates, with the others held.

        Parameters
        ----------
        gates : sequence of int
        h : array-like of shape (n_rows, n_gates), optional
            Values of the others; by default the more probable one, 1 where a > 0.

        Returns
        -------
        GateProblem
            Whose gates are `gates`, in that order.
        """
        h = self.a > 0 if h is None else h
        held = np.array(np.broadcast_to(h, self.a.shape), dtype=float)
        held[:, gates] = 0
        return GateProblem(
            self.a[:, gates],
            self.logits(held),
            self.contribution[:, gates],
            self.target,
            self.noise_scale,
        )

    def logits(self, h):
        """Logits for gates h, (..., n_rows, n_gates)."""
        flat = np.asarray(h, dtype=float).reshape(-1, *self.a.shape)
        # one matrix product for each example, over all draws of its gates
        logits = flat.swapaxes(0, 1) @ self.contribution + self.base[:, None]
        return logits.swapaxes(0, 1).reshape(*np.shape(h)[:-1], -1)

    def loss(self, h):
        """Cross-entropy of each example, (..., n_rows)."""
        return cross_entropy(self.logits(h), self.target)

    def slope(self, h):
        """Derivatives of each example's loss by its gates, shaped like h."""
        logits = self.logits(h).reshape(-1, *self.base.shape)
        delta = np.exp(logits - logits.max(axis=-1, keepdims=True))
        delta /= delta.sum(axis=-1, keepdims=True)
        delta[:, np.arange(len(self.target)), self.target] -= 1
        slope = delta.swapaxes(0, 1) @ self.contribution.swapaxes(1, 2)
        return slope.swapaxes(0, 1).reshape(np.shape(h))

    def difference(self, h, where=None):
        """Loss with a gate at 1 minus loss with it at 0, the others as in h.

        One of the two is the loss of h itself, so that each gate costs one more.

        Parameters
        ----------
        h : ndarray of shape (..., n_rows, n_gates)
            Of zeros and ones.
        where : ndarray of bool, shaped like h, optional
            Gates to compute it for; the others get 0. All by default.

        Returns
        -------
        ndarray, shaped like h
        """
        logits = self.logits(h)
        loss, turn = cross_entropy(logits, self.target), 1 - 2 * h
        if where is None:
            flipped = logits[..., None, :] + turn[..., None] * self.contribution
            flipped = cross_entropy(flipped, self.target[:, None])
            return turn * (flipped - loss[..., None])
        *example, gate = np.nonzero(where)
        row = example[-1]
        flipped = logits[(*example,)]
        flipped += turn[where][:, None] * self.contribution[row, gate]
        out = np.zeros(h.shape)
        flipped = cross_entropy(flipped, self.target[row])
        out[where] = turn[where] * (flipped - loss[(*example,)])
        return out


def _codes(y, classes):
    """Indices of labels among sorted classes."""
    unknown = np.setdiff1d(y, classes)
    if len(unknown):
        raise ValueError(f"y has labels that are not classes: {unknown}.")
    return np.searchsorted(classes, y).astype(np.int32)


def exact_gradient(problem, unit="bernoulli", **parameters):
    """Expected loss of each example and its gradient by the pre-activations.

    Binary gates and STS are enumerated in the C engine. Where a gate has a density,
    the product of Gauss-Legendre rules between its atoms is summed.

    Parameters
    ----------
    problem : GateProblem
        With at most 20 gates for "bernoulli" and "sts", 3 for the others.
    unit : {"bernoulli", "sts", "noisy_rectifier", "concrete", "hard_concrete"}
        The noisy rectifier with Gaussian noise of standard deviation
        `problem.noise_scale`.
    **parameters
        ``temperature`` of "concrete" (default 0.5) and "hard_concrete" (2/3), whose
        ``limits`` are (-0.1, 1.1); ``n_nodes`` (64) of all that have a density.

    Returns
    -------
    loss : ndarray of shape (n_rows,)
    gradient : ndarray of shape (n_rows, n_gates)

    Raises
    ------
    ValueError
        For another unit, or too many gates.
    """
    if unit not in MOST_GATES_OF:
        valid = ", ".join(map(repr, MOST_GATES_OF))
        raise ValueError(f"unit must be one of {valid}; got {unit!r}.")
    if problem.n_gates > MOST_GATES_OF[unit]:
        raise ValueError(
            f"The exact gradient for unit {unit!r} takes at most {MOST_GATES_OF[unit]} "
            f"gates, got {problem.n_gates}; `GateProblem.restrict` holds the others."
        )
    if unit in RULES:
        return integrate(problem, RULES[unit], **parameters)
    if parameters:
        raise ValueError(f"unit {unit!r} has no parameters, got {sorted(parameters)}.")
    return _enumerate(problem, unit)


def _enumerate(problem, unit):
    p = expit(problem.a)
    if unit == "bernoulli":
        fires, value = p, np.ones_like(p)
    else:
        fires = value = np.sqrt(p)
    loss, by_probability, by_value = enumerate_gates(
        problem.base, problem.contribution, fires, value, problem.target
    )
    if unit == "bernoulli":
        return loss, by_probability * p * (1 - p)
    return loss, (by_probability + by_value) * value * (1 - p) / 2
