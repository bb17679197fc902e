"""`show_versions`, what to put into a bug report."""

import os
import platform
import sys
from importlib.metadata import version

import numpy as np
import pytest

import stochnet
from stochnet import _kernels, _versions
from stochnet._kernels import engine
from stochnet._versions import _version_info, show_versions

DISTRIBUTIONS = ["stochnet", "numpy", "scipy", "scikit-learn", "joblib"]
ENGINE = [
    "cython",
    "compiler",
    "openmp",
    "threads",
    "instructions",
    "instructions available",
]


def test_keys():
    info = _version_info()
    assert all(isinstance(value, str) and value for value in info.values())
    known = ["python", "platform", *DISTRIBUTIONS, *ENGINE, "cpus"]
    assert [name for name in info if name in known] == known


def test_values():
    info = _version_info()
    assert info["python"].startswith(platform.python_version())
    assert info["platform"] == platform.platform()
    for name in DISTRIBUTIONS:
        assert info[name] == version(name)
    assert info["stochnet"] == stochnet.__version__
    assert info["numpy"] == np.__version__
    assert info["threads"] == str(engine.max_threads())
    assert info["instructions"] == engine.simd()
    assert info["instructions"] in info["instructions available"].split(", ")
    assert info["cpus"] == str(os.cpu_count())
    assert info["compiler"] == engine.build_info()["compiler"]


def test_prints_a_line_for_each_key(capsys):
    assert show_versions() is None
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = printed.out.splitlines()
    pairs = [line.strip().partition(": ")[::2] for line in lines]
    assert pairs == list(_version_info().items())
    assert len({line.index(": ") for line in lines}) == 1


def test_is_public():
    assert stochnet.show_versions is show_versions


def test_each_value_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "version", "3.99.0 (main)\n[GCC 99]")
    assert _version_info()["python"] == "3.99.0 (main) [GCC 99]"
    show_versions()
    assert len(capsys.readouterr().out.splitlines()) == len(_version_info())


def test_what_is_not_installed(monkeypatch):
    monkeypatch.setattr(_versions, "_DISTRIBUTIONS", ("numpy", "no-such-thing"))
    info = _version_info()
    assert info["numpy"] == np.__version__
    assert info["no-such-thing"] == "not installed"


def test_an_engine_that_cannot_be_imported(monkeypatch, capsys):
    """The report comes all the same, and says why."""
    monkeypatch.delattr(_kernels, "engine")
    monkeypatch.setitem(sys.modules, "stochnet._kernels.engine", None)
    info = _version_info()
    assert info["engine"].startswith("cannot be imported: ")
    assert not info.keys() & set(ENGINE)
    assert info["numpy"] == np.__version__
    assert info["cpus"] == str(os.cpu_count())
    show_versions()
    assert "engine: cannot be imported" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("date", "name"),
    [
        (0, "no, serial build"),
        (None, "no, serial build"),
        (201511, "4.5 (201511)"),
        (202111, "5.2 (202111)"),
        (209901, "209901"),
    ],
)
def test_openmp_is_named(date, name):
    assert _versions._openmp(date) == name
