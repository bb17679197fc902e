"""credit="probe": what did not fire is known by a sample, weighted by its rate.

Which gates are probed is a function of (key, step, layer, row) as all noise is, so the
experts that a mini-batch computes are known apart from the kernels.
"""

from dataclasses import replace

import numpy as np
import pytest
from helpers import (
    Shape,
    assert_near,
    assert_same_bits,
    copy_of_state,
    make,
    make_batch,
    make_network,
    make_problem,
    oracle_noise,
)
from network_checks import BLOCKS, BOUND, SETTINGS, check_step, compare, train_both
from sklearn.datasets import load_digits
from sklearn.preprocessing import StandardScaler
from test_simd import run

from stochnet import GatedMLPClassifier
from stochnet._kernels import engine
from stochnet.gaters import ESTIMATORS, GATERS, make_gater
from stochnet.network import Optimizer

EXPECTATION = ("sbn", {"estimator": "local_expectation"})
PROBING = {"st": ("st", {}), "local expectation": EXPECTATION}

# The lower layers' blocks of 16 are read block by block by the layers above.
ST_SHAPES = {
    "1 layer": Shape(9, 7, (5,), (14,), 3),
    "2 layers": Shape(18, 9, (6, 5), (21, 18), 3),
    "blocks": Shape(21, 20, (7, 5), (160, 33), 4, (16, 3)),
    "classes": Shape(21, 7, (5,), (28,), 70),
    "3 layers": Shape(35, 30, (6, 9, 3), (224, 96, 26), 3, (32, 16, 13)),
}
SHAPES = {f"st, {name}": ("st", shape) for name, shape in ST_SHAPES.items()}
for experts_per_gate in (1, 3, 16):
    SHAPES[f"local expectation, {experts_per_gate}"] = (
        "local expectation",
        Shape(19, 7, (5,), (13 * experts_per_gate,), 4, (experts_per_gate,)),
    )
SHAPES["local expectation, classes"] = (
    "local expectation",
    Shape(19, 7, (5,), (42,), 70, (3,)),
)


def make_probing(kind, credit="probe", **options):
    name, own = PROBING[kind]
    if credit == "all" and kind == "local expectation":
        credit = "auto"
    return make(name, credit=credit, **own, **options)


def probed_and_fired(network, X, y, step):
    """(probed but not fired, fired) of each layer, from the noise of the step."""
    found = []
    gates = network.gradient(X, y, step=step)["gates"]
    for layer, h, noise in zip(
        network.layers, gates, oracle_noise(network, len(X), step), strict=True
    ):
        rate = np.float32(layer.gater.probe_rate)
        found.append(((noise.probe < rate) & (h == 0), h != 0))
    return found


