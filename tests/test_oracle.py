"""The oracle against finite differences, exact sums and closed formulas.

Where the training criterion is differentiable given the noise, every parameter's
gradient is compared with central differences. Where it is not, the estimator is
compared with what it claims to be: straight-through with the differences of a
relaxed criterion, REINFORCE with the exact gradient of the expected loss, summed
over all configurations of the gates.
"""

import copy
import itertools
import math

import numpy as np
import oracle
import pytest
from oracle import Gater, LayerNoise, LayerParameters, Parameters
from scipy import integrate, stats
from scipy.special import expit, softmax

pytestmark = pytest.mark.filterwarnings("error")

# The error of central differences is of order STEP^2 (truncation) plus 1e-16 / STEP
# (rounding). At this step the two balance: over all cases of this file the deviation
# is at most a quarter of RTOL |gradient| + ATOL.
STEP = 3e-6
RTOL = 2e-7
ATOL = 4e-9

N_ROWS, N_INPUTS, N_HIDDEN, N_CLASSES = 5, 4, 3, 3
N_GATES = (6, 5, 4)
SEED = 3


# ---------------------------------------------------------------------------
# Problems, and differences
# ---------------------------------------------------------------------------


def random_parameters(rng, n_inputs, n_gates):
    """Parameters large enough that every part of the network matters."""
    layers = []
    for n_units in n_gates:
        layers.append(
            LayerParameters(
                hidden_weight=rng.normal(size=(N_HIDDEN, n_inputs)) / n_inputs**0.5,
                hidden_bias=0.3 * rng.normal(size=N_HIDDEN),
                gate_weight=rng.normal(size=(n_units, N_HIDDEN)),
                gate_bias=0.5 * rng.normal(size=n_units),
                expert_weight=rng.normal(size=(n_units, n_inputs)),
                expert_bias=0.5 * rng.normal(size=n_units),
            )
        )
        n_inputs = n_units
    return Parameters(
        layers=layers,
        readout_weight=rng.normal(size=(n_inputs, N_CLASSES)),
        readout_bias=0.3 * rng.normal(size=N_CLASSES),
    )


def random_noise(rng, gater, n_units, n_rows, with_additive):
    """Noise that the gater's unit reads."""
    needs = oracle.REQUIRED_NOISE[gater.unit]
    shape = (n_units, n_rows)
    uniform = rng.uniform(size=shape) if "uniform" in needs else None
    additive = None
    if "additive" in needs or with_additive:
        # Not centred: the noise of Appendix A.2 is not.
        additive = rng.normal(0.2, gater.noise_scale, size=shape)
    baseline = rng.normal(size=n_units) if gater.estimator == "reinforce" else None
    probe = rng.uniform(size=shape) if gater.credit == "probe" else None
    return LayerNoise(uniform, additive, baseline, probe)


def random_problem(gaters, with_additive=False, seed=SEED):
    """Arguments of `oracle.forward` for a network of the given gaters."""
    rng = np.random.default_rng(seed)
    n_gates = N_GATES[: len(gaters)]
    params = random_parameters(rng, N_INPUTS, n_gates)
    for layer, gater in zip(params.layers, gaters, strict=True):
        if gater.unit == "hard_concrete":  # or nearly all would fire
            layer.gate_bias -= gater.temperature * math.log(11)
    X = rng.normal(size=(N_ROWS, N_INPUTS))
    y = rng.integers(N_CLASSES, size=N_ROWS)
    noises = [
        random_noise(rng, gater, n_units, N_ROWS, with_additive)
        for gater, n_units in zip(gaters, n_gates, strict=True)
    ]
    return params, X, y, gaters, noises


def differences(function, params):
    """Central differences of `function(params)`, in the shape of `params`."""
    params = copy.deepcopy(params)
    gradient = copy.deepcopy(params)
    pairs = zip(params.named_arrays(), gradient.named_arrays(), strict=True)
    for (_, array), (_, slot) in pairs:
        for index in np.ndindex(array.shape):
            original = array[index]
            array[index] = original + STEP
            above = function(params)
            array[index] = original - STEP
            below = function(params)
            array[index] = original
            slot[index] = (above - below) / (2 * STEP)
    return gradient


def assert_same_gradient(actual, expected, may_vanish=()):
    """Compare two gradients, none of whose arrays may be trivially zero."""
    pairs = zip(actual.named_arrays(), expected.named_arrays(), strict=True)
    for (name, array), (_, reference) in pairs:
        np.testing.assert_allclose(array, reference, rtol=RTOL, atol=ATOL, err_msg=name)
        if name not in may_vanish:
            assert np.abs(reference).max() > 1e-4, f"{name}: nothing was compared"


def subtract(first, second):
    """Difference of two gradients."""
    result = copy.deepcopy(first)
    pairs = zip(result.named_arrays(), second.named_arrays(), strict=True)
    for (_, array), (_, other) in pairs:
        array -= other
    return result


def criterion_with_fixed_gates(X, y, gaters, noises, base):
    """Criterion as a function of the parameters; gates may not switch.

    A difference across a kink of a rectifier or a jump of a draw would be
    meaningless, so it fails here rather than as a small deviation.
    """

    def function(params):
        result = oracle.forward(params, X, y, gaters, noises)
        for layer, original in zip(result.layers, base.layers, strict=True):
            assert np.array_equal(layer.active, original.active)
        return result.criterion

    return function


def assert_gates_are_mixed(result, gaters):
    """Both fired and silent gates occur, or the comparison shows little."""
    for layer, gater in zip(result.layers, gaters, strict=True):
        if gater.unit not in oracle.DENSE:
            assert 0.1 < layer.active.mean() < 0.9


def assert_not_clipped(result, gaters):
    """No KL penalty is flat because its q is clipped, where q can move."""
    for layer, gater in zip(result.layers, gaters, strict=True):
        if gater.penalty == "kl" and gater.unit not in (*oracle.DENSE, "rectifier"):
            q = layer.probability.mean(axis=1)
            assert np.all((q > 0.01) & (q < 0.99))


# ---------------------------------------------------------------------------
# Forward pass
# ---------------------------------------------------------------------------

