"""Noisy rectifiers (Sec. 2.1)."""

from scipy.special import ndtri

from stochnet.diagnostics.estimators._gates import derivative, estimate, fire
from stochnet.gaters import Noise


def noisy_rectifier(problem, z, generator):
    """Back-propagation through max(0, a + noise), by the engine.

    The noise is Gaussian with deviation `problem.noise_scale`. Unbiased for the
    expected loss of such gates: the rectifier is continuous.
    """
    noise = Noise("gaussian", problem.noise_scale)
    h = fire("noisy_rectifier", problem.a, problem.noise_scale * ndtri(z), noise)
    slope = derivative("noisy_rectifier", problem.a, h, noise)
    return estimate("pathwise", problem, h, dl_dh=problem.slope(h), dh_da=slope)