# ---------------------------------------------------------------------------
# Against the oracle
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("probe_rate", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("case", SHAPES)
def test_step_equals_the_oracle(case, probe_rate):
    kind, shape = SHAPES[case]
    gater = make_probing(kind, probe_rate=probe_rate)
    decays = {"main": Optimizer(alpha=0.3), "gater_optimizer": Optimizer(alpha=0.1)}
    network, X, y = make_problem(gater, shape, step=4, **decays)
    check_step(network, X, y, step=4)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("case", ["st, 2 layers", "st, blocks", "local expectation, 3"])
def test_training_equals_the_simulation(case, setting):
    kind, shape = SHAPES[case]
    options, main, gater_optimizer = SETTINGS[setting]
    gater = make_probing(kind, **options)
    orders = [None, np.random.default_rng(5).integers(shape.n_rows, size=17)]
    network, simulation = train_both(gater, shape, main, gater_optimizer, orders, 8)
    compare(network, simulation)


@pytest.mark.parametrize("sigmoid_derivative", [False, True])
@pytest.mark.parametrize("blocks", BLOCKS)
def test_probing_always_is_full_credit(blocks, sigmoid_derivative):
    options = {"sigmoid_derivative": sigmoid_derivative}
    results = []
    for credit in ("probe", "all"):
        gater = make_probing("st", credit, probe_rate=1.0, **options)
        network = make_network(gater, BLOCKS[blocks])
        results.append(network.gradient(*make_batch(BLOCKS[blocks]), step=2))
    check_same_gradients(*results)


@pytest.mark.parametrize("experts_per_gate", [1, 3])
def test_probing_always_is_local_expectation(experts_per_gate):
    shape = Shape(19, 7, (5,), (12,), 4, (experts_per_gate,))
    results = []
    for credit in ("probe", "all"):
        network = make_network(
            make_probing("local expectation", credit, probe_rate=1.0), shape
        )
        results.append(network.gradient(*make_batch(shape), step=2))
    check_same_gradients(*results)


def check_same_gradients(found, expected):
    for mine, other in zip(found["da"], expected["da"], strict=True):
        assert_near(mine, other, BOUND, "da")
    for name, (weight, _) in expected["gradient"].items():
        assert np.abs(weight).max() > 0
        assert_near(found["gradient"][name][0], weight, BOUND, name)


# ---------------------------------------------------------------------------
# The mean over probes
# ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case", ["st, 1 layer", "st, 2 layers", "st, blocks", "local expectation, 3"]
)
def test_mean_over_probes_is_full_credit(case):
    """Same gates, other credit: da's difference, over 800 steps, has mean zero.

    Largest |z| of the gates' means over rows and of the gates' weights, which are at
    most 33 + 33 * 5 a layer: below 4.5, probability 3e-3 if all were independent.
    """
    kind, shape = SHAPES[case]
    X, y = make_batch(shape)
    probing, full = (
        make_network(make_probing(kind, credit, penalty=None), shape)
        for credit in ("probe", "all")
    )
    differences = []
    for step in range(800):
        pair = [network.gradient(X, y, step=step) for network in (probing, full)]
        for mine, other in zip(*(g["gates"] for g in pair), strict=True):
            np.testing.assert_array_equal(mine, other)
        differences.append(
            [
                np.subtract(*(g["gradient"][name][i] for g in pair)).astype(float)
                for name in pair[0]["gradient"]
                if name.endswith("gate")
                for i in (0, 1)
            ]
        )
    for samples in zip(*differences, strict=True):
        samples = np.array(samples)
        error = samples.std(axis=0, ddof=1) / len(samples) ** 0.5
        assert (error > 0).all()
        assert np.abs(samples.mean(axis=0) / error).max() < 4.5


def test_probes_are_independent_of_the_gates_and_as_many_as_asked_for():
    """8000 gates of a rate of 0.2: share within 4.5 standard errors, given any h."""
    shape = Shape(200, 7, (5,), (40,), 3)
    network = make_network(make_probing("st", probe_rate=0.2), shape)
    X, y = make_batch(shape)
    network.train(X, y, batch_size=200)
    reads = network._training_kernels[2].workspace[0]["reads"]
    fired = network.layers[0].fired
    shut = shape.n_rows * 40 - fired.sum()
    share = (reads - fired).sum() / shut
    assert abs(share - 0.2) < 4.5 * (0.2 * 0.8 / shut) ** 0.5
    noise = oracle_noise(network, 200, 0)[0]
    assert abs(np.corrcoef(noise.uniform.ravel(), noise.probe.ravel())[0, 1]) < 0.05


# ---------------------------------------------------------------------------
# What is read, and what is kept
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("case", SHAPES)
def test_training_reads_the_active_and_the_probed(case):
    kind, shape = SHAPES[case]
    network = make_network(make_probing(kind), shape)
    X, y = make_batch(shape)
    found = probed_and_fired(network, X, y, 0)
    network.train(X, y, batch_size=len(X))
    workspace = network._training_kernels[2].workspace
    for (probed, fired), layer, w in zip(found, network.layers, workspace, strict=True):
        size = layer.experts_per_gate
        expected = size * (probed | fired).sum(axis=1)
        np.testing.assert_array_equal(w["reads"], expected)
        np.testing.assert_array_equal(layer.fired, fired.sum(axis=1))
        assert (probed | fired).mean() < 0.8
        assert probed.any()


