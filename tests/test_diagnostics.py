"""Each estimator against its definition, and the comparison of estimators."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from estimator_definitions import (
    DEFINITIONS,
    ON_A_GRID,
    Example,
    own_concrete,
    own_finite_differences,
    own_local_expectation,
    own_mean_baseline,
    own_node_perturbation,
    own_probe,
    own_reinforce,
    own_spsa,
    own_unit_baseline,
)
from gate_problems import DENSE_UNITS, arrays, make_problem
from helpers import Shape, make, make_batch, make_network, oracle_noise
from scipy.special import expit

from stochnet import GatedMLPClassifier, diagnostics
from stochnet._kernels.enumeration import enumerate_gates
from stochnet.diagnostics import (
    ESTIMATORS,
    GateProblem,
    compare_estimators,
    estimation_cost,
    exact_gradient,
)

N_DRAWS = 20000


def moments(definition, problem):
    """Mean (rows, gates); squared distance from it, and that one's variance (rows,)."""
    means, variances, spreads = [], [], []
    for row in range(len(problem.a)):
        weight, estimate = definition(Example(problem, row))
        assert weight.sum() == pytest.approx(1, abs=1e-12)
        mean = weight @ estimate
        square = ((estimate - mean) ** 2).sum(axis=1)
        means.append(mean)
        variances.append(weight @ square)
        spreads.append(weight @ square**2 - (weight @ square) ** 2)
    return np.array(means), np.array(variances), np.array(spreads)


def check_moments(name, definition, problem, options=None):
    """z-scores below 4.5 for each mean, and for the variance, summed over gates.

    Of 6 means and one variance; false alarms have probability 5e-5. For the variance
    there is 1% for the grids and for the estimate of a baseline.
    """
    mean, variance, spread = moments(definition, problem)
    result = compare_estimators(problem, [name], N_DRAWS, 1, options)[name]
    z = (result["mean"] - mean) / result["standard_error"]
    assert np.abs(z).max() < 4.5
    error = np.sqrt(spread.mean() / len(spread) / N_DRAWS)
    slack = 0.01 * variance.mean()
    assert abs(result["variance"] - variance.mean()) < 4.5 * error + slack
    return result, mean


@pytest.mark.parametrize("name", ESTIMATORS)
def test_mean_and_variance_are_those_of_the_definition(name):
    """For baselines one example, as they are averages over those of a batch."""
    baseline = name in ("reinforce_mean", "reinforce_unit")
    problem = make_problem(
        1 if baseline else 3, 2 if name in ON_A_GRID else 3, 4, seed=11
    )
    result, mean = check_moments(name, DEFINITIONS[name], problem)
    row = ESTIMATORS[name]
    exact = exact_gradient(problem, row.unit)[1]
    np.testing.assert_allclose(result["bias"], result["mean"] - exact, atol=1e-14)
    # the definition is unbiased where the table says so, and else it is not
    bias = np.abs(mean - exact).max()
    assert bias < 1e-4 if row.unbiased else bias > 2e-3


def test_unbiased_estimators_of_many_gates():
    """Largest |z| of 108 means at 20000 draws: below 4.5, probability 7e-4."""
    problem = make_problem(3, 6)
    unbiased = [
        name
        for name, row in ESTIMATORS.items()
        if row.unbiased and row.unit == "bernoulli"
    ]
    results = compare_estimators(problem, unbiased, n_draws=N_DRAWS)
    assert len(results) == 6
    for name, result in results.items():
        z = result["bias"] / result["standard_error"]
        assert np.abs(z).max() < 4.5, name
        assert result["cosine"] > 0.97
        assert result["squared_bias"] < 1e-3 * result["variance"]


@pytest.mark.parametrize(
    ("name", "definition", "options"),
    [
        ("spsa", lambda e: own_spsa(e, 0.25), {"size": 0.25}),
        (
            "node_perturbation",
            lambda e: own_node_perturbation(e, 1.0),
            {"size": 1.0},
        ),
        (
            "finite_differences",
            lambda e: own_finite_differences(e, 0.1),
            {"size": 0.1},
        ),
        ("local_expectation_probe", lambda e: own_probe(e, 0.4), {"probability": 0.4}),
        ("concrete", lambda e: own_concrete(e, 1.0), {"temperature": 1.0}),
        ("reinforce", own_reinforce(lambda *_: 2.0), {"baseline": 2.0}),
    ],
)
def test_options(name, definition, options):
    problem = make_problem(3, 2, 4, seed=12)
    check_moments(name, definition, problem, {name: options})


