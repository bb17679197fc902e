"""The benchmark: contenders agree, turns and medians, JSON, and life without PyTorch.

That PyTorch computes the same function needs PyTorch; the rest does not.
"""

import importlib
import json
import struct
import sys
from dataclasses import replace

import numpy as np
import pytest

from stochnet.bench import __main__ as command_line
from stochnet.bench import (
    agreement,
    blocks,
    limits,
    memory,
    report,
    shapes,
    targets,
    tasks,
    timing,
    with_sklearn,
    with_stochnet,
)
from stochnet.bench.shapes import SHAPES, Case, Shape, make_data
from stochnet.datasets import load_idx
from stochnet.estimator import GatedMLPClassifier

TINY = Shape(20, (8,), (40,), 3)
TINY_DEEP = Shape(20, (8, 6), (40, 48), 3)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Shapes, limits and fits that take no time."""
    for name in ("paper", "small"):
        monkeypatch.setitem(shapes.SHAPES, name, TINY)
    monkeypatch.setitem(shapes.SHAPES, "deep", TINY_DEEP)
    monkeypatch.setattr(tasks, "EPOCH_ROWS", 64)
    monkeypatch.setattr(tasks, "DIGITS_EPOCHS", 1)
    monkeypatch.setattr(limits, "BUFFERS", SMALL_BUFFERS)
    monkeypatch.setattr(limits, "MATRIX", 32)


SMALL_BUFFERS = (1 << 14, 1 << 16)


@pytest.fixture
def with_torch():
    pytest.importorskip("torch")
    return importlib.import_module("stochnet.bench.with_torch")


@pytest.fixture
def no_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "stochnet.bench.with_torch", raising=False)
    import stochnet.bench

    monkeypatch.delattr(stochnet.bench, "with_torch", raising=False)


# ---------------------------------------------------------------------------
# Turns and medians
# ---------------------------------------------------------------------------


class Clock:
    """Time that only the contenders spend, and who spent it."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def __call__(self):
        return self.now

    def contender(self, name, durations):
        durations = iter(durations)

        def run():
            self.log.append(name)
            self.now += next(durations)

        return run


def test_contenders_take_turns_after_a_warm_up():
    clock = Clock()
    contenders = {name: clock.contender(name, [1.0] * 9) for name in "ABC"}
    timing.interleave(
        contenders, min_rounds=3, max_rounds=3, clock=clock, pause=lambda _: None
    )
    assert "".join(clock.log) == "AABBCC" + 3 * "ABC"


def test_median_and_spread_are_of_the_rounds():
    clock = Clock()
    # two warm-ups, which must not count, and five rounds
    run = clock.contender("A", [100.0, 100.0, 1.0, 9.0, 2.0, 4.0, 3.0])
    result = timing.interleave(
        {"A": run}, min_rounds=5, max_rounds=5, clock=clock, pause=lambda _: None
    )["A"]
    assert result == timing.Timing(median=3.0, spread=pytest.approx(2 / 3), n_samples=5)


def test_short_work_is_repeated_within_a_sample_and_counted_singly():
    clock = Clock()
    run = clock.contender("A", [timing.SHORTEST_SAMPLE / 3.5] * 100)
    run_many = clock.contender("B", [timing.SHORTEST_SAMPLE * 2] * 100)
    run_many.repeats = 10
    result = timing.interleave(
        {"A": run, "B": run_many},
        min_rounds=2,
        max_rounds=2,
        clock=clock,
        pause=lambda _: None,
    )
    assert result["A"].median == pytest.approx(timing.SHORTEST_SAMPLE / 3.5)
    assert result["B"].median == pytest.approx(timing.SHORTEST_SAMPLE / 5)
    assert "".join(clock.log) == "AAAABBBB" + 2 * "AAAAAB"


