"""How biased, noisy and slow estimators of a gradient are.

The gradient is that of each example's expected loss by the pre-activations of the last
layer's gates, with the layers below as at prediction. Where the gates are binary or
STS, the truth is known: all configurations of up to 20 gates are enumerated.
"""

import time
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logsumexp, softmax

from stochnet._kernels import gate
from stochnet._kernels.enumeration import enumerate_gates
from stochnet._kernels.expert import forward as expert_forward
from stochnet.gaters import Noise

__all__ = [
    "ESTIMATORS",
    "GateProblem",
    "GradientEstimatorDisplay",
    "compare_estimators",
    "exact_gradient",
]

#: Draws of all gates that are held at a time.
_DRAWS_AT_A_TIME = 256


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
    """

    a: np.ndarray
    base: np.ndarray
    contribution: np.ndarray
    target: np.ndarray

    @classmethod
    def from_network(cls, network, X, y):
        """The last layer of a network, on the rows of a batch.

        Parameters
        ----------
        network : stochnet.network.Network
        X : array-like of shape (n_rows, n_inputs)
        y : array-like of shape (n_rows,)
            Class indices.
        """
        X = np.ascontiguousarray(X, dtype=np.float32)
        last, x = network.layers[-1], X
        below = zip(*network.gates(X), strict=True)
        for layer, chunks in zip(network.layers[:-1], below, strict=False):
            h = np.concatenate(chunks).T
            H = expert_forward(x, layer.expert.values, layer.expert.bias_values, h)
            h = np.repeat(h, layer.experts_per_gate, axis=0)
            x = np.where(h != 0, h * H, 0).T
        everywhere = np.ones((last.n_gates, len(X)))
        H = expert_forward(x, last.expert.values, last.expert.bias_values, everywhere)
        V = network.readout.values.astype(float)
        parts = H.T[:, :, None] * V  # (rows, experts, classes)
        shape = (len(X), last.n_gates, last.experts_per_gate, V.shape[1])
        noise = last.gater.noise
        mean = noise.mean  # the scores contain it
        return cls(
            a=network.scores(len(network.layers) - 1, X).T.astype(float) - mean,
            base=np.tile(network.readout_bias.values[0].astype(float), (len(X), 1)),
            contribution=parts.reshape(shape).sum(axis=2),
            target=np.asarray(y, dtype=np.int64),
        )

    def logits(self, h):
        """Logits for gates h, (..., n_rows, n_gates)."""
        return self.base + np.einsum("...bk,bkc->...bc", h, self.contribution)

    def loss(self, h):
        """Cross-entropy of each example, (..., n_rows)."""
        return self._loss_of(self.logits(h))

    def _loss_of(self, logits):
        chosen = logits[..., np.arange(len(self.target)), self.target]
        return logsumexp(logits, axis=-1) - chosen

    def slope(self, h):
        """Derivatives of each example's loss by its gates, shaped like h."""
        delta = softmax(self.logits(h), axis=-1)
        delta[..., np.arange(len(self.target)), self.target] -= 1
        return np.einsum("...bc,bkc->...bk", delta, self.contribution)

    def difference(self, h):
        """Loss with each gate at 1 minus loss with it at 0, the others as in h."""
        others = self.logits(h)[..., None, :] - h[..., None] * self.contribution
        rows = np.arange(len(self.target))
        logits = np.stack([others, others + self.contribution])
        chosen = logits[..., rows, :, self.target]  # the rows' axis comes first
        loss = np.moveaxis(logsumexp(logits, axis=-1), -2, 0) - chosen
        return np.moveaxis(loss[:, 1] - loss[:, 0], 0, -2)


