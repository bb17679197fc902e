"""The example of a loss from outside does what it says, on little."""

import importlib.util
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "examples" / "external_loss.py"


def test_the_loss_is_reduced(monkeypatch, capsys):
    """By the price of the pixels that nobody needs, at least."""
    spec = importlib.util.spec_from_file_location("external_loss", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    monkeypatch.setattr(sys, "argv", ["external_loss.py", "--steps", "301"])
    example.main()
    losses = [
        float(line.split("loss ")[1].split(",")[0])
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("step")
    ]
    assert losses[-1] < losses[0] - 0.1
