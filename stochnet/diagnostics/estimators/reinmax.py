"""ReinMax (Liu et al. 2023) for two classes."""

from scipy.special import expit

from stochnet.diagnostics.estimators._gates import fire


def reinmax(problem, z, generator):
    """Straight-through by Heun's rule in place of Euler's: exact to second order.

    Twice the sigmoid's derivative at (h + p) / 2, less half of that at p.

    Parameters
    ----------
    problem : GateProblem
    z : ndarray of shape (n_draws, n_rows, n_gates)
        Uniform numbers.
    generator : numpy.random.Generator
        Not used.

    Returns
    -------
    ndarray, shaped like z
    """
    h, p = fire("bernoulli", problem.a, z), expit(problem.a)
    middle = (h + p) / 2
    return problem.slope(h) * (2 * middle * (1 - middle) - p * (1 - p) / 2)
