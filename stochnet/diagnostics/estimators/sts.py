"""Stochastic times smooth (Sec. 2.2)."""

from stochnet.diagnostics.estimators._gates import derivative, estimate, fire


def sts(problem, z, generator):
    """Back-propagation through b sqrt(p) for fixed b, by the engine.

    What a changes of the probability that b = 1 is missing: biased.
    """
    h = fire("sts", problem.a, z)
    slope = derivative("sts", problem.a, h)
    return estimate("pathwise", problem, h, dl_dh=problem.slope(h), dh_da=slope)
