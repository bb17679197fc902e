"""The concrete distribution, or Gumbel-sigmoid, for two classes."""

from scipy.special import expit, logit

from stochnet.diagnostics.estimators._gates import estimate, fire


def concrete(problem, z, generator, *, temperature=0.5):
    """The loss's derivative through sigm((a + logit z) / temperature).

    Maddison, Mnih & Teh (2017); Jang, Gu & Poole (2017). Unbiased for the expected loss
    of relaxed gates.

    Parameters
    ----------
    temperature : float
    """
    h = expit((problem.a + logit(z)) / temperature)
    return problem.slope(h) * h * (1 - h) / temperature


def concrete_st(problem, z, generator, *, temperature=0.5):
    """The same straight through: the loss has the binary gate (Jang, Gu & Poole 2017).

    Its option is that of `concrete`.
    """
    h = fire("bernoulli", problem.a, z)
    slope = problem.slope(h)
    return estimate(
        "concrete_st", problem, h, dl_dh=slope, z=z, temperature=temperature
    )
