"""Estimators: how the loss reaches a; and the baseline of REINFORCE."""

import numpy as np

from oracle.arguments import CREDIT_CHOICE, require
from oracle.units import sigmoid_slope


def probe_weights(gate, probe, gater):
    """Weight of each gate's gradient with credit "probe"; its mean over probes is 1.

    Parameters
    ----------
    gate : GateOutput
    probe : ndarray of shape (K, B)
    gater : Gater

    Returns
    -------
    ndarray of shape (K, B)
    """
    probed = (probe < gater.probe_rate) / gater.probe_rate
    return np.where(gate.active, 1.0, probed)


def estimate_da(layer, dh, row_loss, baseline, gater):
    """Gradient estimate of the mean loss with respect to a (without penalty).

    - pathwise: dh dh/da;
    - straight-through (Eq. 13): dh, or dh p (1 - p) with p = sigm(a);
    - ReinMax (Liu et al. 2023): dh (2 q (1 - q) - p (1 - p) / 2), q = (h + p) / 2;
    - straight-through Gumbel-sigmoid (Jang et al. 2017): dh ds/da, s the concrete
      sample; all three with credit "active" only where the gate fired, 0 elsewhere;
    - local expectation: dh p (1 - p), where dh is L(h = 1) - L(h = 0);
    - these with credit "probe" as with "all", dh times `probe_weights`;
    - REINFORCE (Theorem 1, Corollary 1): (h - p) (L_b - baseline_k) / B, where
      L_b is the cross-entropy of the row alone, and 1 / B is there because the
      criterion is the mean over rows.

    Parameters
    ----------
    layer : LayerResult
    dh : ndarray of shape (K, B)
        Gradient with respect to the gates' outputs (unused by REINFORCE), with the
        weights of probes.
    row_loss : ndarray of shape (B,)
    baseline : ndarray of shape (K,) or None
    gater : Gater

    Returns
    -------
    ndarray of shape (K, B)
    """
    gate = layer.gate
    if gater.estimator == "pathwise":
        return dh * gate.derivative
    if gater.estimator in CREDIT_CHOICE:
        da = dh * through_the_gate(layer, gater)
        return np.where(gate.active, da, 0.0) if gater.credit == "active" else da
    if gater.estimator == "local_expectation":
        return dh * sigmoid_slope(layer.a)
    if baseline is None:
        baseline = np.zeros(len(gate.h))
    centred_loss = row_loss[None, :] - baseline[:, None]
    return (gate.h - gate.probability) * centred_loss / len(row_loss)


def through_the_gate(layer, gater):
    """What an estimator of `CREDIT_CHOICE` multiplies dh with, (K, B) or a number."""
    if gater.estimator == "concrete_st":
        return layer.gate.relaxed_derivative
    if gater.estimator == "reinmax":
        p = layer.gate.probability
        middle = (layer.gate.h + p) / 2
        return 2 * middle * (1 - middle) - p * (1 - p) / 2
    return sigmoid_slope(layer.a) if gater.sigmoid_derivative else 1.0


def reinforce_averages(h, p, row_loss, numerator, denominator, decay, kind):
    """Moving averages of Eq. 10's numerator and denominator after a mini-batch.

    numerator <- decay numerator + (1 - decay) mean_b w_kb L_b,
    denominator <- decay denominator + (1 - decay) mean_b w_kb,

    with w = (h - p)^2 for kind "unit" (Eq. 10) and w = 1 for kind "mean". The
    result is for the next mini-batch: an average that contains the loss that it
    centres makes the estimator biased.

    Parameters
    ----------
    h, p : ndarray of shape (K, B)
    row_loss : ndarray of shape (B,)
    numerator, denominator : ndarray of shape (K,)
        Zeros at the start of training.
    decay : float
    kind : {"unit", "mean"}

    Returns
    -------
    numerator, denominator : ndarray of shape (K,)
    """
    require("kind", kind, ("unit", "mean"))
    weight = (h - p) ** 2 if kind == "unit" else np.ones_like(h)
    batch_numerator = (weight * row_loss[None, :]).mean(axis=1)
    batch_denominator = weight.mean(axis=1)
    return (
        decay * numerator + (1.0 - decay) * batch_numerator,
        decay * denominator + (1.0 - decay) * batch_denominator,
    )


def reinforce_baseline(numerator, denominator):
    """Baseline of Corollary 1: numerator / denominator, 0 where that is 0 / 0.

    Both averages start at 0, so their common bias cancels in the quotient.

    Parameters
    ----------
    numerator, denominator : ndarray of shape (K,)

    Returns
    -------
    ndarray of shape (K,)
    """
    baseline = np.zeros_like(numerator)
    np.divide(numerator, denominator, out=baseline, where=denominator != 0)
    return baseline
