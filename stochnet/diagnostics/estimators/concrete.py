"""The concrete distribution, or Gumbel-sigmoid, for two classes."""

from scipy.special import expit, logit


def concrete(problem, z, generator, *, temperature=0.5, hard=False):
    """The loss's derivative through sigm((a + logit z) / temperature).

    Maddison, Mnih & Teh (2017); Jang, Gu & Poole (2017), who use the binary gate in
    place of the relaxed one in the loss, straight through, with `hard`.

    Parameters
    ----------
    problem : GateProblem
    z : ndarray of shape (n_draws, n_rows, n_gates)
        Uniform numbers.
    generator : numpy.random.Generator
        Not used.
    temperature : float
    hard : bool

    Returns
    -------
    ndarray, shaped like z
        Unbiased for the expected loss of relaxed gates, unless `hard`.
    """
    soft = expit((problem.a + logit(z)) / temperature)
    h = (soft > 0.5).astype(float) if hard else soft
    return problem.slope(h) * soft * (1 - soft) / temperature
