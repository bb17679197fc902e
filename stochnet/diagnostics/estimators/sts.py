"""Stochastic times smooth (Sec. 2.2)."""

from stochnet.diagnostics.estimators._gates import derivative, estimate, fire


def sts(problem, z, generator):
    """Back-propagation through b sqrt(p) for fixed b, by the engine.

    What a changes of the probability that b = 1 is missing: biased.

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
    h = fire("sts", problem.a, z)
    slope = derivative("sts", problem.a, h)
    return estimate("pathwise", problem, h, dl_dh=problem.slope(h), dh_da=slope)