@pytest.mark.parametrize("name", ["concrete_relaxed", "hard_concrete"])
def test_temperature_reaches_the_exact_gradient(name):
    """As the mean shows, 20000 draws of 6 gradients: below 4.5."""
    problem = make_problem(3, 2, 4, seed=13)
    options = {name: {"temperature": 1.5}}
    result = compare_estimators(problem, [name], N_DRAWS, options=options)[name]
    assert np.abs(result["bias"] / result["standard_error"]).max() < 4.5
    default = exact_gradient(problem, ESTIMATORS[name].unit)[1]
    assert np.abs((result["mean"] - default) / result["standard_error"]).max() > 9


def test_noise_scale_reaches_estimate_and_exact_gradient():
    problem = GateProblem(*arrays(make_problem(3, 2, 4, seed=14)), noise_scale=3.0)
    result = compare_estimators(problem, ["noisy_rectifier"], N_DRAWS)
    result = result["noisy_rectifier"]
    assert np.abs(result["bias"] / result["standard_error"]).max() < 4.5
    default = exact_gradient(GateProblem(*arrays(problem)), "noisy_rectifier")[1]
    assert np.abs((result["mean"] - default) / result["standard_error"]).max() > 9


def test_perturbations_are_of_order_size_squared():
    """Halving the size quarters the bias of the definitions that were checked above."""
    problem = make_problem(1, 3, 4, seed=15)
    exact = exact_gradient(problem)[1]
    for definition in (own_spsa, own_finite_differences):
        biases = [
            np.abs(
                moments(lambda e, f=definition, s=size: f(e, s), problem)[0] - exact
            ).max()
            for size in (0.2, 0.1)
        ]
        assert biases[0] / biases[1] == pytest.approx(4, rel=0.05)


def test_perturbations_of_spsa_are_plus_and_minus_size():
    """Quotients of one difference by +size and -size: magnitudes equal, signs fair."""
    problem = make_problem(1, 8)
    generator = np.random.default_rng(0)
    z = generator.random((500, *problem.a.shape))
    estimates = ESTIMATORS["spsa"].function(problem, z, generator, size=0.7)
    magnitudes = np.abs(estimates)
    np.testing.assert_allclose(magnitudes, magnitudes[..., :1].repeat(8, axis=2))
    signs = np.sign(estimates * estimates[..., :1])[np.any(estimates, axis=2)]
    assert set(signs[:, 1:].ravel()) == {-1, 1}
    assert abs(signs[:, 1:].mean()) < 4.5 / np.sqrt(signs[:, 1:].size)


def test_eq_10_is_the_best_baseline():
    """Exact variances: none, the mean loss, Eq. 10, and a bit beside Eq. 10."""
    problem = make_problem(1, 3, 4, seed=16)

    def beside(*arguments):
        return own_unit_baseline(*arguments) + 0.05

    baselines = [own_unit_baseline, beside, own_mean_baseline, lambda *_: 0.0]
    variances = [moments(own_reinforce(b), problem)[1][0] for b in baselines]
    assert variances[0] < min(variances[1:])


def test_local_expectation_is_the_conditional_mean_of_reinforce():
    problem = make_problem(3, 5, seed=2)
    mean, variance, _ = moments(DEFINITIONS["reinforce"], problem)
    local_mean, local_variance, _ = moments(own_local_expectation, problem)
    np.testing.assert_allclose(mean, local_mean, atol=1e-12)
    assert (local_variance < variance).all()


# ---- the comparison itself ----


