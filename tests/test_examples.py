"""The examples do what they say, on little."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def figure2():
    return load("figure2")


def test_figure2_runs_and_resumes(figure2, tmp_path, monkeypatch, capsys):
    command = ["--epochs", "1", "--seeds", "1", "--preset", "best"]
    command += ["--output", str(tmp_path)]
    figure2.main([*command, "--models", "sigmoid"])
    first = (tmp_path / "best-sigmoid-0.json").read_text()
    done = []
    run = figure2.run
    monkeypatch.setattr(
        figure2, "run", lambda *which: done.append(which[0]) or run(*which)
    )
    figure2.main([*command, "--models", "sigmoid", "rectifier"])
    assert done == ["rectifier"]
    assert (tmp_path / "best-sigmoid-0.json").read_text() == first
    record = json.loads((tmp_path / "best-rectifier-0.json").read_text())
    assert record["rows"] == [1197, 300, 300]
    assert len(record["valid_curve"]) == record["epochs"] == 1
    assert abs(record["density"] - 0.1) < 0.03
    lines = (tmp_path / "results.csv").read_text().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("model,preset,seed,epochs,best_epoch,train_criterion")
    assert "baseline sigmoid " in capsys.readouterr().out


def test_figure2_has_settings_for_every_model(figure2):
    for preset in figure2.PRESETS:
        for name in figure2.MODELS:
            model = figure2.make_model(name, preset, 0)
            dense = name.startswith("sigmoid")
            assert model.hidden_layer_sizes == (200 if dense else 2000)
            assert dense or (model.gater_hidden_size, model.density) == (400, 0.1)


def test_a_loss_from_outside_is_reduced(monkeypatch, capsys):
    """By the price of the pixels that nobody needs, at least."""
    monkeypatch.setattr(sys, "argv", ["external_loss.py", "--steps", "301"])
    load("external_loss").main()
    losses = [
        float(line.split("loss ")[1].split(",")[0])
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("step")
    ]
    assert losses[-1] < losses[0] - 0.1
