"""Penalties on the density, and what else holds it."""

import numpy as np

# Eq. 14 has the logarithms of q and of 1 - q: q is kept this far from 0 and 1.
PROBABILITY_CLIP = 1e-6


def penalty(gate, gater):
    """Penalty of one layer on its density.

    KL (Eq. 14, whose "log 1 - p" is log(1 - p)), with q_k the mean over rows of
    the firing probability, clipped to [1e-6, 1 - 1e-6]:

        lambda sum_k -(s log q_k + (1 - s) log(1 - q_k)).

    L1 (Eq. 15): lambda sum_k mean_b |h_kb|. The Bernoulli unit has no derivative
    of h, so |h| is replaced by its expectation, the firing probability.

    Parameters
    ----------
    gate : GateOutput
    gater : Gater

    Returns
    -------
    float
    """
    if gater.penalty is None:
        return 0.0
    if gater.penalty == "l1":
        magnitude = gate.probability if gate.derivative is None else np.abs(gate.h)
        return float(gater.penalty_weight * magnitude.mean(axis=1).sum())
    s = gater.density
    q = gate.probability.mean(axis=1)
    q = np.clip(q, PROBABILITY_CLIP, 1.0 - PROBABILITY_CLIP)
    cross_entropies = -(s * np.log(q) + (1.0 - s) * np.log(1.0 - q))
    return float(gater.penalty_weight * cross_entropies.sum())


def penalty_gradient(gate, gater):
    """Gradient of `penalty` with respect to a.

    KL: lambda / B ((1 - s) / (1 - q_k) - s / q_k) dprobability/da, at the clipped
    q_k. Where q_k is clipped, `penalty` is constant but this is not zero: a unit
    that has nearly died must still be pulled back.
    L1: lambda / B dh/da (h is never negative, so |h| is h), or, for the
    Bernoulli unit, lambda / B dprobability/da.

    Parameters
    ----------
    gate : GateOutput
    gater : Gater

    Returns
    -------
    ndarray of shape (K, B)
    """
    n_rows = gate.h.shape[1]
    if gater.penalty is None:
        return np.zeros_like(gate.h)
    if gater.penalty == "l1":
        has_path = gate.derivative is not None
        slope = gate.derivative if has_path else gate.probability_derivative
        return gater.penalty_weight * slope / n_rows
    s = gater.density
    q = gate.probability.mean(axis=1)
    q = np.clip(q, PROBABILITY_CLIP, 1.0 - PROBABILITY_CLIP)
    slope = (1.0 - s) / (1.0 - q) - s / q
    return gater.penalty_weight * slope[:, None] * gate.probability_derivative / n_rows


def firing_rate_control(gate_bias, rate, fired_share, s, step, decay=0.9):
    """Move each gate's bias against the deviation of its firing rate from s.

    rate <- decay rate + (1 - decay) fired_share, then, with the new rate,
    bias <- bias + step (s - rate).

    Parameters
    ----------
    gate_bias, rate : ndarray of shape (K,)
    fired_share : ndarray of shape (K,)
        Share of the mini-batch's rows for which the gate fired.
    s : float
        Target density.
    step, decay : float

    Returns
    -------
    gate_bias, rate : ndarray of shape (K,)
    """
    rate = decay * rate + (1.0 - decay) * fired_share
    return gate_bias + step * (s - rate), rate


def adaptive_weight(weight, density, s, factor, low, high, tolerance=0.01):
    """Adapt a penalty's weight to the measured density (Appendix A.1).

    weight (1 + factor) if density > s + tolerance, weight / (1 + factor) if
    density < s - tolerance, unchanged between; then clipped to [low, high].

    Parameters
    ----------
    weight : float
    density : float
        Share of non-zero gates in the mini-batch.
    s : float
        Target density.
    factor, low, high, tolerance : float

    Returns
    -------
    float
    """
    if density > s + tolerance:
        weight = weight * (1.0 + factor)
    elif density < s - tolerance:
        weight = weight / (1.0 + factor)
    return float(np.clip(weight, low, high))
