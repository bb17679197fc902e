"""REINFORCE for stochastic binary neurons (Sec. 3), with the paper's baselines."""

import numpy as np
from scipy.special import expit

from stochnet.diagnostics.estimators._gates import estimate, fire


def reinforce(problem, z, generator, *, baseline=0.0):
    """(h - sigm(a)) (L - baseline), Theorem 1 and Corollary 1, by the engine.

    Parameters
    ----------
    baseline : float or array-like of shape (n_gates,)
        Any constant leaves it unbiased.
    """
    h = fire("bernoulli", problem.a, z)
    centred = problem.loss(h)[..., None] - baseline
    # the engine divides by the rows of its mini-batch, which here are all elements
    return estimate("reinforce", problem, h, loss=centred) * h.size


def mean_baseline(problem, generator, n_draws=4096):
    """The mean loss over the batch, from draws of its own.

    In training a moving average over earlier mini-batches takes its place: neither
    costs an estimate anything.

    Parameters
    ----------
    problem : GateProblem
    generator : numpy.random.Generator
    n_draws : int

    Returns
    -------
    dict with baseline : ndarray of shape (n_gates,)
    """
    return _baseline(problem, generator, n_draws, np.ones_like)


def unit_baseline(problem, generator, n_draws=4096):
    """Eq. 10: each unit's mean of losses with weights (h - sigm(a))^2.

    Parameters and result are those of `mean_baseline`.
    """
    p = expit(problem.a)
    return _baseline(problem, generator, n_draws, lambda h: (h - p) ** 2)


def _baseline(problem, generator, n_draws, weigh):
    """Weighted mean loss for each gate, over draws and examples."""
    total = np.zeros((2, problem.n_gates))
    for first in range(0, n_draws, 256):
        n = min(256, n_draws - first)
        h = fire("bernoulli", problem.a, generator.random((n, *problem.a.shape)))
        weight, loss = weigh(h), problem.loss(h)[..., None]
        total += (weight * loss).sum(axis=(0, 1)), weight.sum(axis=(0, 1))
    return {"baseline": total[0] / total[1]}
