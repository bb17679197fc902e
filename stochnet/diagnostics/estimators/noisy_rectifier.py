"""Noisy rectifiers (Sec. 2.1)."""

from scipy.special import ndtri

from stochnet.diagnostics.estimators._gates import derivative, estimate, fire
from stochnet.gaters import Noise


def noisy_rectifier(problem, z, generator):
    """Back-propagation through max(0, a + noise), by the engine.

    Unbiased for the expected loss of such gates: the rectifier is continuous.

    Parameters
    ----------
    problem : GateProblem
        Its `noise_scale` is the Gaussian noise's standard deviation.
    z : ndarray of shape (n_draws, n_rows, n_gates)
        Uniform numbers.
    generator : numpy.random.Generator
        Not used.

    Returns
    -------
    ndarray, shaped like z
    """
    noise = Noise("gaussian", problem.noise_scale)
    h = fire("noisy_rectifier", problem.a, problem.noise_scale * ndtri(z), noise)
    slope = derivative("noisy_rectifier", problem.a, h, noise)
    return estimate("pathwise", problem, h, dl_dh=problem.slope(h), dh_da=slope)
