"""Units, (a, noise) -> h, with their derivatives."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit, logit, ndtr

from oracle.arguments import check_noise

# gamma and zeta of hard concrete gates.
LOW, HIGH = -0.1, 1.1


@dataclass
class GateOutput:
    """What a unit makes of its pre-activation and its noise.

    Attributes
    ----------
    h : ndarray of shape (K, B)
        Output of the gates, never negative.
    active : bool ndarray of shape (K, B)
        The gates that fired: h != 0. A sigmoid or concrete gate always fires.
    derivative : ndarray of shape (K, B) or None
        Pathwise derivative dh/da with the noise held; None where the unit has
        none that is of use (Bernoulli).
    probability : ndarray of shape (K, B)
        Probability that the gate fires, given a.
    probability_derivative : ndarray of shape (K, B)
        Derivative of `probability` with respect to a.
    relaxed_derivative : ndarray of shape (K, B) or None
        Derivative with respect to a, with the noise held, of the concrete sample
        whose rounded value a Bernoulli gate is.
    """

    h: np.ndarray
    active: np.ndarray
    derivative: np.ndarray | None
    probability: np.ndarray
    probability_derivative: np.ndarray
    relaxed_derivative: np.ndarray | None = None


def sigmoid_slope(a):
    """Derivative of the logistic sigmoid: p (1 - p) with p = sigm(a).

    1 - p is computed as sigm(-a), which keeps its digits where p is near 1.
    """
    return expit(a) * expit(-a)


def normal_density(x):
    """Density of the standard normal: phi(x) = exp(-x^2 / 2) / sqrt(2 pi)."""
    return np.exp(-0.5 * x**2) / np.sqrt(2.0 * np.pi)


def noisy_rectifier(a, z, noise, scale):
    """Noisy rectifier (Sec. 2.1): h = max(0, a + z), dh/da = 1[h > 0].

    It fires with P(z > -a): Phi(a / scale) for Gaussian noise, sigm(a / scale)
    for logistic noise.

    Parameters
    ----------
    a, z : ndarray of shape (K, B)
    noise : {"gaussian", "logistic"}
    scale : float

    Returns
    -------
    GateOutput
    """
    h = np.maximum(0.0, a + z)
    if noise == "gaussian":
        probability = ndtr(a / scale)
        probability_derivative = normal_density(a / scale) / scale
    else:
        probability = expit(a / scale)
        probability_derivative = sigmoid_slope(a / scale) / scale
    fired = h > 0
    return GateOutput(
        h, fired, fired.astype(float), probability, probability_derivative
    )


def rectifier(a):
    """Rectifier: h = max(0, a), dh/da = 1[h > 0].

    It fires with probability 1[a > 0], whose derivative is 0 almost everywhere.

    Parameters
    ----------
    a : ndarray of shape (K, B)

    Returns
    -------
    GateOutput
    """
    h = np.maximum(0.0, a)
    fired = h > 0
    return GateOutput(
        h, fired, fired.astype(float), fired.astype(float), np.zeros_like(a)
    )


def smooth_times_stochastic(a, a_fire, uniform):
    """STS unit (Eq. 2): h = b sqrt(p), p = sigm(a), b ~ Bernoulli(sqrt(p_fire)).

    b = 1[uniform < sqrt(p_fire)] with p_fire = sigm(a_fire) is a constant of the
    noise, hence dh/da = b sqrt(p) (1 - p) / 2. It fires with sqrt(p_fire), whose
    derivative is sqrt(p_fire) (1 - p_fire) / 2. Without noise on the draw
    a_fire is a, and E[h] = p.

    Parameters
    ----------
    a : ndarray of shape (K, B)
        Pre-activation of the smooth half.
    a_fire : ndarray of shape (K, B)
        Pre-activation of the stochastic half, a plus a constant of the noise.
    uniform : ndarray of shape (K, B)

    Returns
    -------
    GateOutput
    """
    probability = np.sqrt(expit(a_fire))
    fired = uniform < probability
    root = np.sqrt(expit(a))
    return GateOutput(
        h=fired * root,
        active=fired,
        derivative=fired * root * expit(-a) / 2.0,
        probability=probability,
        probability_derivative=probability * expit(-a_fire) / 2.0,
    )


def bernoulli(a, uniform, temperature):
    """Stochastic binary neuron: h = 1[uniform < p], p = sigm(a).

    Eq. 3 prints 1[z > sigm(a)], which fires with 1 - p; Theorem 1 needs p. The same
    gate is 1[s > 1/2], s the concrete sample sigm((a + l) / T) with the logistic
    noise l = log((1 - uniform) / uniform).

    Parameters
    ----------
    a, uniform : ndarray of shape (K, B)
    temperature : float
        T.

    Returns
    -------
    GateOutput
    """
    p = expit(a)
    fired = uniform < p
    slope = sigmoid_slope((a - logit(uniform)) / temperature) / temperature
    return GateOutput(fired.astype(float), fired, None, p, sigmoid_slope(a), slope)


def sigmoid(a):
    """Sigmoid unit: h = p = sigm(a), dh/da = p (1 - p). It always fires.

    Parameters
    ----------
    a : ndarray of shape (K, B)

    Returns
    -------
    GateOutput
    """
    always = np.ones_like(a)
    return GateOutput(
        expit(a), always.astype(bool), sigmoid_slope(a), always, np.zeros_like(a)
    )


def concrete(a, temperature):
    """Binary concrete (Maddison et al. 2017; Jang et al. 2017): h = sigm(a / T).

    The logistic noise is in a. It always fires.

    Parameters
    ----------
    a : ndarray of shape (K, B)
    temperature : float
        T.

    Returns
    -------
    GateOutput
    """
    gate = sigmoid(a / temperature)
    return replace(gate, derivative=gate.derivative / temperature)


def hard_concrete(a, uniform, temperature):
    """Hard concrete (Louizos et al. 2018), with l = log((1 - uniform) / uniform).

    s = sigm((a + l) / T), h = min(1, max(0, s (zeta - gamma) + gamma)), so that
    dh/da = (zeta - gamma) s (1 - s) / T where h is neither 0 nor 1. It fires with
    probability sigm(a - T log(-gamma / zeta)).

    Parameters
    ----------
    a, uniform : ndarray of shape (K, B)
    temperature : float
        T.

    Returns
    -------
    GateOutput
    """
    x = (a - logit(uniform)) / temperature
    h = np.clip(expit(x) * (HIGH - LOW) + LOW, 0.0, 1.0)
    slope = (HIGH - LOW) * sigmoid_slope(x) / temperature
    shifted = a - temperature * np.log(-LOW / HIGH)
    return GateOutput(
        h=h,
        active=h > 0,
        derivative=np.where((h > 0) & (h < 1), slope, 0.0),
        probability=expit(shifted),
        probability_derivative=sigmoid_slope(shifted),
    )


def apply_unit(clean_a, noise, gater):
    """Add the noise that is added to the gate's input, then apply the unit.

    Parameters
    ----------
    clean_a : ndarray of shape (K, B)
        Pre-activation without noise.
    noise : LayerNoise
    gater : Gater

    Returns
    -------
    a : ndarray of shape (K, B)
        `LayerResult.a`, with the noise where it replaces the pre-activation.
    gate : GateOutput
    """
    check_noise(gater, noise)
    if gater.unit == "noisy_rectifier":
        return clean_a, noisy_rectifier(
            clean_a, noise.additive, gater.noise, gater.noise_scale
        )
    if gater.unit == "rectifier":
        return clean_a, rectifier(clean_a)
    if gater.unit == "bernoulli":
        return clean_a, bernoulli(clean_a, noise.uniform, gater.temperature)
    if gater.unit == "hard_concrete":
        return clean_a, hard_concrete(clean_a, noise.uniform, gater.temperature)

    noisy_a = clean_a if noise.additive is None else clean_a + noise.additive
    if gater.unit == "sigmoid":
        return noisy_a, sigmoid(noisy_a)
    if gater.unit == "concrete":
        return noisy_a, concrete(noisy_a, gater.temperature)
    a = clean_a if gater.noise_on == "draw" else noisy_a
    return a, smooth_times_stochastic(a, noisy_a, noise.uniform)