@pytest.mark.parametrize(("seconds", "n_rounds"), [(0.0, 3), (5.5, 6), (99.0, 8)])
def test_rounds_end_with_the_time(seconds, n_rounds):
    clock = Clock()
    run = clock.contender("A", [1.0] * 20)
    result = timing.interleave(
        {"A": run},
        seconds=seconds,
        min_rounds=3,
        max_rounds=8,
        clock=clock,
        pause=lambda _: None,
    )
    assert result["A"].n_samples == n_rounds


# ---------------------------------------------------------------------------
# Densities
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [TINY, TINY_DEEP])
@pytest.mark.parametrize("density", [0.3, 0.1])
def test_training_has_the_density_and_updates_everything(shape, density):
    data = shapes.make_data(shape, 64, 32)
    network = shapes.make_network(shape, density)
    shapes.set_training_density(network, data, density, 1)
    before = {name: p.weight.copy() for name, p in network.parameters()}
    step = with_stochnet.TrainingStep(network, data, 1)
    for _ in range(32):
        step()
    assert step.density == pytest.approx([density] * len(shape.n_units), rel=0.1)
    for name, p in network.parameters():
        assert np.any(before[name] != p.weight), name
        np.testing.assert_allclose(p.weight, before[name], atol=1e-3)


@pytest.mark.parametrize("shape", [TINY, TINY_DEEP])
def test_prediction_has_the_density_and_dense_has_all(shape):
    data = shapes.make_data(shape, 32)
    network = shapes.make_network(shape, 0.1)
    shapes.set_thresholds(network, data.X, 0.1, 1)
    n_layers = len(shape.n_units)
    found = shapes.prediction_density(network, data.X, 1)
    assert found == pytest.approx([0.1] * n_layers, rel=0.02)
    dense = with_stochnet.contenders(with_stochnet.TrainingStep, network, data, 1)
    dense = dense["stochnet dense"]
    dense()
    assert dense.density == [1.0] * n_layers
    assert shapes.prediction_density(dense.network, data.X, 1) == [1.0] * n_layers


@pytest.mark.parametrize("credit", ["active", "all"])
@pytest.mark.parametrize("shape", [TINY, TINY_DEEP])
def test_calls_of_the_estimator_train_the_same_network(shape, credit):
    data = shapes.make_data(shape, 32)
    network = shapes.make_network(shape, 0.2, credit)
    found = with_stochnet.contenders(with_stochnet.TrainingStep, network, data, 1)
    for _ in range(3):
        found["stochnet"]()
        found["stochnet partial_fit"]()
    called = found["stochnet partial_fit"].run.__self__._network
    for (name, p), (_, q) in zip(
        network.parameters(), called.parameters(), strict=True
    ):
        np.testing.assert_array_equal(p.weight, q.weight, err_msg=name)


@pytest.mark.parametrize("shape", [TINY, TINY_DEEP])
def test_calls_of_the_estimator_predict_the_same(shape):
    data = shapes.make_data(shape, 32)
    network = shapes.make_network(shape, 0.2)
    shapes.set_thresholds(network, data.X, 0.2, 1)
    found = with_stochnet.contenders(with_stochnet.Prediction, network, data, 1)
    for _ in range(3):
        np.testing.assert_array_equal(
            found["stochnet"](), found["stochnet predict_proba"]()
        )


def test_a_wrong_density_is_an_error():
    timings = {"stochnet": timing.Timing(1.0, 0.0, 5)}
    case = Case("step", "paper", 0.1, 32, 1, "active")
    with pytest.raises(RuntimeError, match="was timed with density"):
        tasks.make_result(case, [0.12], timings, [])


# ---------------------------------------------------------------------------
# Contenders agree
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("credit", ["active", "all"])
@pytest.mark.parametrize("shape", [TINY, TINY_DEEP])
def test_torch_trains_the_same_network(with_torch, shape, credit):
    data = shapes.make_data(shape, 32)
    network = shapes.make_network(shape, 0.2, credit)
    # so that max-norm and the layer above matter
    network.layers[-1].expert.values[:] *= 3
    agreement.check_training(network, data, with_torch, 1)