def exact_gradient(problem, unit="bernoulli"):
    """Expected loss of each example and its gradient, by enumeration.

    Parameters
    ----------
    problem : GateProblem
        With at most 20 gates.
    unit : {"bernoulli", "sts"}

    Returns
    -------
    loss : ndarray of shape (n_rows,)
    gradient : ndarray of shape (n_rows, n_gates)

    Raises
    ------
    ValueError
        For another unit, or too many gates.
    """
    p = expit(problem.a)
    if unit == "bernoulli":
        fires, value = p, np.ones_like(p)
    elif unit == "sts":
        fires = value = np.sqrt(p)
    else:
        raise ValueError(f"unit must be 'bernoulli' or 'sts', got {unit!r}.")
    loss, by_probability, by_value = enumerate_gates(
        problem.base, problem.contribution, fires, value, problem.target
    )
    if unit == "bernoulli":
        return loss, by_probability * p * (1 - p)
    return loss, (by_probability + by_value) * value * (1 - p) / 2


# ---- Estimators: (problem, uniforms (n, rows, gates), generator) -> like uniforms ----


def _fire(unit, a, z):
    """Gates that the engine's unit makes of a and z."""
    shape = np.broadcast_shapes(a.shape, z.shape)
    a, z = (np.broadcast_to(v, shape).ravel() for v in (a, z))
    return gate.unit_forward(unit, Noise(), a, z).astype(float).reshape(shape)


def _engine(name, problem, h, **known):
    """The engine's estimate, of each example's own loss."""
    a = np.broadcast_to(problem.a, h.shape)
    zero = np.zeros(h.size)
    arrays = {
        key: np.broadcast_to(value, h.shape).ravel() for key, value in known.items()
    }
    options = {"dl_dh": zero, "loss": zero, **arrays}
    flag = options.pop("sigmoid_derivative", False)
    out = gate.estimator_gradient(
        name, a.ravel(), h.ravel(), sigmoid_derivative=bool(np.any(flag)), **options
    )
    return out.astype(float).reshape(h.shape)


def _straight_through(problem, z, generator, *, active=False, derivative=False):
    h = _fire("bernoulli", problem.a, z)
    slope = problem.slope(h)
    if active:
        slope = slope * h
    return _engine(
        "straight_through", problem, h, dl_dh=slope, sigmoid_derivative=derivative
    )


def _sts(problem, z, generator):
    h = _fire("sts", problem.a, z)
    a = np.broadcast_to(problem.a, h.shape)
    dh = gate.unit_derivative("sts", Noise(), a.ravel(), h.ravel())
    return _engine(
        "pathwise", problem, h, dl_dh=problem.slope(h), dh_da=dh.reshape(h.shape)
    )


def _baseline(problem, kind, generator, n_draws=256):
    """Eq. 10's quotient for each gate, from draws of its own."""
    if kind is None:
        return np.zeros(problem.a.shape[1])
    z = generator.random((n_draws, *problem.a.shape))
    h = _fire("bernoulli", problem.a, z)
    loss = problem.loss(h)[..., None]
    weight = (h - expit(problem.a)) ** 2 if kind == "unit" else np.ones_like(h)
    return (weight * loss).sum(axis=(0, 1)) / weight.sum(axis=(0, 1))


def _reinforce(problem, z, generator, *, kind=None):
    h = _fire("bernoulli", problem.a, z)
    baseline = _baseline(problem, kind, generator)
    centred = problem.loss(h)[..., None] - baseline
    # the engine divides by the rows of its mini-batch, which here are all elements
    return _engine("reinforce", problem, h, loss=centred) * h.size


def _local_expectation(problem, z, generator):
    h = _fire("bernoulli", problem.a, z)
    return _engine("local_expectation", problem, h, dl_dh=problem.difference(h))


def _loss_at(problem, a, z):
    return problem.loss(_fire("bernoulli", a, z))


def _spsa(problem, z, generator, *, size=0.5):
    """Spall (1992): all pre-activations moved by +-size at once, same draws."""
    sign = generator.integers(0, 2, z.shape) * 2.0 - 1.0
    above = _loss_at(problem, problem.a + size * sign, z)
    below = _loss_at(problem, problem.a - size * sign, z)
    return ((above - below) / (2 * size))[..., None] * sign