NOISY_GAUSSIAN = Gater("noisy_rectifier", "pathwise", "l1", penalty_weight=0.3)
NOISY_LOGISTIC = Gater(
    "noisy_rectifier",
    "pathwise",
    "kl",
    density=0.2,
    penalty_weight=0.2,
    noise="logistic",
    noise_scale=0.7,
)
STS_GATE = Gater("sts", "pathwise", "kl", penalty_weight=0.2, noise_on="gate")
STS_DRAW = Gater("sts", "pathwise", "kl", penalty_weight=0.2, noise_on="draw")
BERNOULLI = Gater("bernoulli", "straight_through", "kl", penalty_weight=0.2)
BERNOULLI_L1 = Gater("bernoulli", "straight_through", "l1", penalty_weight=0.2)
RECTIFIER = Gater("rectifier", "pathwise", "l1", penalty_weight=0.3)
SIGMOID = Gater("sigmoid", "pathwise")
REINMAX = Gater("bernoulli", "reinmax", "kl", penalty_weight=0.2)
CONCRETE = Gater("concrete", "pathwise", temperature=0.6)
CONCRETE_ST = Gater(
    "bernoulli", "concrete_st", "kl", penalty_weight=0.2, temperature=0.6
)
HARD_CONCRETE = Gater(
    "hard_concrete", "pathwise", "kl", penalty_weight=0.2, temperature=0.6
)


def sigmoid_by_hand(a):
    """Textbook sigmoid."""
    return 1.0 / (1.0 + math.exp(-a))


def dot_by_hand(first, second):
    """Sum of products of two sequences."""
    return sum(x * y for x, y in zip(first, second, strict=True))


def unit_by_hand(gater, a, uniform, additive):
    """Gate output and firing probability of one gate for one row."""
    if gater.unit == "noisy_rectifier":
        family = stats.norm if gater.noise == "gaussian" else stats.logistic
        return max(0.0, a + additive), 1.0 - family.cdf(-a, scale=gater.noise_scale)
    if gater.unit == "rectifier":
        return max(0.0, a), 1.0 if a > 0 else 0.0
    if gater.unit == "bernoulli":
        p = sigmoid_by_hand(a)
        return (1.0 if uniform < p else 0.0), p
    if gater.unit == "sigmoid":
        return sigmoid_by_hand(a + additive), 1.0
    if gater.unit == "concrete":
        return sigmoid_by_hand((a + additive) / gater.temperature), 1.0
    if gater.unit == "hard_concrete":
        noise = math.log((1 - uniform) / uniform)
        s = sigmoid_by_hand((a + noise) / gater.temperature)
        chance = sigmoid_by_hand(a - gater.temperature * math.log(0.1 / 1.1))
        return min(1.0, max(0.0, s * (1.1 - -0.1) - 0.1)), chance
    chance = math.sqrt(sigmoid_by_hand(a + additive))
    smooth = sigmoid_by_hand(a if gater.noise_on == "draw" else a + additive)
    return (math.sqrt(smooth) if uniform < chance else 0.0), chance


def penalty_by_hand(gater, gates, chances):
    """Penalty of one unit from its outputs and firing probabilities."""
    if gater.penalty is None:
        return 0.0
    if gater.penalty == "l1":
        values = chances if gater.unit == "bernoulli" else gates
        return gater.penalty_weight * sum(values) / len(values)
    s, q = gater.density, sum(chances) / len(chances)
    q = min(max(q, 1e-6), 1 - 1e-6)
    return -gater.penalty_weight * (s * math.log(q) + (1 - s) * math.log(1 - q))


def forward_by_hand(params, X, y, gaters, noises):
    """Loss and criterion by scalar loops, row by row and unit by unit."""
    rows = [list(row) for row in X]
    criterion = 0.0
    for layer, gater, noise in zip(params.layers, gaters, noises, strict=True):
        outputs = [[] for _ in rows]
        for k in range(len(layer.gate_bias)):
            gates, chances = [], []
            for b, row in enumerate(rows):
                a = layer.gate_bias[k]
                for m, bias in enumerate(layer.hidden_bias):
                    total = bias + dot_by_hand(layer.hidden_weight[m], row)
                    a += layer.gate_weight[k, m] * math.tanh(total)
                uniform = None if noise.uniform is None else noise.uniform[k, b]
                additive = 0.0 if noise.additive is None else noise.additive[k, b]
                gate, chance = unit_by_hand(gater, a, uniform, additive)
                expert = dot_by_hand(layer.expert_weight[k], row)
                outputs[b].append(gate * (expert + layer.expert_bias[k]))
                gates.append(gate)
                chances.append(chance)
            criterion += penalty_by_hand(gater, gates, chances)
        rows = outputs
    loss = 0.0
    for row, label in zip(rows, y, strict=True):
        logits = [
            bias + dot_by_hand(params.readout_weight[:, c], row)
            for c, bias in enumerate(params.readout_bias)
        ]
        partition = sum(math.exp(logit) for logit in logits)
        loss -= math.log(math.exp(logits[label]) / partition) / len(rows)
    return loss, loss + criterion


@pytest.mark.parametrize("n_layers", [1, 2, 3])
@pytest.mark.parametrize(
    ("gater", "with_additive"),
    [
        (NOISY_GAUSSIAN, True),
        (NOISY_LOGISTIC, True),
        (STS_GATE, False),
        (STS_GATE, True),
        (STS_DRAW, True),
        (BERNOULLI, False),
        (BERNOULLI_L1, False),
        (RECTIFIER, False),
        (SIGMOID, False),
        (SIGMOID, True),
        (REINMAX, False),
        (CONCRETE, True),
        (CONCRETE_ST, False),
        (HARD_CONCRETE, False),
    ],
)
def test_forward_equals_scalar_loops(gater, with_additive, n_layers):
    """Loss and criterion are those of plain Python loops."""
    problem = random_problem([gater] * n_layers, with_additive)
    result = oracle.forward(*problem)
    loss, criterion = forward_by_hand(*problem)
    assert result.loss == pytest.approx(loss, rel=1e-12)
    assert result.criterion == pytest.approx(criterion, rel=1e-12)
    assert result.row_loss.shape == (N_ROWS,)
    assert result.loss == pytest.approx(result.row_loss.mean(), rel=1e-14)
    assert (criterion > loss + 1e-3) == (gater.penalty is not None)
    for layer in result.layers:
        always = gater.unit in oracle.DENSE
        np.testing.assert_array_equal(layer.active, always | (layer.h != 0))


