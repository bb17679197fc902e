"""Straight-through (Sec. 4): the loss's derivative by the gate, as it is."""

from stochnet.diagnostics.estimators._gates import estimate, fire


def straight_through(problem, z, generator, *, active=False, sigmoid_derivative=False):
    """Eq. 13, by the engine.

    Parameters
    ----------
    active : bool
        Only gates that fired learn.
    sigmoid_derivative : bool
        Times p (1 - p), the variant of Sec. 4.
    """
    h = fire("bernoulli", problem.a, z)
    slope = problem.slope(h)
    return estimate(
        "straight_through",
        problem,
        h,
        dl_dh=slope * h if active else slope,
        sigmoid_derivative=sigmoid_derivative,
    )