def _node_perturbation(problem, z, generator, *, size=0.5):
    """Fiete & Seung (2006): Gaussian moves, correlated with what they change."""
    move = generator.standard_normal(z.shape)
    change = _loss_at(problem, problem.a + size * move, z) - _loss_at(
        problem, problem.a, z
    )
    return (change / size)[..., None] * move


def _finite_differences(problem, z, generator, *, size=0.5):
    """Central differences, gate by gate, same draws: 2 K losses of K gates each."""
    out = np.empty(z.shape)
    for k in range(z.shape[-1]):
        move = np.zeros(z.shape[-1])
        move[k] = size
        above = _loss_at(problem, problem.a + move, z)
        out[..., k] = (above - _loss_at(problem, problem.a - move, z)) / (2 * size)
    return out


def _disarm(problem, z, generator):
    """DisARM (Dong, Mnih & Tucker 2020), U2G of Yin et al. (2020): antithetic pair."""
    h = _fire("bernoulli", problem.a, z)
    other = _fire("bernoulli", problem.a, 1 - z)
    change = (problem.loss(h) - problem.loss(other))[..., None] / 2
    return change * (h - other) * expit(np.abs(problem.a))


def _reinmax(problem, z, generator):
    """ReinMax (Liu et al. 2023) for two classes: Heun's rule in place of Euler's."""
    h, p = _fire("bernoulli", problem.a, z), expit(problem.a)
    middle = (h + p) / 2
    return problem.slope(h) * (2 * middle * (1 - middle) - p * (1 - p) / 2)


def _concrete(problem, z, generator, *, temperature=0.5, hard=False):
    """Gumbel-sigmoid (Maddison, Mnih & Teh 2017; Jang, Gu & Poole 2017).

    With `hard` the loss is that of the binary gate, straight through.
    """
    soft = expit((problem.a + np.log(z) - np.log1p(-z)) / temperature)
    h = (soft > 0.5).astype(float) if hard else soft
    return problem.slope(h) * soft * (1 - soft) / temperature


def _with(function, **options):
    def estimate(problem, z, generator):
        return function(problem, z, generator, **options)

    return estimate


#: Name -> (unit whose expected loss it is about, function).
ESTIMATORS = {
    "st": ("bernoulli", _straight_through),
    "st_active": ("bernoulli", _with(_straight_through, active=True)),
    "st_derivative": ("bernoulli", _with(_straight_through, derivative=True)),
    "reinmax": ("bernoulli", _reinmax),
    "concrete": ("bernoulli", _concrete),
    "concrete_st": ("bernoulli", _with(_concrete, hard=True)),
    "reinforce": ("bernoulli", _reinforce),
    "reinforce_mean": ("bernoulli", _with(_reinforce, kind="mean")),
    "reinforce_unit": ("bernoulli", _with(_reinforce, kind="unit")),
    "disarm": ("bernoulli", _disarm),
    "local_expectation": ("bernoulli", _local_expectation),
    "spsa": ("bernoulli", _spsa),
    "node_perturbation": ("bernoulli", _node_perturbation),
    "finite_differences": ("bernoulli", _finite_differences),
    "sts": ("sts", _sts),
}