@pytest.mark.parametrize(
    ("gater", "replaces"),
    [
        (NOISY_GAUSSIAN, False),
        (STS_GATE, True),
        (STS_DRAW, False),
        (SIGMOID, True),
        (CONCRETE, True),
    ],
    ids=["noisy rectifier", "sts gate", "sts draw", "sigmoid", "concrete"],
)
def test_a_contains_the_noise_where_it_replaces_a(gater, replaces):
    """`LayerResult.a` is what the unit, or its smooth half, was applied to."""
    params, X, y, gaters, noises = random_problem([gater], with_additive=True)
    _, expected = oracle.gater_pre_activation(params.layers[0], X)
    if replaces:
        expected = expected + noises[0].additive
    layer = oracle.forward(params, X, y, gaters, noises).layers[0]
    np.testing.assert_allclose(layer.a, expected, rtol=1e-14)


def test_defaults_of_a_gater():
    """The defaults are the paper's density, and no variant of anything."""
    assert Gater("sts", "pathwise") == Gater(
        unit="sts",
        estimator="pathwise",
        penalty=None,
        density=0.1,
        penalty_weight=0.0,
        noise="gaussian",
        noise_scale=1.0,
        noise_on="gate",
        credit="all",
        probe_rate=1.0,
        sigmoid_derivative=False,
    )


@pytest.mark.parametrize(
    "gater", [BERNOULLI, STS_GATE, STS_DRAW], ids=["bernoulli", "sts gate", "sts draw"]
)
def test_drawn_units_fire_with_their_probability_and_have_mean_p(gater):
    """Over an even grid of uniforms, shares and means are exact to 1 / n."""
    n = 10_000
    noise = LayerNoise(uniform=((np.arange(n) + 0.5) / n)[None, :])
    for a in (-4.0, -1.0, 0.0, 2.0):
        _, gate = oracle.apply_unit(np.full((1, n), a), noise, gater)
        chance = gate.probability[0, 0]
        np.testing.assert_allclose(gate.active.mean(), chance, atol=1e-4)
        np.testing.assert_allclose(gate.h.mean(), expit(a), atol=1e-4)


def test_float32_parameters_become_float64():
    """Parameters of the kernels can be passed on without a loss of precision."""
    layer = LayerParameters(*(np.ones(2, np.float32) for _ in range(6)))
    params = Parameters([layer], np.ones((2, 3), np.float32), np.ones(3, np.float32))
    assert {array.dtype for _, array in params.named_arrays()} == {np.dtype(float)}
    assert LayerNoise(uniform=np.ones(2, np.float32)).uniform.dtype == np.float64


def test_cross_entropy_does_not_overflow():
    """Logits far apart give a finite loss."""
    loss = oracle.cross_entropy(np.array([[2000.0, 0.0]]), np.array([1]))
    np.testing.assert_allclose(loss, [2000.0])


@pytest.mark.parametrize(
    "arguments",
    [
        {"unit": "step", "estimator": "pathwise"},
        {"unit": "sts", "estimator": "backprop"},
        {"unit": "sts", "estimator": "pathwise", "penalty": "l2"},
        {"unit": "noisy_rectifier", "estimator": "pathwise", "noise": "beta"},
        {"unit": "sts", "estimator": "pathwise", "noise_on": "input"},
        {"unit": "sts", "estimator": "straight_through", "credit": "some"},
        {"unit": "bernoulli", "estimator": "pathwise"},
        {"unit": "sts", "estimator": "reinforce"},
        {"unit": "sigmoid", "estimator": "pathwise", "noise_on": "draw"},
        {"unit": "sts", "estimator": "pathwise", "credit": "active"},
        {"unit": "bernoulli", "estimator": "reinforce", "sigmoid_derivative": True},
        {"unit": "bernoulli", "estimator": "reinforce", "credit": "probe"},
        {"unit": "bernoulli", "estimator": "local_expectation", "credit": "active"},
        {"unit": "bernoulli", "estimator": "reinmax", "sigmoid_derivative": True},
        {"unit": "sts", "estimator": "reinmax"},
        {"unit": "hard_concrete", "estimator": "concrete_st"},
        {"unit": "concrete", "estimator": "pathwise", "credit": "active"},
    ],
)
def test_gater_refuses_what_has_no_meaning(arguments):
    """A misspelt or meaningless choice raises instead of being ignored."""
    with pytest.raises(ValueError):
        Gater(**arguments)


@pytest.mark.parametrize(
    ("gater", "noise", "message"),
    [
        (NOISY_GAUSSIAN, {}, "needs"),
        (NOISY_GAUSSIAN, {"additive", "uniform"}, "ignore"),
        (RECTIFIER, {"additive"}, "ignore"),
        (BERNOULLI, {"uniform", "additive"}, "ignore"),
        (BERNOULLI, {"uniform", "baseline"}, "ignore"),
        (STS_GATE, {"additive"}, "needs"),
        (HARD_CONCRETE, {"uniform", "additive"}, "ignore"),
        (CONCRETE, {"uniform"}, "ignore"),
    ],
)
def test_noise_that_would_be_ignored_is_refused(gater, noise, message):
    """Missing noise and needless noise raise."""
    arrays = {name: np.full((2, 2), 0.5) for name in noise}
    with pytest.raises(ValueError, match=message):
        oracle.apply_unit(np.zeros((2, 2)), LayerNoise(**arrays), gater)


@pytest.mark.parametrize("credit", ["all", "probe"])
def test_probes_without_their_credit_are_refused(credit):
    """And the other way round."""
    gater = Gater("bernoulli", "straight_through", credit=credit)
    half = np.full((2, 2), 0.5)
    noise = LayerNoise(uniform=half, probe=half if credit == "all" else None)
    with pytest.raises(ValueError, match="probes"):
        oracle.apply_unit(np.zeros((2, 2)), noise, gater)


# ---------------------------------------------------------------------------
# Pathwise gradients
# ---------------------------------------------------------------------------