@pytest.mark.parametrize("shape", [TINY, TINY_DEEP])
def test_torch_predicts_the_same(with_torch, shape):
    data = shapes.make_data(shape, 32)
    network = shapes.make_network(shape, 0.2)
    shapes.set_thresholds(network, data.X, 0.2, 1)
    agreement.check_prediction(network, data, with_torch, 1)


@pytest.mark.parametrize("group", range(8))
def test_another_function_is_noticed(with_torch, monkeypatch, group):
    data = shapes.make_data(TINY, 32)
    network = shapes.make_network(TINY, 0.2)
    original = with_torch.parameters_of

    def changed(network):
        parameters = original(network)
        with with_torch.torch.no_grad():
            parameters[group] += 0.01
        return parameters

    monkeypatch.setattr(with_torch, "parameters_of", changed)
    with pytest.raises(agreement.DisagreementError):
        agreement.check_training(network, data, with_torch, 1)


def test_another_credit_is_noticed(with_torch, monkeypatch):
    data = shapes.make_data(TINY, 32)
    network = shapes.make_network(TINY, 0.2, "all")
    original = with_torch.criterion
    monkeypatch.setattr(
        with_torch,
        "criterion",
        lambda *arguments: original(*arguments[:5], True, arguments[6]),
    )
    with pytest.raises(agreement.DisagreementError, match="gradient of 0"):
        agreement.check_training(network, data, with_torch, 1)


def test_not_a_number_is_no_agreement():
    with pytest.raises(agreement.DisagreementError):
        agreement.check_close("x", [1.0, np.nan], [1.0, 2.0])
    with pytest.raises(agreement.DisagreementError, match="shapes"):
        agreement.check_close("x", [1.0], [1.0, 2.0])


@pytest.mark.parametrize("kind", ["TrainingStep", "Prediction"])
def test_a_failing_compiler_leaves_a_note(with_torch, monkeypatch, kind):
    def fail(*_, **__):
        def run(*_):
            raise OSError("no compiler")

        return run

    monkeypatch.setattr(with_torch.torch, "compile", fail)
    monkeypatch.setattr(with_torch, "has_compiler", lambda notes: True)
    data = shapes.make_data(TINY, 16)
    network, notes = shapes.make_network(TINY, 0.2), []
    found = with_torch.contenders(getattr(with_torch, kind), network, data, 1, notes)
    assert list(found) == ["torch", "torch medium"]
    assert notes == [f"{n} failed: OSError" for n in with_torch.FLAVOURS if "comp" in n]


def test_no_compiler_leaves_one_note(with_torch, monkeypatch):
    monkeypatch.setattr(with_torch.shutil, "which", lambda name: None)
    notes = []
    assert not with_torch.has_compiler(notes) and not with_torch.has_compiler(notes)
    assert notes == ["torch.compile: no C++ compiler"]


# ---------------------------------------------------------------------------
# Limits, ratios, targets
# ---------------------------------------------------------------------------


def test_the_limit_is_the_slower_of_computing_and_reading():
    rates = limits.Limits(90.0, 100.0, {1000: 50.0, 10000: 5.0})
    assert rates.seconds(200.0, 50.0, 900.0) == (2.0, "flops")
    assert rates.seconds(200.0, 50.0, 1001.0) == (10.0, "bytes")
    assert rates.seconds(0.0, 50.0, 1e9) == (10.0, "bytes")


def test_shares_of_a_kernel(kernels):
    """10 s for flops at best, 8 for reading all once, 20 for each unit's rows of x."""
    rates = limits.Limits(50.0, 100.0, {1000: 50.0, 10000: 5.0})
    kernel = kernels.Kernel("", None, 1, 1000.0, 40.0, 5000.0, (), 1000.0, 400.0)
    shares = tasks._shares(kernel, rates, 2, 40.0)
    assert shares["bound"] == "flops"
    assert (shares["seconds"], shares["share"]) == (10.0, 0.25)
    assert shares["sgemm_share"] == 0.5
    assert shares["gathering_share"] == 0.5
    # three threads hold it in a larger, slower cache
    assert tasks._shares(kernel, rates, 3, 400.0)["gathering_share"] == 0.5
    assert report._limit(shares) == (
        "25% of limit (flops), 50% of sgemm's rate, rows of x at 50% of their cache's"
    )