def test_wrong_arguments():
    problem = make_problem(1, 21)
    with pytest.raises(ValueError, match="at most 20 gates, got 21"):
        exact_gradient(problem)
    with pytest.raises(ValueError, match="'st': .* at most 20 gates, got 21"):
        compare_estimators(problem)
    for unit in DENSE_UNITS:
        with pytest.raises(ValueError, match="at most 3 gates, got 4"):
            exact_gradient(make_problem(1, 4), unit)
    with pytest.raises(ValueError, match="unit must be one of 'bernoulli', 'sts', 'no"):
        exact_gradient(make_problem(), "rectifier")
    with pytest.raises(ValueError, match=r"no parameters, got \['temperature'\]"):
        exact_gradient(make_problem(), temperature=1)
    with pytest.raises(ValueError, match=r"Unknown estimators \['no'\]"):
        compare_estimators(make_problem(), ["no"])
    with pytest.raises(ValueError, match=r"Unknown estimators \['no'\]"):
        compare_estimators(make_problem(), ["st"], options={"no": {}})
    with pytest.raises(ValueError, match=r"'spsa' has no option 'no'; .*\['size'\]"):
        compare_estimators(make_problem(), ["spsa"], options={"spsa": {"no": 1}})
    with pytest.raises(ValueError, match="n_draws must be at least 2"):
        compare_estimators(make_problem(), n_draws=1)
    for q in (0, 1.5):
        options = {"local_expectation_probe": {"probability": q}}
        with pytest.raises(ValueError, match="probability must be in"):
            compare_estimators(make_problem(), list(options), options=options)


def test_estimators_without_a_truth_are_left_out_or_refused():
    small, large = (
        compare_estimators(make_problem(1, n, 3), n_draws=2) for n in (3, 4)
    )
    assert list(small) == list(ESTIMATORS)
    dense = {n for n, row in ESTIMATORS.items() if row.unit in DENSE_UNITS}
    assert dense == {"noisy_rectifier", "concrete_relaxed", "hard_concrete"}
    assert set(large) == set(ESTIMATORS) - dense
    for name in dense:
        with pytest.raises(ValueError, match=f"'{name}': .*at most 3 gates, got 4"):
            compare_estimators(make_problem(1, 4), [name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": np.zeros((3, 4))}, "Shapes do not fit"),
        ({"base": np.zeros(4)}, "Shapes do not fit"),
        ({"contribution": np.zeros((5, 4))}, "Shapes do not fit"),
        ({"target": [0, 1, 4]}, r"outside \[0, 4\)"),
        ({"target": [0, -1, 1]}, r"outside \[0, 4\)"),
        ({"noise_scale": 0.0}, "noise_scale must be positive"),
    ],
)
def test_wrong_problems(change, message):
    known = vars(make_problem()).copy()
    with pytest.raises(ValueError, match=message):
        GateProblem(**(known | change))


def test_wrong_arguments_of_the_enumeration():
    p = make_problem()
    with pytest.raises(ValueError, match="Shapes do not fit"):
        enumerate_gates(p.base, p.contribution, p.a[:, :2], p.a, p.target)
    with pytest.raises(ValueError, match=r"outside \[0, 4\)"):
        enumerate_gates(p.base, p.contribution, p.a, p.a, p.target + 4)


def test_differences_of_some_gates_are_those_of_all():
    problem = make_problem()
    rng = np.random.default_rng(0)
    h, where = rng.integers(0, 2, (2, 7, *problem.a.shape))
    h, where = h.astype(float), where == 1
    found, some = problem.difference(h), problem.difference(h, where)
    np.testing.assert_allclose(some, np.where(where, found, 0), rtol=1e-13, atol=1e-15)
    for draw in range(7):
        expected = own_difference(problem, h[draw])
        np.testing.assert_allclose(found[draw], expected, atol=1e-13)


def own_difference(problem, h):
    rows = [Example(problem, b).difference(h[b : b + 1]) for b in range(len(h))]
    return np.concatenate(rows)


def test_restricted_problem_has_the_losses_of_the_whole():
    problem = make_problem()
    rng = np.random.default_rng(1)
    h = rng.random(problem.a.shape)
    some = problem.restrict([3, 1], h)
    np.testing.assert_allclose(some.loss(h[:, [3, 1]]), problem.loss(h), rtol=1e-12)
    np.testing.assert_array_equal(some.a, problem.a[:, [3, 1]])
    typical = (problem.a > 0).astype(float)
    some = problem.restrict([0])
    np.testing.assert_allclose(some.loss(typical[:, :1]), problem.loss(typical))


