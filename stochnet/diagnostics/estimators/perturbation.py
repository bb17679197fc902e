"""Estimators that move pre-activations and look at the loss alone (Sec. 1.2).

Losses before and after a move share their draws z, which keeps the difference small.
All are biased for moves of finite size: their mean is a difference quotient of the
expected loss, averaged over the moves.
"""

import numpy as np

from stochnet.diagnostics.estimators._gates import fire


def _loss_at(problem, a, z):
    return problem.loss(fire("bernoulli", a, z))


def spsa(problem, z, generator, *, size=1.0):
    """Simultaneous perturbation (Spall 1992): two losses for all gates together.

    Every pre-activation moves by +-size at once, independent fair signs; the change of
    the loss is divided by each gate's own move.

    Parameters
    ----------
    size : float
        1 for perturbations of +-1. The bias is of order size^2, the variance of order
        1/size.
    """
    sign = generator.integers(0, 2, z.shape) * 2.0 - 1.0
    above = _loss_at(problem, problem.a + size * sign, z)
    below = _loss_at(problem, problem.a - size * sign, z)
    return ((above - below) / (2 * size))[..., None] / sign


def node_perturbation(problem, z, generator, *, size=0.5):
    """Node perturbation (Fiete & Seung 2006): the change of the loss times each move.

    Parameters
    ----------
    size : float
        Standard deviation of the moves, which are Gaussian.
    """
    move = generator.standard_normal(z.shape)
    moved = _loss_at(problem, problem.a + size * move, z)
    change = moved - _loss_at(problem, problem.a, z)
    return (change / size)[..., None] * move


def finite_differences(problem, z, generator, *, size=0.5):
    """Central differences, one gate after the other.

    With N gates this takes 2 N losses, each with N gates: O(N^2), where the estimators
    above take O(N).

    Parameters
    ----------
    size : float
        Of each step.
    """
    out = np.empty(z.shape)
    for k in range(z.shape[-1]):
        step = np.zeros(z.shape[-1])
        step[k] = size
        above = _loss_at(problem, problem.a + step, z)
        out[..., k] = (above - _loss_at(problem, problem.a - step, z)) / (2 * size)
    return out
