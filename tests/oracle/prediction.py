"""Prediction by the deterministic network."""

import numpy as np
from scipy.special import expit, logit, ndtr, softmax

from oracle.arguments import require
from oracle.network import expert_output, gater_pre_activation, per_expert
from oracle.units import (
    HIGH,
    LOW,
    normal_density,
)

# What each unit may become at prediction (see `gate_value`).
PREDICTION_VALUES = {
    "noisy_rectifier": ("mean", "rectified"),
    "rectifier": ("rectified",),
    "sts": ("mean", "root"),
    "bernoulli": ("one",),
    "sigmoid": ("probability",),
    "concrete": ("probability",),
    "hard_concrete": ("mean", "clamped"),
}


def gate_value(a, value, gater):
    """Value of an active gate at prediction.

    - "mean": E[h | a]. Noisy rectifier with scale s: a Phi(a/s) + s phi(a/s) for
      Gaussian noise, s softplus(a/s) for logistic noise; STS: p = sigm(a); hard
      concrete: see `hard_concrete_mean`;
    - "root": sqrt(p) (STS), the value that its gate has when it fires;
    - "rectified": max(0, a) (both rectifiers);
    - "one": 1 (Bernoulli);
    - "probability": p (sigmoid, concrete);
    - "clamped": p stretched and clamped, min(1, max(0, p (zeta - gamma) + gamma))
      (hard concrete).

    Parameters
    ----------
    a : ndarray of shape (K, B)
    value : str
    gater : Gater

    Returns
    -------
    ndarray of shape (K, B)
    """
    require(f"value of {gater.unit}", value, PREDICTION_VALUES[gater.unit])
    if value == "rectified":
        return np.maximum(0.0, a)
    if value == "one":
        return np.ones_like(a)
    if value == "root":
        return np.sqrt(expit(a))
    if value == "clamped":
        return np.clip(expit(a) * (HIGH - LOW) + LOW, 0.0, 1.0)
    if value == "probability" or gater.unit == "sts":
        return expit(a)
    if gater.unit == "hard_concrete":
        return hard_concrete_mean(a, gater.temperature)
    scale = gater.noise_scale
    if gater.noise == "gaussian":
        return a * ndtr(a / scale) + scale * normal_density(a / scale)
    return scale * np.logaddexp(0.0, a / scale)


def hard_concrete_mean(a, temperature, n_points=60):
    """E[h | a] of a hard concrete gate, the integral of P(h > t) over [0, 1].

    P(h > t) = sigm(a - T logit(v)) with v = (t - gamma) / (zeta - gamma). Gauss's rule
    with 60 points is exact to 1e-12 for temperatures up to 2.

    Parameters
    ----------
    a : ndarray
    temperature : float
        T.

    Returns
    -------
    ndarray
        Shaped like a.
    """
    points, weights = np.polynomial.legendre.leggauss(n_points)
    v = ((points + 1) / 2 - LOW) / (HIGH - LOW)
    return expit(np.asarray(a)[..., None] - temperature * logit(v)) @ (weights / 2)


def predict_proba(params, X, gaters, thresholds, values, noise_means):
    """Deterministic class probabilities of a whole network (Appendix A.3).

    In every layer the noise is replaced by its mean: score = a + noise_mean. A
    gate is active where score > threshold, with the value of `gate_value`;
    inactive gates are 0. The value is that of the score too, as the noise was on
    both halves in training, except for an STS unit with noise_on="draw", whose
    smooth half never had noise and is that of a.

    Parameters
    ----------
    params : Parameters
    X : ndarray of shape (B, D)
    gaters : list of Gater
    thresholds : list of float
        One for each layer, on the pre-activation; -inf activates every gate
        (sigmoid units, which have no threshold).
    values : list of str
        One for each layer.
    noise_means : list of float
        One for each layer; 0 where there is no noise or it is centred.

    Returns
    -------
    ndarray of shape (B, C)
    """
    x = np.asarray(X, dtype=np.float64)
    for parameters, gater, threshold, value, noise_mean in zip(
        params.layers, gaters, thresholds, values, noise_means, strict=True
    ):
        _, a = gater_pre_activation(parameters, x)
        score = a + noise_mean
        smooth = a if gater.noise_on == "draw" else score
        h = np.where(score > threshold, gate_value(smooth, value, gater), 0.0)
        H = expert_output(parameters, x)
        x = (per_expert(h, len(H)) * H).T
    return softmax(x @ params.readout_weight + params.readout_bias, axis=1)