def compare_estimators(problem, estimators=None, n_draws=2000, random_state=0):
    """Bias, variance, direction and cost of estimators beside the exact gradient.

    Parameters
    ----------
    problem : GateProblem
        With at most 20 gates.
    estimators : iterable of str, default=all of `ESTIMATORS`
    n_draws : int, default=2000
        Independent estimates, at least 2.
    random_state : int

    Returns
    -------
    dict of str to dict with
        mean : ndarray of shape (n_rows, n_gates);
        bias : ndarray, mean minus the exact gradient;
        standard_error : ndarray, of the mean and so of the bias;
        variance : float, summed over gates, mean over examples;
        squared_bias : float, likewise, less what the standard error explains, at
            least 0;
        cosine : float, of mean and exact gradient, over all elements;
        seconds : float, for one estimate of all examples;
        variance_seconds : float, variance times seconds: what an average of as many
            estimates as fit in a second has left.

    Raises
    ------
    ValueError
        For an unknown name, fewer than 2 draws or too many gates.
    """
    names = list(ESTIMATORS if estimators is None else estimators)
    unknown = [name for name in names if name not in ESTIMATORS]
    if unknown:
        valid = ", ".join(map(repr, ESTIMATORS))
        raise ValueError(f"Unknown estimators {unknown}; valid: {valid}.")
    if n_draws < 2:
        raise ValueError(f"n_draws must be at least 2, got {n_draws}.")
    exact = {
        unit: exact_gradient(problem, unit)[1]
        for unit in {ESTIMATORS[name][0] for name in names}
    }
    return {
        name: _measure(
            problem, ESTIMATORS[name][1], exact[ESTIMATORS[name][0]], n_draws, seed
        )
        for name, seed in zip(
            names, np.random.SeedSequence(random_state).spawn(len(names)), strict=True
        )
    }


def _measure(problem, estimate, exact, n_draws, seed):
    generator = np.random.default_rng(seed)
    samples, seconds = [], 0.0
    for first in range(0, n_draws, _DRAWS_AT_A_TIME):
        n = min(_DRAWS_AT_A_TIME, n_draws - first)
        z = generator.random((n, *problem.a.shape))
        start = time.perf_counter()
        samples.append(estimate(problem, z, generator))
        seconds += time.perf_counter() - start
    samples = np.concatenate(samples)
    mean, spread = samples.mean(axis=0), samples.var(axis=0, ddof=1)
    bias, noise = mean - exact, spread / n_draws
    variance = float(spread.sum(axis=1).mean())
    norms = np.linalg.norm(mean) * np.linalg.norm(exact)
    return {
        "mean": mean,
        "bias": bias,
        "standard_error": np.sqrt(noise),
        "variance": variance,
        "squared_bias": max(0.0, float((bias**2 - noise).sum(axis=1).mean())),
        "cosine": float((mean * exact).sum() / norms) if norms > 0 else 0.0,
        "seconds": seconds / n_draws,
        "variance_seconds": variance * seconds / n_draws,
    }


class GradientEstimatorDisplay:
    """Bias against variance of gradient estimators.

    Parameters
    ----------
    results : dict
        Of `compare_estimators`.

    Attributes
    ----------
    figure_, ax_ : matplotlib objects
        After `plot`.
    """

    def __init__(self, results):
        self.results = results

    @classmethod
    def from_estimator(
        cls, estimator, X, y, *, estimators=None, n_draws=2000, random_state=0, ax=None
    ):
        """Compare on the last layer of a fitted `GatedMLPClassifier`, and plot.

        Parameters
        ----------
        estimator : GatedMLPClassifier
            Fitted, with at most 20 gates in its last layer.
        X, y : array-like
            Rows and labels.
        estimators, n_draws, random_state
            As in `compare_estimators`.
        ax : matplotlib axes, optional

        Returns
        -------
        GradientEstimatorDisplay
        """
        codes = np.searchsorted(estimator.classes_, y)
        problem = GateProblem.from_network(estimator._ready(), X, codes)
        results = compare_estimators(problem, estimators, n_draws, random_state)
        return cls(results).plot(ax=ax)

    def plot(self, ax=None):
        """Draw one point for each estimator, on logarithmic axes."""
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise ImportError(
                "GradientEstimatorDisplay.plot requires matplotlib."
            ) from error
        if ax is None:
            _, ax = plt.subplots()
        for name, result in self.results.items():
            point = (result["variance"], max(result["squared_bias"], 1e-12))
            ax.plot(*point, "o")
            ax.annotate(name, point, fontsize="small")
        ax.set(xscale="log", yscale="log", xlabel="variance", ylabel="squared bias")
        self.ax_, self.figure_ = ax, ax.figure
        return self
