"""The table of named gaters, and what one layer's gates need to know.

A gater is three independent choices, each a row of a table in C: a *unit* (how a gate
fires, csrc/units), an *estimator* (how the loss reaches its pre-activation,
csrc/estimators) and a *penalty* (what holds its density, csrc/penalties). ``GATERS``
names the combinations of Bengio, Léonard & Courville (2013), and later ones.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from scipy.special import betainc, betaincc, betaincinv, logit

from stochnet._kernels import gate as _gate

UNITS = _gate.units()
ESTIMATORS = _gate.estimators()
PENALTIES = _gate.penalties()

#: Kinds of noise that `noise` names: (Gaussian or logistic part, Beta part).
NOISES = {
    "gaussian": ("gaussian", False),
    "logistic": ("logistic", False),
    "beta": (None, True),
    "beta+gaussian": ("gaussian", True),
}

BETA_CELLS = 4096


@dataclass(frozen=True)
class NamedGater:
    """A row of the table of gaters.

    Attributes
    ----------
    unit, estimator : str
    penalty : str or None
        The penalty that holds the density unless another one is asked for.
    noise : str or None
        The noise used unless another one is asked for.
    noises : tuple of (str or None)
        The noises that can be asked for.
    estimators : dict of str to float
        Other estimators that can be asked for, with their learning rate factor.
    learning_rate_factor : float
        Gater's learning rate over the main path's, unless one is asked for. The gates'
        gradient of some units is much smaller than that of others.
    baseline : bool
        One of the paper's deterministic baselines.
    paper : bool
        One of Bengio, Léonard & Courville (2013).
    description : str
    """

    unit: str
    estimator: str
    penalty: str | None
    description: str
    noise: str | None = None
    noises: tuple = (None,)
    estimators: dict = field(default_factory=dict)
    learning_rate_factor: float = 1.0
    baseline: bool = False
    paper: bool = True


GATERS = {
    "noisy_rectifier": NamedGater(
        "noisy_rectifier",
        "pathwise",
        "l1",
        "max(0, a + z) with Gaussian or logistic z (Sec. 2.1)",
        noise="gaussian",
        noises=("gaussian", "logistic"),
        learning_rate_factor=10.0,
    ),
    "sts": NamedGater(
        "sts",
        "pathwise",
        "kl",
        "stochastic times smooth, b sqrt(p) with b ~ Bernoulli(sqrt p) (Sec. 2.2)",
        noises=(None, "beta", "gaussian", "beta+gaussian"),
        learning_rate_factor=5.0,
    ),
    "sbn": NamedGater(
        "bernoulli",
        "reinforce",
        "kl",
        "stochastic binary neuron with REINFORCE (Sec. 3)",
        estimators={"local_expectation": 1.0},
    ),
    "st": NamedGater(
        "bernoulli",
        "straight_through",
        "kl",
        "stochastic binary neuron with straight-through gradient (Sec. 4)",
        estimators={"reinmax": 10.0},
    ),
    "rectifier": NamedGater(
        "rectifier",
        "pathwise",
        "l1",
        "max(0, a), without noise",
        learning_rate_factor=5.0,
        baseline=True,
    ),
    "sigmoid": NamedGater(
        "sigmoid",
        "pathwise",
        None,
        "sigm(a), dense, with optional Gaussian noise on a",
        noises=(None, "gaussian"),
        baseline=True,
    ),
    "concrete": NamedGater(
        "concrete",
        "pathwise",
        None,
        "Gumbel-sigmoid, sigm((a + l) / T) with logistic l, dense",
        noise="logistic",
        noises=("logistic",),
        learning_rate_factor=5.0,
        paper=False,
    ),
    "concrete_st": NamedGater(
        "bernoulli",
        "concrete_st",
        "kl",
        "stochastic binary neuron with straight-through Gumbel-sigmoid gradient",
        learning_rate_factor=10.0,
        paper=False,
    ),
    "hard_concrete": NamedGater(
        "hard_concrete",
        "pathwise",
        "kl",
        "hard concrete, sigm((a + l) / T) stretched to (-0.1, 1.1) and clamped",
        learning_rate_factor=5.0,
        paper=False,
    ),
}


@dataclass(frozen=True)
class Noise:
    """Noise added to a gate's pre-activation.

    Attributes
    ----------
    additive : {None, "gaussian", "logistic"}
    scale : float
        Standard deviation of the Gaussian, scale of the logistic distribution (1 is the
        density of Proposition 1).
    quantiles : ndarray of shape (n,), float32, or None
        Quantile function of the Beta noise at probabilities 0, 1/(n-1), ..., 1.
    mean : float
        Of all that is added; replaces the noise at prediction.
    draw_only : bool
        The noise reaches the decision to fire, not the gate's smooth value.
    """

    additive: str | None = None
    scale: float = 1.0
    quantiles: np.ndarray | None = None
    mean: float = 0.0
    draw_only: bool = False


def beta_noise(density, beta):
    """Shape and scale of the Beta noise of Appendix A.2.

    Parameters
    ----------
    density : float in (0, 1)
        Target s; the mode of the distribution.
    beta : float
        Its second parameter, above 1.

    Returns
    -------
    alpha : float
        ``(1 + s (beta - 2)) / (1 - s)``, which puts the mode at s.
    scale : float
        Samples x become ``(x - 0.5) * scale``, with sigm(noise at the mode) = s:
        ``logit(s) / (s - 0.5)``, and its limit 4 at s = 0.5.
    """
    if not 0 < density < 1:
        raise ValueError(f"Beta noise needs a density in (0, 1), got {density}.")
    if not beta > 1:
        raise ValueError(f"noise_beta must be greater than 1, got {beta}.")
    alpha = (1 + density * (beta - 2)) / (1 - density)
    near_half = abs(density - 0.5) < 1e-6
    return alpha, 4.0 if near_half else float(logit(density) / (density - 0.5))


def make_noise(kind, *, density, scale, beta, draw_only):
    """The `Noise` that the name `kind` stands for."""
    if kind is None:
        return Noise()
    additive, with_beta = NOISES[kind]
    if not with_beta:
        return Noise(additive, scale, draw_only=draw_only)
    alpha, beta_scale = beta_noise(density, beta)
    mean = alpha / (alpha + beta)
    samples = betaincinv(alpha, beta, np.linspace(0, 1, BETA_CELLS + 1))
    # A line to 0 or to 1 would make the tails far too heavy: the ends are where the
    # mean of the first and of the last cell is right.
    first = BETA_CELLS * mean * betainc(alpha + 1, beta, samples[1])
    last = BETA_CELLS * mean * betaincc(alpha + 1, beta, samples[-2])
    samples[0] = 2 * first - samples[1]
    samples[-1] = 2 * last - samples[-2]
    return Noise(
        additive,
        scale,
        ((samples - 0.5) * beta_scale).astype(np.float32),
        float((mean - 0.5) * beta_scale),
        draw_only,
    )


@dataclass(frozen=True)
class Gater:
    """Everything about the gates of one layer that training does not change.

    Attributes
    ----------
    unit, estimator : str
        Rows of ``UNITS`` and ``ESTIMATORS``.
    penalty : str or None
        Row of ``PENALTIES``.
    noise : Noise
    temperature : float
        T of unit or estimator, where they have one.
    density : float in (0, 1]
        Target share of non-zero gates, the paper's s.
    credit : {"active", "all", "loss", "probe"}
        What the estimator knows; see ``ESTIMATORS``.
    probe_rate : float in (0, 1]
        With credit "probe", the chance that a gate which did not fire is known too.
    sigmoid_derivative : bool
        Straight-through's variant dL/dh p (1 - p).
    baseline : {None, "mean", "unit"}
        REINFORCE's baseline: none, the mean loss, or Eq. 10.
    averages_decay : float in [0, 1)
        Of the moving averages of firing rates and of Eq. 10.
    firing_rate_step : float
        Bias control of Sec. 2.1: step per mini-batch times (s - rate); 0 for none.
    penalty_weight : float
        Initial weight, the lambda of Eq. 14 and Eq. 15.
    penalty_factor : float
        Adaptive weight: the relative change per mini-batch; 0 for a fixed weight.
    penalty_limits : pair of float
        Range of the adaptive weight.
    """

    unit: str
    estimator: str
    penalty: str | None = None
    noise: Noise = field(default_factory=Noise)
    temperature: float = 1.0
    density: float = 0.1
    credit: str = "active"
    probe_rate: float = 0.1
    sigmoid_derivative: bool = False
    baseline: str | None = "unit"
    averages_decay: float = 0.9
    firing_rate_step: float = 0.0
    penalty_weight: float = 0.0
    penalty_factor: float = 0.0
    penalty_limits: tuple = (0.0, np.inf)

    @property
    def indices(self):
        """Rows of unit, estimator and penalty in C's tables; -1 for no penalty."""
        penalty = -1 if self.penalty is None else PENALTIES[self.penalty]["index"]
        return UNITS[self.unit]["index"], ESTIMATORS[self.estimator]["index"], penalty

    @property
    def unit_facts(self):
        """The unit's row of ``UNITS``."""
        return UNITS[self.unit]

    def initial_bias(self, spread):
        """Gate bias at which the unit fires with the target density.

        Parameters
        ----------
        spread : float
            Standard deviation that the layer's input gives to the pre-activation.
        """
        s = min(self.density, 1 - 1e-4)
        bias = _gate.initial_bias(self.unit, self.noise, s, spread, self.temperature)
        return bias - self.noise.mean

    def without_control(self):
        """The same gates with nothing but the penalty's gradient acting on them."""
        return replace(self, firing_rate_step=0.0, penalty_factor=0.0)


