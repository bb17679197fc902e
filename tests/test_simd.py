"""The kernels under every instruction set, and how one is chosen."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stochnet._kernels import engine

TESTS = Path(__file__).parent
KERNEL_TESTS = [
    f"test_{name}.py"
    for name in (
        "dense",
        "estimators",
        "expert",
        "loss",
        "penalties",
        "random",
        "scalar",
        "units",
        "update",
    )
]
WIDE_REGISTERS = {
    "baseline": set(),
    "avx2": {"y"},
    "avx512": {"y", "z"},
    "avx512_emulated": {"y"},
}
OBJECTS = [
    path
    for path in sorted(TESTS.parent.glob("build/engine.*/csrc/simd/*.o"))
    if path.stem in WIDE_REGISTERS and path.stem in engine.simd_available()
]
OBJDUMP = shutil.which("objdump")
PRINT_SIMD = "from stochnet._kernels import engine; print(engine.simd())"
X86 = platform.machine().lower() in ("x86_64", "amd64")


def run(arguments, simd):
    """Run Python with STOCHNET_SIMD set (removed, if None)."""
    environment = {k: v for k, v in os.environ.items() if k != "STOCHNET_SIMD"}
    if simd is not None:
        environment["STOCHNET_SIMD"] = simd
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=TESTS,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_engine_in_use_is_available():
    available = engine.simd_available()
    assert engine.simd() in available
    assert "baseline" in available
    assert len(set(available)) == len(available)


def test_the_best_is_the_default():
    assert not engine.simd_available()[0].endswith("emulated")
    done = run(["-c", PRINT_SIMD], None)
    assert done.stdout.split() == [engine.simd_available()[0]], done.stderr
    done = run(["-c", PRINT_SIMD], "")
    assert done.stdout.split() == [engine.simd_available()[0]], done.stderr


@pytest.mark.parametrize("simd", engine.simd_available())
def test_the_variable_decides(simd):
    done = run(["-c", PRINT_SIMD], simd)
    assert done.stdout.split() == [simd], done.stderr


@pytest.mark.parametrize("simd", ["sse9", "AVX2", "baseline "])
def test_an_invalid_name_is_refused(simd):
    done = run(["-c", PRINT_SIMD], simd)
    assert done.returncode == 1
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("ImportError: ")
    assert f"STOCHNET_SIMD={simd!r}" in message
    assert message.endswith(", ".join(engine.simd_available()) + ".")


@pytest.mark.parametrize(
    "simd", [name for name in engine.simd_available() if name != engine.simd()]
)
def test_kernels_of_the_other_instruction_sets(simd):
    options = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = run([*options, *KERNEL_TESTS], simd)
    assert done.returncode == 0, done.stdout + done.stderr


def wide_registers(path):
    """Which of the 256 (y) and 512 (z) bit registers an object's code uses."""
    listing = subprocess.run(
        [OBJDUMP, "-d", "--no-show-raw-insn", path],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "xmm" in listing
    return set(re.findall(r"%([yz])mm\d", listing))


@pytest.mark.skipif(not (OBJECTS and OBJDUMP and X86), reason="no objects to look at")
@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: path.stem)
def test_only_the_wide_engines_use_wide_registers(path):
    """Where setup.py left the objects of an editable install."""
    assert wide_registers(path) == WIDE_REGISTERS[path.stem]
