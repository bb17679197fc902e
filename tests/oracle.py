"""Float64 NumPy reference of one training step and of prediction.

The compiled float32 kernels are compared with these functions, and
``test_oracle.py`` compares these functions with finite differences, exact sums
and closed formulas. Nothing here is fast, and nothing here draws random numbers:
all noise is an argument, so that kernel and oracle can be given the same.

The model is the gated network of Bengio, Leonard & Courville (2013), "Estimating
or Propagating Gradients Through Stochastic Neurons". Equation, section and
appendix numbers refer to that paper; where its text is misprinted, the corrected
formula is used and the docstring says so.

Notation
--------
B rows of the mini-batch, D inputs of a layer, M bottleneck units of the gater,
K gates, each of G successive experts, E = K G experts, C classes. ``a`` is the
pre-activation of the gates, ``h`` their output, ``H`` the output of the experts,
``U`` the output of the bottleneck. Gate quantities are unit-major, (K, B). A prefix
``d`` means "gradient of the training criterion with respect to": ``da``, ``dh``,
``dH``.
"""

from dataclasses import dataclass, fields, replace

import numpy as np
from scipy.special import expit, log_softmax, logit, ndtr, softmax

# Eq. 14 has the logarithms of q and of 1 - q: q is kept this far from 0 and 1.
PROBABILITY_CLIP = 1e-6

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

# Which noise each unit must be given, and which it may be given. Noise that a
# unit would ignore is refused: a test that passes it is comparing something else.
REQUIRED_NOISE = {
    "noisy_rectifier": {"additive"},
    "rectifier": set(),
    "sts": {"uniform"},
    "bernoulli": {"uniform"},
    "sigmoid": set(),
    "concrete": set(),
    "hard_concrete": {"uniform"},
}
OPTIONAL_NOISE = {
    "sts": {"additive"},
    "sigmoid": {"additive"},
    "concrete": {"additive"},
}

# They have a value at any a, and so no threshold.
DENSE = ("sigmoid", "concrete")

# What estimates gradients of Bernoulli gates only.
BERNOULLI_ESTIMATORS = ("reinforce", "local_expectation", "reinmax", "concrete_st")

# Estimators for which dh where h = 0 is a choice.
CREDIT_CHOICE = ("straight_through", "reinmax", "concrete_st")

# gamma and zeta of hard concrete gates.
LOW, HIGH = -0.1, 1.1


# ---------------------------------------------------------------------------
# What goes in
# ---------------------------------------------------------------------------


class _Float64Arrays:
    """Mix-in for dataclasses of arrays: every array becomes float64 once."""

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and field.name != "layers":
                setattr(self, field.name, np.asarray(value, dtype=np.float64))


@dataclass
class LayerParameters(_Float64Arrays):
    """Parameters of one conditional layer, or their gradients.

    Attributes
    ----------
    hidden_weight : ndarray of shape (M, D)
        Bottleneck of the gater.
    hidden_bias : ndarray of shape (M,)
    gate_weight : ndarray of shape (K, M)
    gate_bias : ndarray of shape (K,)
    expert_weight : ndarray of shape (K, D)
    expert_bias : ndarray of shape (K,)
    """

    hidden_weight: np.ndarray
    hidden_bias: np.ndarray
    gate_weight: np.ndarray
    gate_bias: np.ndarray
    expert_weight: np.ndarray
    expert_bias: np.ndarray


@dataclass
class Parameters(_Float64Arrays):
    """Parameters of a whole network, or their gradients.

    Attributes
    ----------
    layers : list of LayerParameters
        From the input upward.
    readout_weight : ndarray of shape (K of the last layer, C)
    readout_bias : ndarray of shape (C,)
    """

    layers: list[LayerParameters]
    readout_weight: np.ndarray
    readout_bias: np.ndarray

    def named_arrays(self):
        """Yield (name, array) of every parameter array, in a fixed order."""
        for index, layer in enumerate(self.layers):
            for field in fields(layer):
                yield f"layers[{index}].{field.name}", getattr(layer, field.name)
        yield "readout_weight", self.readout_weight
        yield "readout_bias", self.readout_bias