@pytest.mark.parametrize("n", [4, 9])
def test_counted_costs(n):
    """Perturbations of all gates take 2 losses of n gates, single ones 2 n of them."""
    names = ["st", "reinforce_unit", "spsa", "node_perturbation", "finite_differences"]
    names += ["local_expectation", "disarm"]
    problem = make_problem(2, n)
    costs = estimation_cost(problem, names, n_draws=3, n_repeats=2)
    expected = {
        "st": (1, 2 * n),  # there and back
        "reinforce_unit": (1, n),
        "spsa": (2, 2 * n),
        "node_perturbation": (2, 2 * n),
        "finite_differences": (2 * n, 2 * n**2),
        "local_expectation": (n + 1, 2 * n),
        "disarm": (2, 2 * n),
    }
    for name, cost in costs.items():
        counts = cost["loss_evaluations"], cost["gate_contributions"]
        assert counts == expected[name], name
        assert cost["seconds"] > 0
    results = compare_estimators(problem, names, n_draws=300)
    for name, result in results.items():
        counts = result["loss_evaluations"], result["gate_contributions"]
        assert counts == expected[name], name
        assert result["variance_seconds"] == result["variance"] * result["seconds"]


def test_probe_looks_at_the_expected_number_of_gates():
    """1 + sum of p + (1 - p) q; 6000 independent gates, |z| below 4.5."""
    problem = make_problem(1, 6)
    name = "local_expectation_probe"
    result = compare_estimators(problem, [name], n_draws=1000)[name]
    looked = expit(problem.a[0]) * 0.9 + 0.1
    error = np.sqrt((looked * (1 - looked)).sum() / 1000)
    assert abs(result["loss_evaluations"] - 1 - looked.sum()) < 4.5 * error


def test_cost_is_measured_for_any_number_of_gates():
    problem = make_problem(1, 40)
    costs = estimation_cost(problem, ESTIMATORS, n_draws=2, n_repeats=1)
    assert list(costs) == list(ESTIMATORS)
    with pytest.raises(ValueError, match="Unknown"):
        estimation_cost(problem, ["no"])


# ---- networks ----


@pytest.mark.parametrize("experts_per_gate", [1, 4])
@pytest.mark.parametrize("n_layers", [1, 2])
def test_problem_of_a_network(n_layers, experts_per_gate):
    """Losses of sampled gates are the network's own."""
    shape = Shape(
        6, 7, (5, 4)[:n_layers], (12, 8)[-n_layers:], 3, (experts_per_gate,) * n_layers
    )
    network = make_network(make("st"), shape)
    for layer in network.layers[:-1]:
        layer.threshold = 0.1
    X, y = make_batch(shape)
    problem = GateProblem.from_network(network, X, y)
    last = network.layers[-1]
    last.threshold = 0.2
    h = (problem.a > 0.2).astype(float)
    proba = network.predict_proba(X)
    expected = -np.log(proba[np.arange(len(y)), y])
    np.testing.assert_allclose(problem.loss(h), expected, rtol=2e-5)


@pytest.mark.parametrize("experts_per_gate", [1, 3])
def test_training_estimates_local_expectations(experts_per_gate):
    """The engine's own da, with the gates that it sampled, against flipped losses."""
    shape = Shape(9, 7, (5,), (12,), 4, (experts_per_gate,))
    gater = make("sbn", estimator="local_expectation", penalty=None)
    network = make_network(gater, shape)
    X, y = make_batch(shape)
    problem = GateProblem.from_network(network, X, y)
    found = network.gradient(X, y, step=3)
    z = oracle_noise(network, len(X), 3)[0].uniform
    h = (z.T < expit(problem.a)).astype(float)
    np.testing.assert_array_equal(found["gates"][0], h.T)
    p = expit(problem.a)
    expected = p * (1 - p) * own_difference(problem, h) / len(X)
    np.testing.assert_allclose(found["da"][0], expected.T, rtol=1e-4, atol=1e-7)