def pathwise_cases():
    """Every combination whose criterion is differentiable given the noise."""
    for noise, chosen in itertools.product(("gaussian", "logistic"), ("l1", "kl")):
        gater = Gater(
            "noisy_rectifier",
            "pathwise",
            chosen,
            density=0.2,
            penalty_weight=0.3,
            noise=noise,
            noise_scale=0.7,
        )
        yield pytest.param(gater, True, id=f"noisy rectifier-{noise}-{chosen}")
    for chosen in (None, "l1", "kl"):
        for unit in ("rectifier", "sigmoid"):
            gater = Gater(unit, "pathwise", chosen, penalty_weight=0.3)
            yield pytest.param(gater, False, id=f"{unit}-{chosen}")
        noisy = Gater("sigmoid", "pathwise", chosen, penalty_weight=0.3)
        yield pytest.param(noisy, True, id=f"sigmoid with noise-{chosen}")
        for unit, temperature in itertools.product(
            ("concrete", "hard_concrete"), (0.5, 1.2)
        ):
            gater = Gater(
                unit, "pathwise", chosen, penalty_weight=0.3, temperature=temperature
            )
            name = f"{unit} at {temperature}-{chosen}"
            yield pytest.param(gater, unit == "concrete", id=name)
        for noise_on, with_additive in (
            ("gate", False),
            ("draw", False),
            ("gate", True),
            ("draw", True),
        ):
            gater = Gater(
                "sts", "pathwise", chosen, penalty_weight=0.3, noise_on=noise_on
            )
            name = f"sts-{noise_on if with_additive else f'no noise {noise_on}'}"
            yield pytest.param(gater, with_additive, id=f"{name}-{chosen}")


@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize(("gater", "with_additive"), list(pathwise_cases()))
def test_pathwise_gradient_equals_differences(gater, with_additive, n_layers):
    """Every parameter of every layer, penalties included."""
    params, X, y, gaters, noises = random_problem([gater] * n_layers, with_additive)
    result = oracle.loss_and_gradient(params, X, y, gaters, noises)
    assert_gates_are_mixed(result, gaters)
    assert_not_clipped(result, gaters)
    function = criterion_with_fixed_gates(X, y, gaters, noises, result)
    assert_same_gradient(result.gradient, differences(function, params))


def test_pathwise_gradient_of_layers_that_differ():
    """Each layer uses its own gater and its own noise."""
    params, X, y, gaters, noises = random_problem(
        [NOISY_LOGISTIC, SIGMOID, STS_DRAW], with_additive=True
    )
    result = oracle.loss_and_gradient(params, X, y, gaters, noises)
    assert_gates_are_mixed(result, gaters)
    assert_not_clipped(result, gaters)
    function = criterion_with_fixed_gates(X, y, gaters, noises, result)
    assert_same_gradient(result.gradient, differences(function, params))


def test_clipped_unit_has_a_constant_penalty_and_is_still_pulled_back():
    """KL is flat, not infinite, within 1e-6 of 0 and 1; its gradient goes on."""
    a = np.array([[-18.0, -16.0], [0.3, -1.0], [16.0, 18.0]])
    gater = Gater("bernoulli", "reinforce", "kl", density=0.1, penalty_weight=2.0)
    _, gate = oracle.apply_unit(a, LayerNoise(uniform=np.full((3, 2), 0.5)), gater)
    q = np.array([1e-6, expit(a[1]).mean(), 1 - 1e-6])
    expected = -2.0 * (0.1 * np.log(q) + 0.9 * np.log(1 - q)).sum()
    assert oracle.penalty(gate, gater) == pytest.approx(expected, rel=1e-12)

    gradient = oracle.penalty_gradient(gate, gater)
    slope = 2.0 * (0.9 / (1 - q) - 0.1 / q) / 2
    p = np.exp(-np.abs(a)) / (1 + np.exp(-np.abs(a)))
    np.testing.assert_allclose(gradient, slope[:, None] * p * (1 - p), rtol=1e-9)
    # Down on a would silence a dead unit further, up would saturate a full one.
    assert np.all(gradient[0] < -1e-4)
    assert np.all(gradient[2] > 1e-4)


# ---------------------------------------------------------------------------
# Straight-through
# ---------------------------------------------------------------------------


def pretended_move(gater, a, layer, noise):
    """How far a gate's value moves with a, as its estimator pretends.

    a - a_0, or sigm(a) - sigm(a_0) for the variant with the derivative; s(a) - s(a_0)
    with the concrete sample s; ReinMax's factor at a_0 times a - a_0.
    """
    if gater.estimator == "concrete_st":
        logistic = np.log((1 - noise.uniform) / noise.uniform)
        samples = [expit((v + logistic) / gater.temperature) for v in (a, layer.a)]
        return samples[0] - samples[1]
    if gater.estimator == "reinmax":
        p = expit(layer.a)
        middle = (layer.h + p) / 2
        return (2 * middle * (1 - middle) - p * (1 - p) / 2) * (a - layer.a)
    if gater.sigmoid_derivative:
        return expit(a) - expit(layer.a)
    return a - layer.a


def relaxed_criterion(X, y, gaters, noises, base):
    """Criterion in which h moves with a as the estimator pretends.

    With credit "active" only the gates that fired move.
    """

    def function(params):
        x, total_penalty = X, 0.0
        for parameters, noise, gater, layer in zip(
            params.layers, noises, gaters, base.layers, strict=True
        ):
            _, clean_a = oracle.gater_pre_activation(parameters, x)
            a, gate = oracle.apply_unit(clean_a, noise, gater)
            assert np.array_equal(gate.active, layer.active)
            total_penalty += oracle.penalty(gate, gater)
            moved = pretended_move(gater, a, layer, noise)
            if gater.credit == "active":
                moved = moved * layer.active
            if gater.credit == "probe":
                moved = moved * oracle.probe_weights(gate, noise.probe, gater)
            x = ((layer.h + moved) * oracle.expert_output(parameters, x)).T
        logits = x @ params.readout_weight + params.readout_bias
        return oracle.cross_entropy(logits, y).mean() + total_penalty

    return function


def straight_through_cases():
    """Both variants, both credits, all penalties, and units with their noise."""
    units = [
        ("bernoulli", False, "gate"),
        ("sts", True, "gate"),
        ("sts", True, "draw"),
        ("noisy_rectifier", True, "gate"),
        ("rectifier", False, "gate"),
        ("sigmoid", True, "gate"),
    ]
    for (
        unit,
        with_additive,
        noise_on,
    ), derivative, credit, chosen in itertools.product(
        units, (False, True), ("all", "active", "probe"), (None, "kl", "l1")
    ):
        if unit != "bernoulli" and chosen is None:
            continue
        gater = Gater(
            unit,
            "straight_through",
            chosen,
            density=0.2,
            penalty_weight=0.3,
            noise_on=noise_on,
            credit=credit,
            probe_rate=0.4,
            sigmoid_derivative=derivative,
        )
        variant = "derivative" if derivative else "identity"
        name = f"{unit} {noise_on}-{variant}-{credit}-{chosen}"
        yield pytest.param(gater, with_additive, id=name)
    for estimator, credit, chosen in itertools.product(
        ("reinmax", "concrete_st"), ("all", "active"), (None, "kl", "l1")
    ):
        gater = Gater("bernoulli", estimator, chosen, penalty_weight=0.3, credit=credit)
        yield pytest.param(gater, False, id=f"{estimator}-{credit}-{chosen}")