@dataclass
class LayerNoise(_Float64Arrays):
    """Noise and baseline that one layer is given for one mini-batch.

    Attributes
    ----------
    uniform : ndarray of shape (K, B) or None
        Draws from [0, 1) that decide whether an STS or Bernoulli gate fires; hard
        concrete gates make logistic noise of them.
    additive : ndarray of shape (K, B) or None
        Noise in units of the pre-activation, already scaled: z of the noisy
        rectifier; for STS and sigmoid the noise of Appendix A.2; the concrete
        unit's logistic noise.
    baseline : ndarray of shape (K,) or None
        Baseline of REINFORCE for each unit; None is zero.
    probe : ndarray of shape (K, B) or None
        Draws from [0, 1) that decide which gates are probed, with credit "probe".
    """

    uniform: np.ndarray | None = None
    additive: np.ndarray | None = None
    baseline: np.ndarray | None = None
    probe: np.ndarray | None = None


@dataclass(frozen=True)
class Gater:
    """How the gates of one layer fire, learn, and are kept sparse.

    Attributes
    ----------
    unit : {"noisy_rectifier", "sts", "bernoulli", "rectifier", "sigmoid", \
            "concrete", "hard_concrete"}
        ``sts`` is "smooth times stochastic" (Sec. 2.2).
    estimator : {"pathwise", "straight_through", "reinforce", "local_expectation", \
            "reinmax", "concrete_st"}
    penalty : {"kl", "l1", None}
        Eq. 14 or Eq. 15.
    density : float
        s, the target share of non-zero gates.
    penalty_weight : float
        lambda of Eq. 14 and Eq. 15.
    noise : {"gaussian", "logistic"}
        Distribution of the noisy rectifier's z: it decides only the firing
        probability here, because z itself is given.
    noise_scale : float
        Scale of that distribution (the deviation, where it is Gaussian).
    noise_on : {"gate", "draw"}
        Where additive noise enters an STS unit: both halves, or only the draw.
    temperature : float
        Of the concrete and hard concrete units and of the estimator concrete_st.
    credit : {"all", "active", "probe"}
        `CREDIT_CHOICE`: which gates learn, all or those that fired; or, with local
        expectation too, those that fired and a sample of the others.
    probe_rate : float in (0, 1]
        The chance that a gate which did not fire is in that sample.
    sigmoid_derivative : bool
        Straight-through: multiply by sigm'(a), the variant of Sec. 4.
    """

    unit: str
    estimator: str
    penalty: str | None = None
    density: float = 0.1
    penalty_weight: float = 0.0
    noise: str = "gaussian"
    noise_scale: float = 1.0
    noise_on: str = "gate"
    temperature: float = 2 / 3
    credit: str = "all"
    probe_rate: float = 1.0
    sigmoid_derivative: bool = False

    def __post_init__(self):
        _require("unit", self.unit, REQUIRED_NOISE)
        _require(
            "estimator",
            self.estimator,
            ("pathwise", "straight_through", *BERNOULLI_ESTIMATORS),
        )
        _require("penalty", self.penalty, ("kl", "l1", None))
        _require("noise", self.noise, ("gaussian", "logistic"))
        _require("noise_on", self.noise_on, ("gate", "draw"))
        _require("credit", self.credit, ("all", "active", "probe"))
        if self.estimator == "pathwise" and self.unit == "bernoulli":
            raise ValueError("the Bernoulli unit has no pathwise derivative")
        if self.estimator in BERNOULLI_ESTIMATORS and self.unit != "bernoulli":
            raise ValueError(f"{self.estimator} is for the Bernoulli unit only")
        if self.noise_on == "draw" and self.unit != "sts":
            raise ValueError("noise_on='draw' needs a unit that draws: sts")
        probes = self.credit == "probe" and self.estimator == "local_expectation"
        if self.estimator not in CREDIT_CHOICE and self.credit != "all" and not probes:
            raise ValueError(f"{self.estimator} has no choice of credit")
        if self.estimator != "straight_through" and self.sigmoid_derivative:
            raise ValueError("sigmoid_derivative is straight-through's")