def test_scipy_product():
    a, b = np.random.default_rng(0).random((2, 5, 5), dtype=np.float32)
    np.testing.assert_allclose(limits.scipy_product(a, b), a @ b, rtol=1e-5)


def test_limits_are_rates():
    one = limits.measure(1, [np.matmul, limits.scipy_product])
    two = limits.measure(2, [np.matmul], at_least=one)
    assert set(one.bandwidth) == set(SMALL_BUFFERS)
    assert two.flops >= one.flops >= one.sgemm > 1e6
    assert all(two.bandwidth[n] >= rate > 1e6 for n, rate in one.bandwidth.items())


def test_blocks_skip_what_a_dense_network_computes(monkeypatch):
    sizes = Shape(40, (6, 5), (256, 160))
    monkeypatch.setitem(SHAPES, "small", sizes)
    case = Case("blocks", "small", 0.5, 32, 1)
    runs, densities = blocks.contenders(case)
    assert densities == [0.5, 0.5]
    outputs = {name: run() for name, run in runs.items()}
    assert outputs["two layers"].shape == outputs["first layer"].shape == (32, 10)
    assert outputs["numpy sgemm"].shape == (32, 160)
    both, _ = blocks.make_networks(case, make_data(sizes, 32, 1))
    both.layers[1].expert.values[:] += 0.1
    X = make_data(sizes, 32, 1).X
    blocks.check_blocks(both, X, 1)
    monkeypatch.setattr(
        both, "predict_proba", lambda X, n_threads: outputs["two layers"]
    )
    with pytest.raises(agreement.DisagreementError):
        blocks.check_blocks(both, X, 1)


def test_the_second_layer_is_a_difference():
    timings = {
        "two layers": timing.Timing(5.0, 0.06, 9),
        "first layer": timing.Timing(3.0, 0.1333333333, 7),
    }
    assert blocks.second_layer(timings) == timing.Timing(2.0, pytest.approx(0.25), 7)


def test_ratio_is_to_the_strongest_float32():
    def seconds(x):
        return timing.Timing(x, 0.0, 5)

    timings = {
        "stochnet": seconds(1.0),
        "scikit-learn": seconds(0.5),
        "torch": seconds(4.0),
        "torch compile": seconds(3.0),
        "torch medium": seconds(2.0),
    }
    case = Case("step", "paper", 0.1, 32, 2, "active")
    result = tasks.make_result(
        case, [0.1], timings, ["torch", "torch compile"], ["torch medium"]
    )
    assert (result.reference, result.ratio) == ("torch compile", 3.0)
    assert result.medium == ("torch medium", 2.0)
    assert result.target == 2.6 and result.holds
    assert "target 2.6: holds" in report.format_result(result, with_target=True)
    result.target = 3.5
    assert not result.holds
    assert "MISSED" in report.format_result(result, with_target=True)
    heading, row = report.format_table([result]).splitlines()
    assert row.index("3.00 torch compile") == heading.index("times as fast as")
    assert row.endswith("3.5 NO")


def test_scaling_is_the_range_of_times_over_limits():
    def result(density, share, threads=2):
        case = Case("kernel", "paper", density, 32, threads, "expert forward")
        timings = {"stochnet": timing.Timing(6.0 / threads**0.5, 0.0, 5)}
        found = tasks.Result(case, [density], timings)
        found.limit = {"seconds": 1.0, "bound": "flops", "share": share}
        return found

    results = [result(0.1, 0.5), result(0.01, 0.4), result(0.1, 0.5, threads=1)]
    assert report.format_scaling(results[1:]) == []  # nothing to compare
    (line,) = report.format_scaling(results)
    assert "batch 32, threads 2: 2.00 to 2.50 times" in line
    assert line.endswith("in 2 cases, within a factor of 1.25")
    (line,) = report.format_threads(results)
    assert line.endswith("density 0.1 batch 32: 2 threads 1.41 times as fast as one")