@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize(("gater", "with_additive"), list(straight_through_cases()))
def test_straight_through_is_the_gradient_of_a_relaxed_criterion(
    gater, with_additive, n_layers
):
    """Every parameter of every layer, penalties included."""
    params, X, y, gaters, noises = random_problem([gater] * n_layers, with_additive)
    result = oracle.loss_and_gradient(params, X, y, gaters, noises)
    assert_gates_are_mixed(result, gaters)
    assert_not_clipped(result, gaters)
    function = relaxed_criterion(X, y, gaters, noises, result)
    assert function(params) == pytest.approx(result.criterion, rel=1e-14)
    assert_same_gradient(result.gradient, differences(function, params))


# ---------------------------------------------------------------------------
# REINFORCE
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("n_layers", [1, 2, 3])
@pytest.mark.parametrize("chosen", ["kl", "l1"])
def test_penalty_of_a_reinforce_gater_equals_differences(chosen, n_layers):
    """With gates fixed, the penalty adds its own gradient and nothing else."""
    gater = Gater("bernoulli", "reinforce", chosen, density=0.2, penalty_weight=0.3)
    params, X, y, gaters, noises = random_problem([gater] * n_layers)
    unpenalised = [Gater("bernoulli", "reinforce")] * n_layers
    result = oracle.loss_and_gradient(params, X, y, gaters, noises)
    without = oracle.loss_and_gradient(params, X, y, unpenalised, noises)
    assert_gates_are_mixed(result, gaters)
    assert_not_clipped(result, gaters)
    criterion = criterion_with_fixed_gates(X, y, gaters, noises, result)
    loss = criterion_with_fixed_gates(X, y, unpenalised, noises, without)
    # The top layer's experts and the readout are above every penalty.
    top = f"layers[{n_layers - 1}].expert_"
    assert_same_gradient(
        subtract(result.gradient, without.gradient),
        differences(lambda changed: criterion(changed) - loss(changed), params),
        may_vanish=(top + "weight", top + "bias", "readout_weight", "readout_bias"),
    )


def gate_configurations(n_gates, n_rows):
    """Yield, for every configuration, the uniforms of each layer that force it.

    The uniform 0 lies below every probability and 1 above every one.
    """
    sizes = [n_units * n_rows for n_units in n_gates]
    for bits in itertools.product((0.0, 1.0), repeat=sum(sizes)):
        parts = np.split(np.array(bits), np.cumsum(sizes)[:-1])
        yield [part.reshape(-1, n_rows) for part in parts]


def probability_of(result):
    """Probability of the configuration that a step has drawn."""
    chance = 1.0
    for layer in result.layers:
        p = layer.probability
        chance *= np.where(layer.h == 1.0, p, 1.0 - p).prod()
    return chance


def expected_loss(params, X, y, gaters, configurations):
    """Sum over configurations of probability times loss, and of probability."""
    total, total_chance = 0.0, 0.0
    for uniforms in configurations:
        noises = [LayerNoise(uniform=uniform) for uniform in uniforms]
        result = oracle.forward(params, X, y, gaters, noises)
        total += probability_of(result) * result.loss
        total_chance += probability_of(result)
    assert total_chance == pytest.approx(1.0, rel=1e-12)
    return total


def expected_estimate(params, X, y, gaters, configurations, baselines):
    """Sum over configurations of probability times estimated gradient, and da."""
    expected = copy.deepcopy(params)
    for _, array in expected.named_arrays():
        array[...] = 0.0
    expected_da = 0.0
    for uniforms in configurations:
        noises = [
            LayerNoise(uniform=uniform, baseline=baseline)
            for uniform, baseline in zip(uniforms, baselines, strict=True)
        ]
        result = oracle.loss_and_gradient(params, X, y, gaters, noises)
        chance = probability_of(result)
        expected_da = expected_da + chance * result.layers[0].da
        pairs = zip(
            expected.named_arrays(), result.gradient.named_arrays(), strict=True
        )
        for (_, array), (_, gradient) in pairs:
            array += chance * gradient
    return expected, expected_da


@pytest.mark.parametrize(
    ("n_gates", "n_rows"),
    [((4,), 1), ((2,), 2), ((2, 3), 1)],
    ids=["one layer", "two rows", "two layers"],
)
def test_reinforce_is_unbiased_for_any_baseline(n_gates, n_rows):
    """Theorem 1 and Corollary 1, exactly: all configurations of the gates.

    With two layers the lower gates learn by REINFORCE, while the lower experts
    are reached through the upper experts and through the upper gates' da.
    """
    rng = np.random.default_rng(SEED)
    params = random_parameters(rng, 2, n_gates)
    X = rng.normal(size=(n_rows, 2))
    y = rng.integers(N_CLASSES, size=n_rows)
    gaters = [Gater("bernoulli", "reinforce")] * len(n_gates)
    configurations = list(gate_configurations(n_gates, n_rows))
    assert len(configurations) == 2 ** (n_rows * sum(n_gates))

    exact = differences(
        lambda changed: expected_loss(changed, X, y, gaters, configurations), params
    )
    for baselines in (
        [None] * len(n_gates),
        [rng.normal(size=n_units) for n_units in n_gates],
        [np.full(n_units, 50.0) for n_units in n_gates],
    ):
        estimate, expected_da = expected_estimate(
            params, X, y, gaters, configurations, baselines
        )
        assert_same_gradient(estimate, exact)
        if n_rows == 1:
            # One row: the bias of a gate moves a and nothing else.
            np.testing.assert_allclose(
                expected_da[:, 0], exact.layers[0].gate_bias, rtol=RTOL, atol=ATOL
            )


def test_reinforce_uses_each_units_baseline():
    """An ignored baseline would be unbiased too: look at a single draw."""
    params, X, y, gaters, noises = random_problem([Gater("bernoulli", "reinforce")])
    centred = oracle.loss_and_gradient(params, X, y, gaters, noises).layers[0]
    plain_noises = [LayerNoise(uniform=noises[0].uniform)]
    plain = oracle.loss_and_gradient(params, X, y, gaters, plain_noises).layers[0]
    expected = -(plain.h - plain.probability) * noises[0].baseline[:, None] / N_ROWS
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(centred.da - plain.da, expected, atol=1e-14)