def fitted_or_not(fitted, **options):
    X, y = make_batch(Shape(n_rows=40))
    labels = np.array(["c", "a", "b"])[y]
    options |= {"density": 0.4, "random_state": 0, "max_iter": 2}
    model = GatedMLPClassifier((16, 12), gater_hidden_size=4, **options)
    if fitted:
        model.partial_fit(X, labels, classes=["a", "b", "c"])
    return model, X, labels


def test_problem_of_a_fitted_estimator():
    """Its losses with the gates of prediction are the estimator's own."""
    model, X, labels = fitted_or_not(True)
    problem = GateProblem.from_estimator(model, X, labels)
    h = model.gates(X)[-1].toarray()
    codes = np.searchsorted(["a", "b", "c"], labels)
    chosen = model.predict_proba(X)[np.arange(40), codes]
    np.testing.assert_allclose(problem.loss(h), -np.log(chosen), rtol=2e-5)
    with pytest.raises(ValueError, match=r"not classes: \['d'\]"):
        GateProblem.from_estimator(model, X, np.where(labels == "a", "d", labels))


@pytest.mark.parametrize("gater", ["st", "noisy_rectifier"])
def test_problem_of_an_estimator_that_is_not_fitted(gater):
    """That of its first network, whose first layer fires as densely as it is to."""
    model, X, labels = fitted_or_not(False, gater=gater)
    if gater == "noisy_rectifier":
        model.set_params(noise_scale=0.5)
    problem = GateProblem.from_estimator(model, X, labels)
    assert not model.__sklearn_is_fitted__()
    assert problem.noise_scale == (0.5 if gater == "noisy_rectifier" else 1.0)
    assert problem.a.shape == (40, 12)
    model.set_params(learning_rate_init=1e-30, gater_learning_rate_init=1e-30)
    model.set_params(penalty=None, max_norm=None, firing_rate_step=0)
    trained = GateProblem.from_estimator(model.fit(X, labels), X, labels)
    for first, second in zip(arrays(problem), arrays(trained), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)


def test_display():
    pytest.importorskip("matplotlib").use("Agg")
    display = diagnostics.GradientEstimatorDisplay(
        compare_estimators(make_problem(2, 3), n_draws=10)
    ).plot()
    assert len(display.ax_.lines) == len(ESTIMATORS)
    drawn = dict(zip(display.results, display.ax_.lines, strict=True))
    assert drawn["st"].get_fillstyle() == "full"
    for name, row in ESTIMATORS.items():
        assert not row.unbiased or drawn[name].get_fillstyle() == "none"
    model, X, labels = fitted_or_not(True)
    display = diagnostics.GradientEstimatorDisplay.from_estimator(
        model, X, labels, estimators=["st", "spsa"], n_draws=10, ax=display.ax_
    )
    assert [text.get_text() for text in display.ax_.texts[-2:]] == ["st", "spsa"]
    assert set(display.results) == {"st", "spsa"}


def test_example(monkeypatch, capsys, tmp_path):
    """With little of everything: each estimator in its cases, and orders of cost."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    path = Path(__file__).parents[1] / "examples" / "estimators.py"
    if not path.exists():
        pytest.skip("no examples here")
    spec = importlib.util.spec_from_file_location("estimators", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    monkeypatch.setattr(example, "CASES", [((128,), 0.3), ((128, 128), 0.3)])
    monkeypatch.setattr(example, "PLOTTED", ((128,), 0.3))
    monkeypatch.setattr(example, "N_GATES", (4, 8, 16, 32))
    output = tmp_path / "figure.png"
    arguments = ["--draws", "100", "--rows", "3", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["estimators.py", *arguments])
    example.main()
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    for name, row in ESTIMATORS.items():
        found = [line for line in lines if line[0] == name and len(line) == 8]
        assert len(found) == (1 if row.unit in DENSE_UNITS else 2)
        assert all((line[2] == "none") == row.unbiased for line in found)
    orders = {line[0]: float(line[-1]) for line in lines if line[0] in example.COSTS}
    assert orders.pop("finite_differences") == 2
    assert set(orders.values()) == {1}
    assert output.stat().st_size > 10000