def _one_of(name, value, choices):
    if value not in choices:
        valid = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name} must be one of {valid}; got {value!r}.")


def _credit(name, estimator, credit):
    """What the option `credit` is for a gater of this name and estimator."""
    _one_of("credit", credit, ("auto", "all", "active", "probe"))
    facts = ESTIMATORS[estimator]
    if credit == "probe" and not facts["credit_probe"]:
        valid = ", ".join(repr(e) for e, f in ESTIMATORS.items() if f["credit_probe"])
        raise ValueError(
            f"credit='probe' is not available for gater={name!r} with the estimator "
            f"{estimator!r}; it needs one of {valid}."
        )
    if credit == "probe" or (credit != "auto" and facts["credit_choice"]):
        return credit
    return facts["credit"]


def make_gater(
    name,
    *,
    estimator="auto",
    density=0.1,
    noise="auto",
    noise_scale=1.0,
    noise_beta=40.1,
    noise_on="gate",
    temperature="auto",
    credit="auto",
    probe_rate=0.1,
    sigmoid_derivative=False,
    baseline="unit",
    penalty="auto",
    penalty_weight="auto",
    adaptive_penalty=False,
    firing_rate_step=0.0,
):
    """Resolve a named gater and its options, explained at `GatedMLPClassifier`.

    Returns
    -------
    Gater

    Raises
    ------
    ValueError
        For an unknown name, or an option that the gater does not have.
    """
    _one_of("gater", name, GATERS)
    row = GATERS[name]
    _one_of("estimator", estimator, ("auto", *ESTIMATORS))
    estimator_name = row.estimator if estimator == "auto" else estimator
    if estimator_name not in (row.estimator, *row.estimators):
        valid = ", ".join(repr(e) for e in ("auto", row.estimator, *row.estimators))
        raise ValueError(
            f"estimator={estimator!r} is not available for gater={name!r}; valid: "
            f"{valid}."
        )
    unit, estimator = UNITS[row.unit], ESTIMATORS[estimator_name]

    noise = row.noise if noise == "auto" else noise
    if noise not in row.noises:
        valid = ", ".join(repr(n) for n in row.noises)
        raise ValueError(
            f"noise={noise!r} is not available for gater={name!r}; valid: {valid}."
        )
    _one_of("noise_on", noise_on, ("gate", "draw"))
    # only a unit with both a draw and a smooth value can tell them apart
    draw_only = noise_on == "draw" and unit["gate_noise"] and unit["z"] == "uniform"

    credit = _credit(name, estimator_name, credit)
    default = unit["default_temperature"] or estimator["default_temperature"]
    if temperature != "auto" and default is None:
        raise ValueError(
            f"temperature={temperature!r} is not available for gater={name!r}; valid: "
            "'auto'."
        )

    _one_of("baseline", baseline, (None, "mean", "unit"))

    penalty = row.penalty if penalty == "auto" else penalty
    _one_of("penalty", penalty, ("auto", None, *PENALTIES))
    smooth = unit["smooth_probability"]
    if penalty and not smooth and not unit["has_derivative"]:
        raise ValueError(f"penalty={penalty!r} cannot act on gater={name!r}.")
    if penalty and PENALTIES[penalty]["needs_smooth_probability"] and not smooth:
        valid = [p for p, f in PENALTIES.items() if not f["needs_smooth_probability"]]
        raise ValueError(
            f"penalty={penalty!r} needs a firing probability that changes smoothly, "
            f"which gater={name!r} does not have; use one of {valid} or None."
        )
    if penalty_weight == "auto":
        penalty_weight = PENALTIES[penalty]["default_weight"] if penalty else 0.0
    return Gater(
        unit=row.unit,
        estimator=estimator_name,
        penalty=penalty,
        noise=make_noise(
            noise,
            density=density,
            scale=noise_scale,
            beta=noise_beta,
            draw_only=draw_only,
        ),
        temperature=(default or 1.0) if temperature == "auto" else temperature,
        density=density,
        credit=credit,
        probe_rate=probe_rate,
        sigmoid_derivative=bool(sigmoid_derivative),
        baseline=baseline,
        firing_rate_step=0.0 if unit["always_fires"] else firing_rate_step,
        penalty_weight=penalty_weight,
        penalty_factor=PENALTY_FACTOR if adaptive_penalty else 0.0,
        penalty_limits=(penalty_weight * 1e-3, penalty_weight * 1e3),
    )


#: Relative change of an adaptive penalty weight per mini-batch.
PENALTY_FACTOR = 0.05