def test_reinforce_averages_of_two_batches():
    """Both kinds, two batches, by direct summation."""
    rng = np.random.default_rng(SEED)
    h = rng.integers(2, size=(2, 3, 4)).astype(float)
    p = rng.uniform(size=(2, 3, 4))
    row_loss = rng.uniform(1, 2, size=(2, 4))
    for kind in ("unit", "mean"):
        numerator, denominator = np.zeros(3), np.zeros(3)
        for i in range(2):
            numerator, denominator = oracle.reinforce_averages(
                h[i], p[i], row_loss[i], numerator, denominator, 0.9, kind
            )
        for k in range(3):
            sums = [0.0, 0.0]
            for i, b in itertools.product(range(2), range(4)):
                weight = (h[i, k, b] - p[i, k, b]) ** 2 if kind == "unit" else 1.0
                share = 0.1 * (0.9 if i == 0 else 1.0) / 4
                sums[0] += share * weight * row_loss[i, b]
                sums[1] += share * weight
            assert numerator[k] == pytest.approx(sums[0], rel=1e-12)
            assert denominator[k] == pytest.approx(sums[1], rel=1e-12)
    with pytest.raises(ValueError):
        oracle.reinforce_averages(
            h[0], p[0], row_loss[0], numerator, denominator, 0.9, "median"
        )


def test_reinforce_baseline_before_the_first_batch_is_zero():
    """0 / 0 is 0, without a warning; elsewhere the quotient."""
    baseline = oracle.reinforce_baseline(np.array([0.0, 3.0]), np.array([0.0, 2.0]))
    np.testing.assert_array_equal(baseline, [0.0, 1.5])


def test_eq_10_has_the_smallest_variance():
    """A batch with exact frequencies (p = 1/4): no other baseline does better."""
    # Every configuration of two gates, as often as its probability says.
    h = np.array([first for first in itertools.product((1, 0, 0, 0), repeat=2)]).T
    p = np.full(h.shape, 0.25)
    # A loss of the configuration, in which the two gates interact.
    row_loss = 1.0 + 2.0 * h[0] - 0.7 * h[1] + 1.3 * h[0] * h[1]
    zeros = np.zeros(2)
    best, other = (
        oracle.reinforce_baseline(
            *oracle.reinforce_averages(h, p, row_loss, zeros, zeros, 0.0, kind)
        )
        for kind in ("unit", "mean")
    )

    def variance(baseline):
        return ((h - p) * (row_loss - baseline[:, None])).var(axis=1)

    assert np.all(variance(best) < variance(other))
    for change in (-1e-3, 1e-3):
        assert np.all(variance(best) < variance(best + change))


# ---------------------------------------------------------------------------
# Local expectation, and probes
# ---------------------------------------------------------------------------


def test_local_expectation_is_unbiased():
    """Over all configurations of the gates of one row."""
    rng = np.random.default_rng(SEED)
    params = random_parameters(rng, 2, (4,))
    X, y = rng.normal(size=(1, 2)), np.array([1])
    gaters = [Gater("bernoulli", "local_expectation")]
    configurations = list(gate_configurations((4,), 1))
    exact = differences(
        lambda changed: expected_loss(changed, X, y, gaters, configurations), params
    )
    estimate, _ = expected_estimate(params, X, y, gaters, configurations, [None])
    assert_same_gradient(estimate, exact)


@pytest.mark.parametrize("estimator", ["straight_through", "local_expectation"])
def test_mean_over_probes_is_the_gradient_with_full_credit(estimator):
    """Both outcomes of each probe, weighed by their probability."""
    full = Gater("bernoulli", estimator)
    params, X, y, gaters, noises = random_problem([full])
    expected = oracle.loss_and_gradient(params, X, y, gaters, noises)
    assert_gates_are_mixed(expected, gaters)
    probing, mean = [Gater("bernoulli", estimator, credit="probe", probe_rate=0.3)], 0.0
    for outcome, chance in ((0.0, 0.3), (1.0, 0.7)):
        probe = np.full(noises[0].uniform.shape, outcome)
        given = [LayerNoise(uniform=noises[0].uniform, probe=probe)]
        found = oracle.loss_and_gradient(params, X, y, probing, given)
        mean = mean + chance * found.layers[0].da
    np.testing.assert_allclose(mean, expected.layers[0].da, rtol=1e-12, atol=1e-16)


# ---------------------------------------------------------------------------
# Prediction
# ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gater", "density"),
    [
        (Gater("noisy_rectifier", "pathwise", noise_scale=0.7), stats.norm),
        (NOISY_LOGISTIC, stats.logistic),
    ],
    ids=["gaussian", "logistic"],
)
@pytest.mark.parametrize("a", [-2.0, -0.3, 0.0, 1.5])
def test_mean_of_the_noisy_rectifier_is_the_integral(gater, density, a):
    """E[max(0, a + z)] by quadrature."""
    expected, _ = integrate.quad(
        lambda z: (a + z) * density.pdf(z, scale=gater.noise_scale),
        -a,
        40.0,
        points=[0.0, 3.0] if a > 0 else None,
        epsabs=1e-12,
    )
    value = oracle.gate_value(np.array([[a]]), "mean", gater)
    np.testing.assert_allclose(value, [[expected]], rtol=1e-9)


@pytest.mark.parametrize("temperature", [0.3, 2 / 3, 2.0])
@pytest.mark.parametrize("a", [-6.0, -2.0, -0.3, 0.0, 1.5, 4.0])
def test_mean_of_a_hard_concrete_gate_is_the_integral(a, temperature):
    """E[min(1, max(0, stretched s))] over the logistic noise, by quadrature."""
    gater = Gater("hard_concrete", "pathwise", temperature=temperature)

    def integrand(noise):
        s = expit((a + noise) / temperature)
        return min(1.0, max(0.0, 1.2 * s - 0.1)) * stats.logistic.pdf(noise)

    edges = [-a - temperature * math.log(11), -a + temperature * math.log(11)]
    expected, _ = integrate.quad(
        integrand, -40.0, 40.0, points=[*edges, 0.0], epsabs=1e-13, limit=200
    )
    value = oracle.gate_value(np.array([[a]]), "mean", gater)
    np.testing.assert_allclose(value, [[expected]], rtol=1e-9)