def test_targets_are_of_cases_that_the_defaults_time():
    wanted = {
        (*key, batch) for key, ratios in targets.TARGETS.items() for batch in ratios
    }
    parsed = command_line.parse(["--threads", "2"])
    timed = set()
    for case in command_line.cases(parsed):
        kernels = ["expert forward"] if case.task == "kernel" else [case.variant]
        timed |= {(case.task, v, case.shape, case.density, case.batch) for v in kernels}
    assert wanted <= timed


def test_width_with_about_as_many_parameters():
    width = with_sklearn.width_with_parameters(23690, 64, 10)
    assert abs(width * (64 + 1 + 10) + 10 - 23690) < 75


# ---------------------------------------------------------------------------
# Kernels alone
# ---------------------------------------------------------------------------


@pytest.fixture
def kernels():
    return importlib.import_module("stochnet.bench.kernels")


def test_sets_of_gates(kernels):
    rows, counts = kernels.random_gates(50, 40, 0.2)
    assert rows.shape == (8, 50, 40) and counts.shape == (8, 50)
    assert counts.mean() / 40 == pytest.approx(0.2, rel=0.1)
    for k in range(50):
        active = rows[3, k, : counts[3, k]]
        assert np.all(np.diff(active) > 0)
    assert np.any(counts[0] != counts[1])


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_kernels_that_are_timed_do_all_the_work(kernels, n_threads):
    shape = replace(TINY, n_units=(3 * shapes.EXPERTS_PER_GATE,))
    X = shapes.make_data(shape, 16, 1).X
    network = shapes.make_network(shape, 0.1)
    expert = network.layers[0].expert
    weight = expert.values.copy()
    found = [k for k, _ in kernels.expert_kernels(network, X, 1.0)]
    found += kernels.dense_kernels(network, X)
    forward, update, block_forward, block_sum, *_ = found
    np.testing.assert_array_equal(forward.product[0].shape, weight.shape)
    assert block_forward.flops == forward.flops
    assert block_forward.gathered == forward.gathered / shapes.EXPERTS_PER_GATE

    def run(kernel):
        contender = kernel.contender(workers)
        contender.repeats = 1
        contender()

    dH = update.product[0]
    expected = weight - dH @ X
    norms = np.linalg.norm(expected, axis=1, keepdims=True)
    expected *= np.minimum(1.0, network.main.max_norm / norms)
    with timing.make_workers(n_threads) as workers:
        for kernel in found:
            run(kernel)
            if kernel is update:
                # of the rounding of weights, updates being about 5e-6
                np.testing.assert_allclose(expert.values, expected, rtol=0, atol=2e-7)
    expected += block_sum.product[0] @ X
    np.testing.assert_allclose(expert.values, expected, rtol=0, atol=2e-7)


# ---------------------------------------------------------------------------
# Command line
# ---------------------------------------------------------------------------

ARGUMENTS = (
    "--shape paper --density 0.25 --batch 1 64 --threads 1 --credit active "
    "--seconds 0 --no-compile --target"
).split()


def run(tmp_path, *arguments):
    path = tmp_path / "bench.json"
    command_line.main([*ARGUMENTS, *arguments, "--json", str(path)])

    def refuse(constant):
        raise AssertionError(constant)

    return json.loads(path.read_text("utf-8"), parse_constant=refuse)


