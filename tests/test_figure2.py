"""examples/figure2.py on digits: run, stop, go on."""

import csv
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from stochnet.datasets import load_digits_split

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALL = {"hidden_layer_sizes": 64, "gater_hidden_size": 16}

pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="no examples here")


@pytest.fixture(scope="module")
def digits():
    return load_digits_split()


@pytest.fixture
def figure2(monkeypatch):
    """The example as a module, with small networks."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.delitem(sys.modules, "figure2", raising=False)
    import figure2

    monkeypatch.setattr(figure2, "SPARSE", SMALL | {"density": 0.1})
    monkeypatch.setattr(figure2, "DENSE", SMALL)
    yield figure2
    sys.modules.pop("figure2", None)


def arguments(output, *more):
    return ["--output", str(output), "--epochs", "2", "--seeds", "1", *more]


def test_centered_rows_have_the_training_rows_mean_taken_off(figure2, digits):
    X, y, X_valid, y_valid, X_test, y_test = figure2.centered(digits)
    mean = digits[0].mean(axis=0, dtype=float)
    for part, whole in ((X, digits[0]), (X_valid, digits[2]), (X_test, digits[4])):
        assert part.dtype == whole.dtype
        np.testing.assert_allclose(part, whole - mean, atol=1e-6)
    for part, whole in ((y, digits[1]), (y_valid, digits[3]), (y_test, digits[5])):
        assert part is whole


def test_every_model_of_both_presets_is_recorded(figure2, tmp_path, capsys):
    figure2.main(arguments(tmp_path))
    stems = {
        f"{preset}-{name}-0" for preset in figure2.PRESETS for name in figure2.MODELS
    }
    found = {
        path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")
    }
    assert set(found) == stems
    for record in found.values():
        for name in ("loss", "valid", "noisy_valid", "density"):
            assert len(record[f"{name}_curve"]) == 2
        assert record["valid_error"] == min(record["valid_curve"])
        assert record["settings"]["max_iter"] == 2
        preset = figure2.PRESETS[record["preset"]][record["model"]]
        assert record["settings"]["centered"] == preset.get("centered", False)
    assert found["best-st-0"]["settings"]["centered"]
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {f"{r['preset']}-{r['model']}-{r['seed']}" for r in rows} == stems
    assert "1.87" in capsys.readouterr().out  # the paper's, beside them


def test_a_finished_run_is_not_done_again(figure2, tmp_path, monkeypatch):
    chosen = arguments(tmp_path, "--preset", "best", "--models", "st", "rectifier")
    figure2.main(chosen)
    (tmp_path / "best-st-0.json").unlink()
    kept = (tmp_path / "best-rectifier-0.json").stat().st_mtime_ns
    done = []
    run = figure2.run
    monkeypatch.setattr(
        figure2,
        "run",
        lambda model, *rest: done.append(model.gater) or run(model, *rest),
    )
    figure2.main(chosen)
    assert done == ["st"]
    assert (tmp_path / "best-rectifier-0.json").stat().st_mtime_ns == kept


def test_a_run_with_other_settings_is_not_taken_for_this_one(figure2, tmp_path):
    chosen = ["--output", str(tmp_path), "--seeds", "1", "--models", "sigmoid"]
    figure2.main([*chosen, "--epochs", "1"])
    with pytest.raises(SystemExit, match="max_iter"):
        figure2.main([*chosen, "--epochs", "2"])


@pytest.mark.parametrize("name", ["noisy_rectifier", "sts", "sbn"])
@pytest.mark.parametrize("preset", ["best", "paper"])
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    figure2, tmp_path, digits, monkeypatch, name, preset
):
    monkeypatch.setattr(figure2, "EPOCHS_PER_STATE", 2)

    def stop(epoch):
        if epoch == 3:  # one epoch after a state was saved
            raise KeyboardInterrupt

    def model():
        return figure2.make_model(name, preset, 0, epochs=5)

    expected, curves, _ = figure2.train(model(), digits, tmp_path / "a" / "state")
    with pytest.raises(KeyboardInterrupt):
        figure2.train(model(), digits, tmp_path / "b" / "state", stop)
    done = []
    best, resumed, _ = figure2.train(
        model(), digits, tmp_path / "b" / "state", done.append
    )
    assert done == [3, 4, 5]
    assert resumed == curves
    np.testing.assert_array_equal(
        best.predict_proba(digits[4]), expected.predict_proba(digits[4])
    )


@pytest.mark.parametrize("name", ["st", "sbn", "sigmoid_noise"])
def test_epoch_by_epoch_is_what_fit_does_at_once(figure2, tmp_path, digits, name):
    X, y, X_valid, y_valid, *_ = digits
    whole = figure2.make_model(name, "best", 0, epochs=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        whole.fit(X, y, X_val=X_valid, y_val=y_valid)
    model = figure2.make_model(name, "best", 0, epochs=4)
    best, curves, _ = figure2.train(model, digits, tmp_path / "state")
    assert curves["loss"] == pytest.approx(whole.loss_curve_, rel=1e-5)
    np.testing.assert_allclose(
        best.predict_proba(X_valid), whole.predict_proba(X_valid), atol=1e-4
    )


def test_curves_are_drawn(figure2, tmp_path):
    pytest.importorskip("matplotlib")
    chosen = ["--preset", "best", "--models", "st"]
    figure2.main(arguments(tmp_path, *chosen))
    assert (tmp_path / "curves.png").stat().st_size > 0