@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize(
    ("gater", "value", "noise_mean"),
    [
        (Gater("noisy_rectifier", "pathwise"), "rectified", 0.0),
        (Gater("rectifier", "pathwise"), "rectified", 0.0),
        (Gater("sts", "pathwise"), "root", -0.4),
        (Gater("sts", "pathwise", noise_on="draw"), "root", -0.4),
        (Gater("bernoulli", "reinforce"), "one", 0.0),
        (Gater("sigmoid", "pathwise"), "probability", -0.4),
        (Gater("concrete", "pathwise", temperature=1.0), "probability", -0.4),
    ],
)
def test_prediction_equals_training_with_the_same_gates(
    gater, value, noise_mean, n_layers
):
    """Training forward with noise at its mean and gates forced by the threshold.

    Thresholds differ between layers. The rectifiers' are 0, where the gates of
    training are the same without force; the sigmoid's is none.
    """
    gaters = [gater] * n_layers
    params, X, y, _, _ = random_problem(gaters, gater.unit == "noisy_rectifier")
    if "rectifier" in gater.unit:
        thresholds = [0.0, 0.0]
    elif gater.unit in oracle.DENSE:
        thresholds = [-np.inf, -np.inf]
    else:
        thresholds = [0.3, -0.2]
    noises, x = [], X
    for layer, threshold in zip(params.layers, thresholds, strict=False):
        _, a = oracle.gater_pre_activation(layer, x)
        active = a + noise_mean > threshold
        needs = oracle.REQUIRED_NOISE[gater.unit]
        takes_mean = "additive" in needs or noise_mean != 0.0
        noise = LayerNoise(
            uniform=np.where(active, 0.0, 1.0) if "uniform" in needs else None,
            additive=np.full(a.shape, noise_mean) if takes_mean else None,
        )
        noises.append(noise)
        result = oracle.forward_layer(layer, x, noise, gater)
        if gater.unit not in oracle.DENSE:
            assert 0.1 < active.mean() < 0.9
            np.testing.assert_array_equal(result.active, active)
        x = result.y
    logits = oracle.forward(params, X, y, gaters, noises).logits
    probabilities = oracle.predict_proba(
        params,
        X,
        gaters,
        thresholds[:n_layers],
        [value] * n_layers,
        [noise_mean] * n_layers,
    )
    np.testing.assert_allclose(probabilities, softmax(logits, axis=1), rtol=1e-12)