def test_json_has_everything(tmp_path, capsys):
    content = run(tmp_path, "--task", "step", "predict", "epoch", "digits", "kernel")
    assert {"cpu", "cpus"} <= set(content["machine"])
    assert content["versions"]["numpy"] == np.__version__
    assert content["instructions"] in ("avx512", "avx2", "baseline")
    assert content["arguments"]["density"] == [0.25]
    assert content["limits"]["1"]["flops"] > 0
    cases = [(r["task"], r["batch"]) for r in content["results"]]
    expected = [("step", 64), ("predict", 1), ("predict", 64)]
    assert cases[:5] == [*expected, ("epoch", 64), ("digits", 32)]
    for result in content["results"]:
        own = result["timings"]["stochnet"]
        assert own["median"] > 0 and own["spread"] >= 0 and own["n_samples"] >= 5
        if result["reference"]:
            other = result["timings"][result["reference"]]["median"]
            assert result["ratio"] == pytest.approx(other / own["median"])
        if result["task"] != "digits":
            assert result["densities"] == pytest.approx(
                [0.25] * len(result["densities"]), rel=0.1
            )
    printed = capsys.readouterr().out
    assert "stochnet dense" in printed and "targets hold" in printed


def write_images(folder, height, width):
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        images = rng.integers(256, size=(130, height, width), dtype=np.uint8)
        header = struct.pack(">4i", 0x0803, *images.shape)
        path = folder / f"{part}-images-idx3-ubyte"
        path.write_bytes(header + images.tobytes())
        labels = (np.arange(130) % 10).astype(np.uint8)
        path = folder / f"{part}-labels-idx1-ubyte"
        path.write_bytes(struct.pack(">2i", 0x0801, 130) + labels.tobytes())


def test_an_epoch_of_a_data_set(tmp_path, monkeypatch):
    write_images(tmp_path, 4, 5)
    seen = []
    monkeypatch.setattr(
        GatedMLPClassifier,
        "partial_fit",
        lambda self, X, y, classes=None, fit=GatedMLPClassifier.partial_fit: (
            seen.append(X) or fit(self, X, y, classes)
        ),
    )
    run(tmp_path, "--task", "epoch", "--data", str(tmp_path))
    np.testing.assert_array_equal(seen[-1], load_idx(tmp_path)[0][:64])


def test_a_wrong_data_set_is_refused_at_once(tmp_path):
    arguments = "--task", "epoch", "--data", str(tmp_path)
    with pytest.raises(SystemExit, match="--data: .*train-images"):
        run(tmp_path, *arguments)
    write_images(tmp_path, 3, 3)
    with pytest.raises(SystemExit, match="--data: images of 9 pixels, 20 are timed"):
        run(tmp_path, *arguments)


def test_it_works_without_torch(tmp_path, no_torch, capsys):
    content = run(tmp_path, "--task", "step", "predict")
    assert "PyTorch is not installed." in content["notes"]
    for result in content["results"]:
        assert result["ratio"] is None and result["holds"] is None
        assert not any("torch" in name for name in result["timings"])
    assert "PyTorch is not installed." in capsys.readouterr().out


def test_quick_gives_way_to_what_is_asked_for():
    quick = command_line.parse(["--quick"])
    assert quick.shape == ["paper"] and quick.no_compile
    asked = command_line.parse(["--quick", "--shape", "wide", "--batch", "256"])
    assert (asked.shape, asked.batch, asked.density) == (["wide"], [256], [0.1])
    assert command_line.parse([]).shape == ["paper", "wide", "huge"]


def test_single_rows_are_for_prediction_and_credit_for_training():
    parsed = command_line.parse(["--threads", "1", "2"])
    cases = list(command_line.cases(parsed))
    assert len(cases) == len(set(cases))
    assert {c.task for c in cases if c.batch == 1} == {"predict"}
    assert {c.task for c in cases if c.variant} == {"step", "epoch"}
    assert {c.threads for c in cases} == {1, 2}
    assert [c.shape for c in cases if c.task == "digits"] == ["small"] * 2


def test_peak_memory_counts_what_fit_takes(monkeypatch):
    if sys.platform == "win32":
        pytest.skip("Windows does not say how much memory a process took at most.")
    case = Case("memory", "small", 0.1, 32, 1)
    monkeypatch.undo()  # the child has the real shapes
    used = memory.peak_of("stochnet", case)
    assert used["peak"] > used["before"] > 1 << 20