def _require(name, value, allowed):
    """Raise ValueError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not one of {tuple(allowed)}")


def _check_noise(gater, noise):
    """Raise ValueError if required noise is missing or needless noise is given."""
    given = {
        name for name in ("uniform", "additive") if getattr(noise, name) is not None
    }
    required = REQUIRED_NOISE[gater.unit]
    if not required <= given:
        raise ValueError(f"{gater.unit} needs the noise {required - given}")
    needless = given - required - OPTIONAL_NOISE.get(gater.unit, set())
    if needless:
        raise ValueError(f"{gater.unit} would ignore the noise {needless}")
    if (noise.probe is not None) != (gater.credit == "probe"):
        raise ValueError(f"credit={gater.credit!r} does not fit the noise of probes")
    if noise.baseline is not None and gater.estimator != "reinforce":
        raise ValueError(f"{gater.estimator} would ignore the baseline")


# ---------------------------------------------------------------------------
# What comes out
# ---------------------------------------------------------------------------


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


@dataclass
class LayerResult:
    """All quantities of one layer in one training step.

    Attributes
    ----------
    x : ndarray of shape (B, D)
        Input of the layer.
    U : ndarray of shape (B, M)
        Output of the bottleneck.
    a : ndarray of shape (K, B)
        Pre-activation. It contains the additive noise where that replaces a
        (sigmoid, concrete, and STS with noise_on="gate"), not elsewhere (noisy
        rectifier, and STS with noise_on="draw").
    gate : GateOutput
    H : ndarray of shape (E, B)
        Output of the experts, of all of them, whether their gates fired or not.
    y : ndarray of shape (B, E)
        Output of the layer.
    da : ndarray of shape (K, B) or None
        Gradient estimate, penalty included; None until the backward pass.
    """

    x: np.ndarray
    U: np.ndarray
    a: np.ndarray
    gate: GateOutput
    H: np.ndarray
    y: np.ndarray
    da: np.ndarray | None = None

    @property
    def h(self):
        """Output of the gates, ndarray of shape (K, B)."""
        return self.gate.h

    @property
    def active(self):
        """Gates that fired, bool ndarray of shape (K, B)."""
        return self.gate.active

    @property
    def probability(self):
        """Firing probability, ndarray of shape (K, B)."""
        return self.gate.probability


@dataclass
class StepResult:
    """Result of a training step, before any update of the parameters.

    Attributes
    ----------
    loss : float
        Cross-entropy, mean over rows.
    row_loss : ndarray of shape (B,)
        Cross-entropy of each row.
    criterion : float
        `loss` plus the penalties of all layers.
    logits : ndarray of shape (B, C)
    layers : list of LayerResult
    gradient : Parameters or None
        Gradient estimate of `criterion`; None after `forward` alone.
    """

    loss: float
    row_loss: np.ndarray
    criterion: float
    logits: np.ndarray
    layers: list[LayerResult]
    gradient: Parameters | None = None


# ---------------------------------------------------------------------------
# Units: (a, noise) -> h, with derivatives
# ---------------------------------------------------------------------------


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
    _check_noise(gater, noise)
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


# ---------------------------------------------------------------------------
# Penalties
# ---------------------------------------------------------------------------


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


# ---------------------------------------------------------------------------
# Estimators: how the loss reaches a
# ---------------------------------------------------------------------------


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


# ---------------------------------------------------------------------------
# The network
# ---------------------------------------------------------------------------


def gater_pre_activation(parameters, x):
    """Bottleneck and pre-activation: U = tanh(x Wb' + bb), a = Wg U' + bg.

    Parameters
    ----------
    parameters : LayerParameters
    x : ndarray of shape (B, D)

    Returns
    -------
    U : ndarray of shape (B, M)
    a : ndarray of shape (K, B)
    """
    U = np.tanh(x @ parameters.hidden_weight.T + parameters.hidden_bias)
    return U, parameters.gate_weight @ U.T + parameters.gate_bias[:, None]


def expert_output(parameters, x):
    """Linear experts: H = We x' + be.

    Parameters
    ----------
    parameters : LayerParameters
    x : ndarray of shape (B, D)

    Returns
    -------
    ndarray of shape (E, B)
    """
    return parameters.expert_weight @ x.T + parameters.expert_bias[:, None]


def cross_entropy(logits, y):
    """Cross-entropy of the softmax: L_b = -log softmax(logits_b)[y_b].

    Parameters
    ----------
    logits : ndarray of shape (B, C)
    y : int ndarray of shape (B,)

    Returns
    -------
    ndarray of shape (B,)
    """
    return -log_softmax(logits, axis=1)[np.arange(len(y)), y]


def per_expert(values, n_experts):
    """The gates' values for each expert: gate k has the experts from k G on.

    Parameters
    ----------
    values : ndarray of shape (K, ...)
    n_experts : int
        E = K G.

    Returns
    -------
    ndarray of shape (E, ...)
    """
    return np.repeat(values, n_experts // len(values), axis=0)


def forward_layer(parameters, x, noise, gater):
    """Forward pass of one layer: y = (h * H)', h that of each expert's gate.

    Parameters
    ----------
    parameters : LayerParameters
    x : ndarray of shape (B, D)
    noise : LayerNoise
    gater : Gater

    Returns
    -------
    LayerResult
    """
    U, clean_a = gater_pre_activation(parameters, x)
    a, gate = apply_unit(clean_a, noise, gater)
    H = expert_output(parameters, x)
    h = per_expert(gate.h, len(H))
    return LayerResult(x=x, U=U, a=a, gate=gate, H=H, y=(h * H).T)


def forward(params, X, y, gaters, noises):
    """Forward pass of the network: logits = y_last V + c, losses and penalties.

    criterion = mean_b L_b + sum over layers of `penalty`.

    Parameters
    ----------
    params : Parameters
    X : ndarray of shape (B, D)
    y : int ndarray of shape (B,)
    gaters : list of Gater
        One for each layer.
    noises : list of LayerNoise
        One for each layer.

    Returns
    -------
    StepResult
        Without gradients.
    """
    x = np.asarray(X, dtype=np.float64)
    layers = []
    total_penalty = 0.0
    for parameters, noise, gater in zip(params.layers, noises, gaters, strict=True):
        layers.append(forward_layer(parameters, x, noise, gater))
        total_penalty += penalty(layers[-1].gate, gater)
        x = layers[-1].y
    logits = x @ params.readout_weight + params.readout_bias
    row_loss = cross_entropy(logits, y)
    loss = float(row_loss.mean())
    return StepResult(loss, row_loss, loss + total_penalty, logits, layers)


def loss_differences(layer, logits, y, readout_weight):
    """L(h = 1) - L(h = 0) of each gate of the last layer, the others as drawn, over B.

    Parameters
    ----------
    layer : LayerResult
    logits : ndarray of shape (B, C)
    y : int ndarray of shape (B,)
    readout_weight : ndarray of shape (E, C)

    Returns
    -------
    ndarray of shape (K, B)
    """
    rows, n_gates = np.arange(len(y)), len(layer.h)
    parts = layer.H.T[:, :, None] * readout_weight
    on = parts.reshape(len(y), n_gates, -1, parts.shape[2]).sum(axis=2)
    off = logits[:, None, :] - layer.h.T[:, :, None] * on
    losses = (-log_softmax(v, axis=2)[rows, :, y] for v in (off + on, off))
    return np.subtract(*losses).T / len(y)


def backward_layer(parameters, layer, dy, row_loss, noise, gater, dh=None):
    """Backward pass of one layer.

    dh = H * dy', summed over a gate's experts, dH = h * dy', da by the estimator plus
    the penalty's gradient; then dU = da' Wg, through tanh d(x Wb' + bb) =
    dU (1 - U^2), and dx = dH' We + d(x Wb' + bb) Wb: what reaches the input through the
    experts and through the gater, the penalty's share included.

    Parameters
    ----------
    parameters : LayerParameters
    layer : LayerResult
        Of `forward_layer`.
    dy : ndarray of shape (B, E)
    row_loss : ndarray of shape (B,)
    noise : LayerNoise
    gater : Gater
    dh : ndarray of shape (K, B), optional
        Of `loss_differences`, in place of the gradient.

    Returns
    -------
    da : ndarray of shape (K, B)
    gradient : LayerParameters
    dx : ndarray of shape (B, D)
    """
    n_experts, n_gates = len(layer.H), len(layer.h)
    if dh is None:
        dh = (layer.H * dy.T).reshape(n_gates, n_experts // n_gates, -1).sum(axis=1)
    if gater.credit == "probe":
        dh = dh * probe_weights(layer.gate, noise.probe, gater)
    dH = per_expert(layer.h, n_experts) * dy.T
    da = estimate_da(layer, dh, row_loss, noise.baseline, gater)
    da = da + penalty_gradient(layer.gate, gater)
    dhidden = (da.T @ parameters.gate_weight) * (1.0 - layer.U**2)
    gradient = LayerParameters(
        hidden_weight=dhidden.T @ layer.x,
        hidden_bias=dhidden.sum(axis=0),
        gate_weight=da @ layer.U,
        gate_bias=da.sum(axis=1),
        expert_weight=dH @ layer.x,
        expert_bias=dH.sum(axis=1),
    )
    dx = dH.T @ parameters.expert_weight + dhidden @ parameters.hidden_weight
    return da, gradient, dx


def loss_and_gradient(params, X, y, gaters, noises):
    """Forward and backward pass of one training step.

    The gradient of the mean loss with respect to the logits is
    (softmax(logits_b) - onehot(y_b)) / B.

    Parameters
    ----------
    params : Parameters
    X : ndarray of shape (B, D)
    y : int ndarray of shape (B,)
    gaters : list of Gater
    noises : list of LayerNoise

    Returns
    -------
    StepResult
    """
    result = forward(params, X, y, gaters, noises)
    n_rows = len(y)
    dlogits = softmax(result.logits, axis=1)
    dlogits[np.arange(n_rows), y] -= 1.0
    dlogits /= n_rows

    dy = dlogits @ params.readout_weight.T
    layers, gradients = [], []
    for parameters, layer, noise, gater in reversed(
        list(zip(params.layers, result.layers, noises, gaters, strict=True))
    ):
        dh = None
        if gater.estimator == "local_expectation":  # of the last layer only
            dh = loss_differences(layer, result.logits, y, params.readout_weight)
        # The dx of a layer is the dy of the layer below.
        da, gradient, dy = backward_layer(
            parameters, layer, dy, result.row_loss, noise, gater, dh
        )
        layers.insert(0, replace(layer, da=da))
        gradients.insert(0, gradient)
    gradient = Parameters(
        layers=gradients,
        readout_weight=result.layers[-1].y.T @ dlogits,
        readout_bias=dlogits.sum(axis=0),
    )
    return replace(result, layers=layers, gradient=gradient)


# ---------------------------------------------------------------------------
# Prediction
# ---------------------------------------------------------------------------


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
    _require(f"value of {gater.unit}", value, PREDICTION_VALUES[gater.unit])
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


# ---------------------------------------------------------------------------
# Baseline of REINFORCE
# ---------------------------------------------------------------------------


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
    _require("kind", kind, ("unit", "mean"))
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


# ---------------------------------------------------------------------------
# Updates
# ---------------------------------------------------------------------------


@dataclass
class OptimiserState(_Float64Arrays):
    """State of the optimiser of one 2-D array.

    Attributes
    ----------
    velocity : ndarray of shape (rows, columns)
        SGD.
    first_moment, second_moment : ndarray of shape (rows, columns)
        Adam.
    step_count : ndarray of shape (rows,)
        Adam: how often each row has been updated.
    """

    velocity: np.ndarray
    first_moment: np.ndarray
    second_moment: np.ndarray
    step_count: np.ndarray


def new_optimiser_state(weight):
    """State before the first update of `weight`: zeros."""
    return OptimiserState(
        velocity=np.zeros(weight.shape),
        first_moment=np.zeros(weight.shape),
        second_moment=np.zeros(weight.shape),
        step_count=np.zeros(len(weight)),
    )


def update(
    weight,
    gradient,
    state,
    active_rows,
    *,
    solver,
    learning_rate,
    momentum,
    nesterovs_momentum,
    beta_1,
    beta_2,
    epsilon,
):
    """One lazy update: inactive rows keep their weights and their state.

    Parameters
    ----------
    weight, gradient : ndarray of shape (rows, columns)
    state : OptimiserState
    active_rows : bool ndarray of shape (rows,)
    solver : {"sgd", "adam"}
    learning_rate : float
    momentum : float
    nesterovs_momentum : bool
        `momentum` and `nesterovs_momentum` are read by SGD, see `sgd_rows`.
    beta_1, beta_2, epsilon : float
        Read by Adam, see `adam_rows`.

    Returns
    -------
    weight : ndarray of shape (rows, columns)
        A new array; the arguments are not changed.
    state : OptimiserState
        Likewise new.
    """
    _require("solver", solver, ("sgd", "adam"))
    weight = np.array(weight, dtype=np.float64)
    gradient = np.asarray(gradient, dtype=np.float64)
    state = OptimiserState(*(getattr(state, f.name).copy() for f in fields(state)))
    # Indexing with the mask, not multiplying by it: the gradient of an inactive
    # row is not even read.
    rows = np.flatnonzero(active_rows)
    if solver == "sgd":
        change, state.velocity[rows] = sgd_rows(
            gradient[rows],
            state.velocity[rows],
            learning_rate,
            momentum,
            nesterovs_momentum,
        )
    else:
        state.step_count[rows] += 1
        change, state.first_moment[rows], state.second_moment[rows] = adam_rows(
            gradient[rows],
            state.first_moment[rows],
            state.second_moment[rows],
            state.step_count[rows],
            learning_rate,
            beta_1,
            beta_2,
            epsilon,
        )
    weight[rows] += change
    return weight, state


def sgd_rows(gradient, velocity, learning_rate, momentum, nesterovs_momentum):
    """Stochastic gradient descent with momentum.

    v <- momentum v - learning_rate g; the weights change by v, or, with
    Nesterov's momentum, by momentum v - learning_rate g with the new v.

    Parameters
    ----------
    gradient, velocity : ndarray of shape (rows, columns)
    learning_rate, momentum : float
    nesterovs_momentum : bool

    Returns
    -------
    change, velocity : ndarray of shape (rows, columns)
    """
    velocity = momentum * velocity - learning_rate * gradient
    if nesterovs_momentum:
        return momentum * velocity - learning_rate * gradient, velocity
    return velocity, velocity


def adam_rows(
    gradient,
    first_moment,
    second_moment,
    step_count,
    learning_rate,
    beta_1,
    beta_2,
    epsilon,
):
    """Adam, with a step count t for each row.

    m <- beta_1 m + (1 - beta_1) g, v <- beta_2 v + (1 - beta_2) g^2, and the
    weights change by -r m / (sqrt(v) + epsilon), where
    r = learning_rate sqrt(1 - beta_2^t) / (1 - beta_1^t).

    Parameters
    ----------
    gradient, first_moment, second_moment : ndarray of shape (rows, columns)
    step_count : ndarray of shape (rows,)
        Including this update: 1 at the first.
    learning_rate, beta_1, beta_2, epsilon : float

    Returns
    -------
    change, first_moment, second_moment : ndarray of shape (rows, columns)
    """
    first_moment = beta_1 * first_moment + (1.0 - beta_1) * gradient
    second_moment = beta_2 * second_moment + (1.0 - beta_2) * gradient**2
    corrections = np.sqrt(1.0 - beta_2**step_count) / (1.0 - beta_1**step_count)
    rate = learning_rate * corrections[:, None]
    change = -rate * first_moment / (np.sqrt(second_moment) + epsilon)
    return change, first_moment, second_moment


def max_norm(weight, limit, active_rows):
    """Rescale active rows whose Euclidean norm exceeds `limit` to `limit`.

    Parameters
    ----------
    weight : ndarray of shape (rows, columns)
    limit : float
    active_rows : bool ndarray of shape (rows,)

    Returns
    -------
    ndarray of shape (rows, columns)
        A new array.
    """
    weight = np.array(weight, dtype=np.float64)
    norms = np.linalg.norm(weight, axis=1)
    too_long = np.asarray(active_rows, dtype=bool) & (norms > limit)
    weight[too_long] *= limit / norms[too_long, None]
    return weight


# ---------------------------------------------------------------------------
# Control of the density
# ---------------------------------------------------------------------------


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