@pytest.mark.parametrize("solver", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("case", SHAPES)
def test_experts_that_nobody_computed_are_not_read(case, solver):
    """They hold NaN, and everything else is the same bits as without."""
    kind, shape = SHAPES[case]
    gater = make_probing(kind, probe_rate=0.05, density=0.1)
    main = SETTINGS[solver][1]
    networks = [make_network(gater, shape, main=main) for _ in range(2)]
    for network in networks:
        for layer in network.layers:
            layer.gate.bias_values[:] -= 2.0
    X, y = make_batch(shape, n_rows=3)
    for step in range(100):
        found = probed_and_fired(networks[0], X, y, step)
        unread = [~(probed | fired).any(axis=1) for probed, fired in found]
        if all(0 < u.mean() < 1 for u in unread) and any(p.any() for p, _ in found):
            break
    else:
        raise AssertionError("No step leaves some experts of each layer alone.")
    for i, layer in enumerate(networks[1].layers):
        experts = np.repeat(unread[i], layer.experts_per_gate)
        layer.expert.values[experts] = layer.expert.bias_values[experts] = np.nan
    networks[1].readout.values[experts] = np.nan  # of the last layer's
    for network in networks:
        network.step = step
        network.train(X, y, batch_size=len(X))
    states = [copy_of_state(network) for network in networks]
    for state in states:
        for i, layer in enumerate(networks[1].layers):
            for name in state:
                if name.startswith(f"{i}.expert."):
                    rows = np.repeat(unread[i], layer.experts_per_gate)
                    state[name][: len(rows)][rows] = 0
        for name in ("readout.weight", "readout.weight_state[0]"):
            if name in state:
                state[name][experts] = 0
    assert_same_bits(*states)


@pytest.mark.parametrize("case", ["st, 2 layers", "st, blocks", "local expectation, 3"])
@pytest.mark.parametrize(
    "optimizer",
    [
        Optimizer(max_norm=0.5, alpha=0.1),
        Optimizer(momentum=0.9, alpha=0.1),
        Optimizer("adam", learning_rate=0.01, alpha=0.1, max_norm=0.5),
    ],
)
def test_a_probe_leaves_weights_and_state_alone(case, optimizer):
    """Bit for bit, where no row of the mini-batch made the gate fire."""
    kind, shape = SHAPES[case]
    network = make_network(make_probing(kind, probe_rate=0.6), shape, main=optimizer)
    for layer in network.layers:
        layer.gate.bias_values[:] -= 1.5
    X, y = make_batch(shape, n_rows=30)
    network.train(X, y, batch_size=3)  # so that there is some state
    kept = moved = 0
    for first in range(0, 30, 3):
        rows = slice(first, first + 3)
        found = probed_and_fired(network, X[rows], y[rows], network.step)
        before = copy_of_state(network)
        network.train(X[rows], y[rows], batch_size=3)
        after = copy_of_state(network)
        for i, (probed, fired) in enumerate(found):
            size = network.layers[i].experts_per_gate
            fires = np.repeat(fired.any(axis=1), size)
            only_probed = np.repeat(probed.any(axis=1), size) & ~fires
            kept, moved = kept + only_probed.sum(), moved + fires.sum()
            last = i == len(found) - 1
            for name in before:
                if name.startswith(f"{i}.expert") or (
                    last and name.startswith("readout.")
                ):
                    old, new = before[name], after[name]
                    n = len(fires)
                    assert old[:n][~fires].tobytes() == new[:n][~fires].tobytes(), name
                    if ".weight" in name:
                        assert (old != new)[:n][fires].any(axis=1).all(), name
    assert min(kept, moved) > 20, "nothing was compared"


# ---------------------------------------------------------------------------
# Threads
# ---------------------------------------------------------------------------

# Enough work for more than one thread: see test_threads.py.
THREADED = {
    "st": Shape(0, 120, (270, 40), (530, 130), 11),
    "st, blocks": Shape(0, 300, (540, 40), (1056, 130), 11, (16, 5)),
    "local expectation": Shape(0, 300, (540,), (1056,), 11, (2,)),
}


def results(case, n_threads):
    shape = THREADED[case]
    gater = make_probing(case.partition(",")[0], firing_rate_step=0.05)
    optimizer = Optimizer(learning_rate=0.05, momentum=0.7, alpha=0.1, max_norm=1.5)
    network = make_network(gater, shape, main=optimizer)
    X, y = make_batch(shape, n_rows=69)
    loss, penalty, failed = network.train(X, y, batch_size=24, n_threads=n_threads)
    gradient = network.gradient(X, y, n_threads=n_threads)
    found = {f"da {i}": da for i, da in enumerate(gradient["da"])}
    return found | {"loss": np.array([loss, penalty, failed])} | copy_of_state(network)


@pytest.mark.parametrize("case", THREADED)
def test_any_number_of_threads_gives_the_same_bits(case):
    expected = results(case, 1)
    assert all(np.isfinite(array).all() for array in expected.values())
    for n_threads in (2, 3, 4):
        assert_same_bits(results(case, n_threads), expected)


@pytest.mark.parametrize(
    "simd", [name for name in engine.simd_available() if name != engine.simd()]
)
def test_other_instruction_sets(simd):
    """Their bits differ in sums; which experts are computed does not."""
    options = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = run([*options, "test_probe.py", "-k", "oracle or reads or nobody"], simd)
    assert done.returncode == 0, done.stdout + done.stderr


# ---------------------------------------------------------------------------
# The estimator
# ---------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer:UserWarning")
@pytest.mark.parametrize("kind", PROBING)
def test_fit_learns_digits(kind):
    """Loss 0.04 (st), 0.09 (local expectation), 0.13 where gates stay as drawn."""
    X, y = load_digits(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    name, options = PROBING[kind]
    frozen = {"gater_learning_rate_init": 0.0, "firing_rate_step": 0.0}
    probing, still = (
        GatedMLPClassifier(200, name, **options, max_iter=20, random_state=0, **how)
        for how in ({"credit": "probe"}, frozen)
    )
    probing.fit(X[:1200], y[:1200])
    assert probing.score(X[1200:], y[1200:]) > 0.9
    assert probing.loss_ < 0.85 * still.fit(X[:1200], y[:1200]).loss_


@pytest.mark.parametrize(
    ("name", "estimator"),
    [(name, e) for name, g in GATERS.items() for e in (g.estimator, *g.estimators)],
)
def test_who_can_probe(name, estimator):
    if estimator in ("straight_through", "reinmax", "concrete_st", "local_expectation"):
        made = make_gater(name, estimator=estimator, credit="probe", probe_rate=0.25)
        assert (made.credit, made.probe_rate) == ("probe", 0.25)
        assert replace(made, probe_rate=0.1) == make_gater(
            name, estimator=estimator, credit="probe"
        )
        return
    message = f"credit='probe' is not available for gater='{name}' .*'{estimator}'"
    with pytest.raises(ValueError, match=message):
        make_gater(name, estimator=estimator, credit="probe")
    assert make_gater(name, credit="active").credit == ESTIMATORS[estimator]["credit"]


def test_probes_need_one_layer_with_local_expectation():
    X, y = make_batch(Shape())
    model = GatedMLPClassifier((8, 8), "sbn", **EXPECTATION[1], credit="probe")
    with pytest.raises(ValueError, match="one hidden layer"):
        model.fit(X, y)