@pytest.mark.parametrize(
    ("gater", "value", "by_hand"),
    [
        (STS_GATE, "mean", lambda a, score: expit(score)),
        (STS_DRAW, "mean", lambda a, score: expit(a)),
        (NOISY_LOGISTIC, "mean", lambda a, score: 0.7 * np.log1p(np.exp(score / 0.7))),
        (
            HARD_CONCRETE,
            "clamped",
            lambda a, score: np.minimum(1, np.maximum(0, 1.2 * expit(score) - 0.1)),
        ),
    ],
    ids=["sts gate", "sts draw", "noisy rectifier", "hard concrete"],
)
def test_prediction_with_the_mean_value(gater, value, by_hand):
    """Score, strict threshold and value of one layer, by hand."""
    params, X, _, _, _ = random_problem([gater], with_additive=True)
    layer = params.layers[0]
    a = layer.gate_weight @ np.tanh(
        layer.hidden_weight @ X.T + layer.hidden_bias[:, None]
    )
    a += layer.gate_bias[:, None]
    score = a + 0.25
    # The threshold is one of the scores: that gate must not be active.
    threshold = np.sort(score, axis=None)[score.size // 2]
    h = np.where(score > threshold, by_hand(a, score), 0.0)
    logits = (
        h * (layer.expert_weight @ X.T + layer.expert_bias[:, None])
    ).T @ params.readout_weight + params.readout_bias
    probabilities = oracle.predict_proba(
        params, X, [gater], [threshold], [value], [0.25]
    )
    np.testing.assert_allclose(probabilities, softmax(logits, axis=1), rtol=1e-12)


def test_prediction_refuses_a_value_of_another_unit():
    """A Bernoulli gate has no rectified value."""
    with pytest.raises(ValueError, match="bernoulli"):
        oracle.gate_value(np.zeros((1, 1)), "rectified", BERNOULLI)


# ---------------------------------------------------------------------------
# Updates
# ---------------------------------------------------------------------------

SOLVERS = {
    "plain sgd": {"solver": "sgd", "momentum": 0.0, "nesterovs_momentum": False},
    "plain nesterov": {"solver": "sgd", "momentum": 0.0, "nesterovs_momentum": True},
    "momentum": {"solver": "sgd", "momentum": 0.8, "nesterovs_momentum": False},
    "nesterov": {"solver": "sgd", "momentum": 0.8, "nesterovs_momentum": True},
    "adam": {"solver": "adam", "momentum": 0.0, "nesterovs_momentum": False},
}
RATE, BETA_1, BETA_2, EPSILON = 0.05, 0.9, 0.99, 1e-3


def dense_row(weight, gradients, settings):
    """A row after its gradients, without recursions: sums over all of them."""
    momentum = settings["momentum"]
    for t in range(1, len(gradients) + 1):
        past = [(t - i, gradients[i - 1]) for i in range(1, t + 1)]
        if settings["solver"] == "adam":
            first = (1 - BETA_1) * sum(BETA_1**age * g for age, g in past)
            second = (1 - BETA_2) * sum(BETA_2**age * g**2 for age, g in past)
            rate = RATE * math.sqrt(1 - BETA_2**t) / (1 - BETA_1**t)
            weight = weight - rate * first / (np.sqrt(second) + EPSILON)
            continue
        if settings["nesterovs_momentum"]:
            # The step is that of the velocity one step ahead.
            past = [(age + 1, g) for age, g in past] + [(0, gradients[t - 1])]
        weight = weight - RATE * sum(momentum**age * g for age, g in past)
    return weight


@pytest.mark.parametrize("mask", ["all rows", "some rows"])
@pytest.mark.parametrize("name", SOLVERS)
def test_updates_equal_dense_sums_over_the_active_steps(name, mask):
    """All rows active: the dense update. Otherwise each row as if it slept.

    The gradients of inactive rows are not numbers, so that reading one shows.
    """
    rng = np.random.default_rng(SEED)
    n_steps, shape = 7, (5, 3)
    start = rng.normal(size=shape)
    gradients = rng.normal(size=(n_steps, *shape))
    active = np.ones((n_steps, len(start)), dtype=bool)
    if mask == "some rows":
        active = rng.uniform(size=active.shape) < 0.5
        active[:, 0], active[:, 1] = True, False
        gradients[~active] = np.nan
    weight, state = start, oracle.new_optimiser_state(start)
    for gradient, rows in zip(gradients, active, strict=True):
        weight, state = oracle.update(
            weight,
            gradient,
            state,
            rows,
            learning_rate=RATE,
            beta_1=BETA_1,
            beta_2=BETA_2,
            epsilon=EPSILON,
            **SOLVERS[name],
        )
    for k in range(len(start)):
        expected = dense_row(start[k], gradients[active[:, k], k], SOLVERS[name])
        np.testing.assert_allclose(weight[k], expected, rtol=1e-12)
    if SOLVERS[name]["solver"] == "adam":
        np.testing.assert_array_equal(state.step_count, active.sum(axis=0))


@pytest.mark.parametrize("name", SOLVERS)
def test_updates_leave_their_arguments_and_inactive_rows_alone(name):
    """Weights and state of inactive rows are bit-identical after an update."""
    rng = np.random.default_rng(SEED)
    weight = rng.normal(size=(4, 3))
    gradient = rng.normal(size=(4, 3))
    state = oracle.OptimiserState(
        *(rng.uniform(0.5, 1, size=(4, 3)) for _ in range(3)), [3, 1, 4, 1]
    )
    before = copy.deepcopy((weight, gradient, state))
    rows = np.array([True, False, True, False])
    new_weight, new_state = oracle.update(
        weight,
        gradient,
        state,
        rows,
        learning_rate=RATE,
        beta_1=BETA_1,
        beta_2=BETA_2,
        epsilon=EPSILON,
        **SOLVERS[name],
    )
    assert np.all(new_weight[rows] != weight[rows])
    np.testing.assert_array_equal(new_weight[~rows], weight[~rows])
    np.testing.assert_array_equal(weight, before[0])
    np.testing.assert_array_equal(gradient, before[1])
    changed = set()
    for field in ("velocity", "first_moment", "second_moment", "step_count"):
        old, new = getattr(state, field), getattr(new_state, field)
        np.testing.assert_array_equal(old, getattr(before[2], field))
        np.testing.assert_array_equal(new[~rows], old[~rows])
        if np.all(new[rows] != old[rows]):
            changed.add(field)
    adam = {"first_moment", "second_moment", "step_count"}
    assert changed == (adam if SOLVERS[name]["solver"] == "adam" else {"velocity"})


def test_update_refuses_an_unknown_solver():
    """A misspelt solver is not Adam by accident."""
    weight = np.zeros((1, 1))
    settings = SOLVERS["adam"] | {"solver": "adamw"}
    with pytest.raises(ValueError, match="adamw"):
        oracle.update(
            weight,
            weight,
            oracle.new_optimiser_state(weight),
            np.array([True]),
            learning_rate=RATE,
            beta_1=BETA_1,
            beta_2=BETA_2,
            epsilon=EPSILON,
            **settings,
        )


def test_max_norm_shortens_only_long_active_rows():
    """Long rows keep their direction; short, zero and inactive rows all."""
    weight = np.array([[3.0, 4.0], [0.6, 0.8], [0.0, 0.0], [6.0, 8.0], [0.0, 2.0]])
    active = np.array([True, True, True, False, True])
    original = weight.copy()
    result = oracle.max_norm(weight, 2.0, active)
    np.testing.assert_allclose(result[0], [1.2, 1.6], rtol=1e-14)
    np.testing.assert_array_equal(result[1:], original[1:])
    np.testing.assert_array_equal(weight, original)


# ---------------------------------------------------------------------------
# Control of the density
# ---------------------------------------------------------------------------


def test_firing_rate_control_by_hand():
    """The bias follows the rate that contains this mini-batch."""
    bias, rate = oracle.firing_rate_control(
        gate_bias=np.array([1.0, -1.0]),
        rate=np.array([0.2, 0.0]),
        fired_share=np.array([0.5, 0.0]),
        s=0.1,
        step=2.0,
        decay=0.75,
    )
    np.testing.assert_allclose(rate, [0.275, 0.0], rtol=1e-14)
    np.testing.assert_allclose(bias, [1.0 - 2.0 * 0.175, -1.0 + 2.0 * 0.1], rtol=1e-14)
    _, rate = oracle.firing_rate_control(np.zeros(1), np.ones(1), np.zeros(1), 0.1, 1.0)
    np.testing.assert_allclose(rate, [0.9], rtol=1e-14)


def test_firing_rate_control_reaches_the_target():
    """Closed loop with a gate that fires with probability sigm(bias)."""
    bias, rate = np.array([2.0, -6.0]), np.array([0.5, 0.5])
    for _ in range(2000):
        bias, rate = oracle.firing_rate_control(bias, rate, expit(bias), 0.1, 0.1)
    np.testing.assert_allclose(expit(bias), 0.1, atol=1e-6)


@pytest.mark.parametrize(
    ("density", "expected"),
    [(0.25, 2.5), (0.15, 2.0), (0.1, 2.0), (0.06, 2.0), (0.04, 1.6)],
)
def test_adaptive_weight_by_hand(density, expected):
    """Up above the band, down below it, unchanged inside."""
    weight = oracle.adaptive_weight(2.0, density, 0.1, 0.25, 0.1, 9.0, tolerance=0.051)
    assert weight == pytest.approx(expected, rel=1e-14)


def test_adaptive_weight_is_clipped_and_has_the_papers_tolerance():
    """Limits on both sides; a band of 0.01 unless told otherwise."""
    assert oracle.adaptive_weight(2.0, 0.5, 0.1, 0.25, 0.1, 2.2) == 2.2
    assert oracle.adaptive_weight(2.0, 0.0, 0.1, 0.25, 1.9, 2.2) == 1.9
    assert oracle.adaptive_weight(2.0, 0.109, 0.1, 0.25, 0.1, 9.0) == 2.0
    assert oracle.adaptive_weight(2.0, 0.111, 0.1, 0.25, 0.1, 9.0) == 2.5
    assert oracle.adaptive_weight(2.0, 0.091, 0.1, 0.25, 0.1, 9.0) == 2.0
    assert oracle.adaptive_weight(2.0, 0.089, 0.1, 0.25, 0.1, 9.0) == 1.6
