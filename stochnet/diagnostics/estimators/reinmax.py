"""ReinMax (Liu et al. 2023) for two classes."""

from stochnet.diagnostics.estimators._gates import estimate, fire


def reinmax(problem, z, generator):
    """Straight-through by Heun's rule in place of Euler's: exact to second order.

    Twice the sigmoid's derivative at (h + p) / 2, less half of that at p.
    """
    h = fire("bernoulli", problem.a, z)
    return estimate("reinmax", problem, h, dl_dh=problem.slope(h))
