"""examples/appendix.py on digits: every variant is accepted, runs are done once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stochnet.gaters import make_gater

EXAMPLES = Path(__file__).parents[1] / "examples"

pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="no examples here")


@pytest.fixture
def appendix(monkeypatch):
    """The example as a module, with small networks."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    for name in ("appendix", "figure2"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import appendix
    import figure2

    small = {"hidden_layer_sizes": 64, "gater_hidden_size": 16}
    monkeypatch.setattr(figure2, "SPARSE", small | {"density": 0.1})
    yield appendix
    for name in ("appendix", "figure2"):
        sys.modules.pop(name, None)


def test_every_variant_has_its_own_file_and_a_gater(appendix, tmp_path):
    paths = []
    for study, variants in appendix.STUDIES.items():
        for title, name, changes in variants:
            paths.append(appendix.record_path(tmp_path, study, title, 0))
            model = appendix.make_model(name, "paper", 0).set_params(**changes)
            names = make_gater.__kwdefaults__
            make_gater(model.gater, **{key: getattr(model, key) for key in names})
    assert len(set(paths)) == len(paths)


def test_a_study_is_recorded_and_not_done_again(appendix, tmp_path, capsys):
    chosen = ["--output", str(tmp_path), "--epochs", "1", "--study", "deviation", "st"]
    appendix.main(chosen)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    assert len(files) == 8
    for path in files:
        record = json.loads(path.read_text())
        p = record["gate_probabilities"]
        if record["study"] == "st":
            assert sum(p["shares"]) == pytest.approx(1)
            assert p["above_half"] == pytest.approx(sum(p["shares"][10:]), abs=1e-6)
        else:
            assert p is None
    appendix.main(chosen)
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    assert "active, derivative" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    [
        ["appendix.py", "--study", "rate", "--seeds", "2"],
        ["figure2.py", "--preset", "best", "--models", "st", "rectifier"],
    ],
)
def test_jobs_of_a_script_are_shared_out(command, tmp_path):
    """What other processes take over is pickled by value, with all that it uses."""
    script, *options = command
    # SciPy's functions are others, which can be pickled, where this is set
    environment = {k: v for k, v in os.environ.items() if k != "SCIPY_ARRAY_API"}
    finished = subprocess.run(
        [sys.executable, EXAMPLES / script, *options]
        + ["--epochs", "1", "--jobs", "2", "--output", tmp_path],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert len(list(tmp_path.glob("*-0.json"))) > 1
