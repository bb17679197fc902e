"""The oracle's forward pass and prediction against scalar loops and closed formulas."""

import math

import numpy as np
import oracle
import pytest
from oracle import Gater, LayerNoise, LayerParameters, Parameters
from oracle_problems import (
    BERNOULLI,
    BERNOULLI_L1,
    CONCRETE,
    CONCRETE_ST,
    HARD_CONCRETE,
    N_ROWS,
    NOISY_GAUSSIAN,
    NOISY_LOGISTIC,
    RECTIFIER,
    REINMAX,
    SIGMOID,
    STS_DRAW,
    STS_GATE,
    random_problem,
)
from scipy import integrate, stats
from scipy.special import expit, softmax


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
