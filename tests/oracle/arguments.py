"""What a step is given: parameters, noise, and the gater of each layer."""

from dataclasses import dataclass, fields

import numpy as np

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


class Float64Arrays:
    """Mix-in for dataclasses of arrays: every array becomes float64 once."""

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and field.name != "layers":
                setattr(self, field.name, np.asarray(value, dtype=np.float64))


@dataclass
class LayerParameters(Float64Arrays):
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
class Parameters(Float64Arrays):
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
class LayerNoise(Float64Arrays):
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
        require("unit", self.unit, REQUIRED_NOISE)
        require(
            "estimator",
            self.estimator,
            ("pathwise", "straight_through", *BERNOULLI_ESTIMATORS),
        )
        require("penalty", self.penalty, ("kl", "l1", None))
        require("noise", self.noise, ("gaussian", "logistic"))
        require("noise_on", self.noise_on, ("gate", "draw"))
        require("credit", self.credit, ("all", "active", "probe"))
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


def require(name, value, allowed):
    """Raise ValueError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not one of {tuple(allowed)}")


def check_noise(gater, noise):
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
