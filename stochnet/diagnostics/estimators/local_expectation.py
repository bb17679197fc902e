"""Local expectation (Titsias & Lázaro-Gredilla 2015): each gate is averaged out."""

import numpy as np

from stochnet.diagnostics.estimators._gates import estimate, fire


def local_expectation(problem, z, generator):
    """The gate's own expectation, p (1 - p) (L(1) - L(0)), the others as drawn."""
    h = fire("bernoulli", problem.a, z)
    return estimate("local_expectation", problem, h, dl_dh=problem.difference(h))


def local_expectation_probe(problem, z, generator, *, probability=0.1):
    """The same for active gates and a random sample of inactive ones.

    An inactive gate is looked at with `probability`, and then weighted by its inverse.
    L(1) - L(0) does not depend on the gate's own draw, so that the weight's mean is 1
    whatever the others do: unbiased, and zero for most inactive gates.

    Parameters
    ----------
    probability : float in (0, 1]

    Raises
    ------
    ValueError
        If `probability` is not in (0, 1].
    """
    if not 0 < probability <= 1:
        raise ValueError(f"probability must be in (0, 1], got {probability}.")
    h = fire("bernoulli", problem.a, z)
    probed = generator.random(h.shape) < probability
    weight = np.where(h == 1, 1.0, 1 / probability)
    difference = weight * problem.difference(h, where=(h == 1) | probed)
    return estimate("local_expectation", problem, h, dl_dh=difference)
