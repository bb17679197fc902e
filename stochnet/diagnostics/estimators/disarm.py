"""DisARM (Dong, Mnih & Tucker 2020), which is U2G (Yin et al. 2020)."""

import numpy as np
from scipy.special import expit

from stochnet.diagnostics.estimators._gates import fire


def disarm(problem, z, generator):
    """The loss's change within an antithetic pair of draws, for gates that differ.

    Half of it, times sigm(|a|), with the sign of the gate's own change. The other half
    of the pair uses 1 - z.
    """
    h = fire("bernoulli", problem.a, z)
    other = fire("bernoulli", problem.a, 1 - z)
    change = (problem.loss(h) - problem.loss(other))[..., None] / 2
    return change * (h - other) * expit(np.abs(problem.a))
