"""Command line of the benchmark."""

import argparse
import itertools
import os
import sys

import numpy as np

from stochnet.bench import kernels, limits, report, tasks
from stochnet.bench.shapes import SHAPES, Case
from stochnet.datasets import load_idx

#: With --quick: what is timed, in well under a minute on two cores.
QUICK = {
    "task": ["step", "predict", "kernel", "digits"],
    "shape": ["paper"],
    "density": [0.1],
    "batch": [1, 32],
    "credit": ["active"],
}

#: Tasks on estimators have shapes of their own.
ONLY_SHAPE = {"epoch": "paper", "digits": "small", "blocks": "deep"}


def make_parser():
    """The command line's parser."""
    cores = os.cpu_count() or 1
    parser = argparse.ArgumentParser(
        prog="python -m stochnet.bench",
        description="Time stochnet beside scikit-learn, PyTorch (if installed) and "
        "the machine's own limits, in turns, after a check that all compute the same.",
    )

    def several(name, kind, default, **options):
        parser.add_argument(
            f"--{name}", type=kind, nargs="+", default=default, **options
        )

    several("task", str, [t for t in tasks.TASKS if t != "memory"], choices=tasks.TASKS)
    several("shape", str, ["paper", "wide", "huge"], choices=SHAPES)
    several("density", float, [0.1, 0.01])
    several("batch", int, [1, 32, 256, 1024], help="rows; 1 is for prediction alone")
    several("threads", int, sorted({1, min(2, cores)})[-1:])
    several("credit", str, ["active", "all"], choices=["active", "all"])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each case")
    parser.add_argument("--quick", action="store_true", help="less than a minute")
    parser.add_argument("--target", action="store_true", help="mark which targets hold")
    parser.add_argument(
        "--data", metavar="FOLDER", help="MNIST, for the epoch: else random numbers"
    )
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--no-compile", action="store_true", help="no torch.compile")
    return parser


def parse(arguments=None):
    """Parse the command line; `--quick` gives way to what is said beside it."""
    parser = make_parser()
    parsed = parser.parse_args(arguments)
    if parsed.quick:
        parser.set_defaults(**QUICK, seconds=0.5, no_compile=True)
        parsed = parser.parse_args(arguments)
    return parsed


def cases(parsed):
    """The cases that were asked for, each task's in a row."""
    grid = itertools.product(
        parsed.task, parsed.threads, parsed.shape, parsed.batch, parsed.density
    )
    seen = set()
    for task, threads, shape, batch, density in grid:
        shape = ONLY_SHAPE.get(task, shape)
        if task == "digits":
            batch = 32
        if task == "digits" and density != max(parsed.density):
            continue
        if batch == 1 and task != "predict":
            continue
        variants = parsed.credit if task in ("step", "epoch") else [""]
        for variant in variants:
            case = Case(task, shape, density, batch, threads, variant)
            if case not in seen:
                seen.add(case)
                yield case


def load_torch(notes):
    """The module of PyTorch's contenders, or None and a note."""
    try:
        from stochnet.bench import with_torch
    except ImportError:
        notes.append("PyTorch is not installed.")
        return None
    return with_torch


def load_data(folder):
    """Training rows and classes of the data set in `folder`, if one is given."""
    if folder is None:
        return None
    try:
        X, y, _, _ = load_idx(folder)
    except (OSError, ValueError) as error:
        raise SystemExit(f"--data: {error}") from error
    n_inputs = SHAPES[ONLY_SHAPE["epoch"]].n_inputs
    if X.shape[1] != n_inputs:
        raise SystemExit(
            f"--data: images of {X.shape[1]} pixels, {n_inputs} are timed."
        )
    return X, y.astype(np.int32)


def measure_limits(parsed, with_torch):
    """Limits by number of threads: one, and what was asked for."""
    repeats, found = 5 if parsed.quick else 20, {}
    for n_threads in sorted({1, *parsed.threads}):
        products = [
            *tasks.products(n_threads, with_torch).values(),
            limits.scipy_product,
        ]
        found[n_threads] = limits.measure(
            n_threads,
            products,
            repeats=repeats,
            own_rate=kernels.dense_rate(n_threads, repeats),
            at_least=found.get(1),
        )
    return found


def main(arguments=None):
    """Run what the command line asks for; returns the document for JSON."""
    parsed, notes = parse(arguments), []
    data = load_data(parsed.data)
    with_torch = None if parsed.no_torch else load_torch(notes)
    machine = limits.machine()
    if machine["load"] and machine["load"][0] > machine["cpus"] / 4:
        notes.append("Other programs load the machine: do not trust the ratios.")
    load = machine["load"]
    print(
        f"{machine['cpu']}, {machine['cpus']} CPUs, {report.engine.simd()}, load "
        + (" ".join(f"{x:.2f}" for x in load) if load else "unknown")
    )
    options = tasks.Options(
        parsed.seconds, with_torch, not parsed.no_compile, data=data
    )
    options.limits = measure_limits(parsed, with_torch)
    for n_threads, rates in options.limits.items():
        print(report.format_limits(n_threads, rates))
    for note in notes:
        print(note)
    print(flush=True)
    results = []
    for case in cases(parsed):
        for result in tasks.run(case, options):
            print(report.format_result(result, parsed.target), flush=True)
            results.append(result)
    print("", report.format_table(results), sep="\n")
    for line in report.format_scaling(results) + report.format_threads(results):
        print(line)
    if parsed.target:
        print(report.format_targets(results))
    machine["load at the end"] = limits.machine()["load"]
    content = report.document(
        results,
        machine=machine,
        limits=options.limits,
        arguments=vars(parsed),
        notes=notes,
    )
    if parsed.json:
        report.write(parsed.json, content)
    return content


if __name__ == "__main__":
    main(sys.argv[1:])
