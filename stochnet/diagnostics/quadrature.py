"""Expected loss of gates that have a density, by products of quadrature rules.

A rule turns a gate's pre-activation into nodes: values of the gate, their weights,
which sum to 1, and the weights' derivatives. Values do not move with the
pre-activation, so that the gradient of the expected loss needs losses alone: it has
nothing in common with estimators that go through the loss's own derivative.

The error of 64 nodes is below 1e-9 of the gradient, for concrete gates below 1e-5, for
contributions of up to 10 or so; what is larger makes the loss bend faster.
"""

import numpy as np
from scipy.special import expit, ndtr

#: Beyond that, the products of the rules take too long.
MOST_QUADRATURE_GATES = 3


def cross_entropy(logits, target):
    """Cross-entropy, (...), of logits (..., n_classes) and class indices that fit."""
    largest = logits.max(axis=-1)
    total = np.exp(logits - largest[..., None]).sum(axis=-1)
    target = np.broadcast_to(target, largest.shape)[..., None]
    chosen = np.take_along_axis(logits, target, axis=-1)[..., 0]
    return np.log(total) + largest - chosen


def _legendre(lower, upper, n_nodes):
    """Gauss-Legendre nodes and weights on [lower, upper], on a new last axis."""
    x, weight = np.polynomial.legendre.leggauss(n_nodes)
    half = (upper - lower)[..., None] / 2
    return lower[..., None] + half * (1 + x), half * weight


def _with_atoms(atoms, nodes):
    """One rule from atoms and nodes, each with (value, weight, derivative)."""
    parts = []
    for value, weight, derivative in atoms:
        weight = np.asarray(weight)[..., None]
        value = np.full(weight.shape, float(value))
        parts.append((value, weight, np.asarray(derivative)[..., None]))
    return tuple(
        np.concatenate(arrays, axis=-1) for arrays in zip(*parts, nodes, strict=True)
    )


def noisy_rectifier_rule(a, noise_scale, n_nodes=64):
    """max(0, a + z), z Gaussian: an atom at 0, a density above (Sec. 2.1).

    Parameters
    ----------
    a : ndarray
    noise_scale : float
    n_nodes : int

    Returns
    -------
    value, weight, derivative : ndarray of shape (*a.shape, n_nodes + 1)
    """
    t = a / noise_scale
    lower, upper = np.maximum(t - 9, 0), np.maximum(t + 9, 1)
    h, weight = _legendre(lower, upper, n_nodes)
    distance = h - t[..., None]
    weight = weight * _normal_density(distance)
    nodes = h * noise_scale, weight, weight * distance / noise_scale
    return _with_atoms([(0, ndtr(-t), -_normal_density(t) / noise_scale)], nodes)


def _normal_density(x):
    return np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)


def concrete_rule(a, noise_scale=None, temperature=0.5, n_nodes=64):
    """sigm((a + logistic noise) / temperature) (Maddison, Mnih & Teh 2017).

    Nodes are equal to those of a rule for the sigmoid's argument on [-16, 16]; what is
    beyond is 0 or 1 to 1e-7, and becomes an atom.

    Parameters and result are as in `noisy_rectifier_rule`, with one more atom.
    """
    end = np.full(a.shape, 16.0)
    x, weight = _legendre(-end, end, n_nodes)
    below = expit(temperature * x - a[..., None])  # distribution function
    weight = weight * temperature * below * (1 - below)
    nodes = expit(x), weight, weight * (2 * below - 1)
    return _with_atoms(_ends(-temperature * end, temperature * end, a), nodes)


def hard_concrete_rule(
    a, noise_scale=None, temperature=2 / 3, limits=(-0.1, 1.1), n_nodes=64
):
    """A concrete gate stretched to `limits` and clipped (Louizos et al. 2018).

    Atoms at 0 and 1, and between them the density of the stretched gate.

    Parameters and result are as in `noisy_rectifier_rule`, with one more atom.
    """
    width = limits[1] - limits[0]
    zero, one = (np.full(a.shape, (h - limits[0]) / width) for h in (0, 1))
    s, weight = _legendre(zero, one, n_nodes)
    below = expit(temperature * (np.log(s) - np.log1p(-s)) - a[..., None])
    weight = weight * temperature / (s * (1 - s)) * below * (1 - below)
    nodes = limits[0] + width * s, weight, weight * (2 * below - 1)
    first, last = (temperature * (np.log(s) - np.log1p(-s)) for s in (zero, one))
    return _with_atoms(_ends(first, last, a), nodes)


def _ends(first, last, a):
    """Atoms 0 and 1: a plus logistic noise below `first`, above `last`."""
    zero, one = expit(first - a), expit(a - last)
    return [(0, zero, -zero * (1 - zero)), (1, one, one * (1 - one))]


#: Unit -> its rule.
RULES = {
    "noisy_rectifier": noisy_rectifier_rule,
    "concrete": concrete_rule,
    "hard_concrete": hard_concrete_rule,
}


def integrate(problem, rule, **parameters):
    """Expected loss and gradient over the product of the gates' rules.

    Parameters
    ----------
    problem : GateProblem
    rule : callable
        One of `RULES`.
    **parameters
        Of the rule.

    Returns
    -------
    loss : ndarray of shape (n_rows,)
    gradient : ndarray of shape (n_rows, n_gates)
    """
    nodes = rule(problem.a, problem.noise_scale, **parameters)
    loss, gradient = np.empty(len(problem.a)), np.empty(problem.a.shape)
    for b, rows in enumerate(zip(*nodes, strict=True)):
        loss[b], gradient[b] = _integrate_row(
            problem.base[b], problem.contribution[b], problem.target[b], *rows
        )
    return loss, gradient


def _integrate_row(base, contribution, target, value, weight, derivative):
    """One example; value, weight, derivative are (n_gates, n)."""
    n_gates = len(value)
    loss, gradient = 0.0, np.zeros(n_gates)
    for j in range(value.shape[1]):  # node by node of the first gate, to save memory
        logits = base + value[0, j] * contribution[0]
        for k in range(1, n_gates):
            logits = logits[..., None, :] + value[k][:, None] * contribution[k]
        losses = cross_entropy(logits, target)
        given = _weigh(losses, weight[1:])
        loss += weight[0, j] * given
        gradient[0] += derivative[0, j] * given
        for k in range(1, n_gates):
            factors = weight.copy()
            factors[k] = derivative[k]
            gradient[k] += weight[0, j] * _weigh(losses, factors[1:])
    return loss, gradient


def _weigh(losses, factors):
    """Sum of losses times one factor for each axis."""
    for factor in factors[::-1]:
        losses = losses @ factor
    return losses
