"""Hard concrete gates (Louizos, Welling & Kingma 2018)."""

import numpy as np
from scipy.special import expit, logit


def hard_concrete(problem, z, generator, *, temperature=2 / 3, limits=(-0.1, 1.1)):
    """The loss's derivative through a concrete gate that is stretched and clipped.

    Unbiased for the expected loss of such gates.

    Parameters
    ----------
    temperature : float
    limits : pair of float
        What the gate is stretched to, before it is clipped to [0, 1].
    """
    soft = expit((problem.a + logit(z)) / temperature)
    width = limits[1] - limits[0]
    stretched = limits[0] + width * soft
    inside = (stretched > 0) & (stretched < 1)
    slope = problem.slope(np.clip(stretched, 0, 1))
    return slope * inside * width * soft * (1 - soft) / temperature
