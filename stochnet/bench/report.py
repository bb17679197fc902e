"""The table that is printed, and the JSON that is written."""

import json
import platform
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version

from stochnet._kernels import engine

_LIBRARIES = ("stochnet", "numpy", "scipy", "scikit-learn", "threadpoolctl", "torch")


def versions():
    """Versions of the libraries that take part; None where one is not installed."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def to_dict(result):
    """A `Result` for JSON."""
    out = {**asdict(result.case), "densities": result.densities}
    out["timings"] = {name: asdict(t) for name, t in result.timings.items()}
    for name in ("reference", "ratio", "limit", "target", "holds", "memory", "notes"):
        out[name] = getattr(result, name)
    out["medium"] = None
    if result.medium:
        out["medium"] = {"name": result.medium[0], "ratio": result.medium[1]}
    return out


def document(results, *, machine, limits, arguments, notes):
    """Everything that a run found out, for JSON."""
    return {
        "machine": machine,
        "instructions": engine.simd(),
        "build": engine.build_info(),
        "versions": versions(),
        "arguments": arguments,
        "limits": {str(n): rates.to_dict() for n, rates in limits.items()},
        "results": [to_dict(result) for result in results],
        "notes": notes,
    }


def write(path, content):
    """Write JSON; NaN and infinity, which it does not have, are errors."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, allow_nan=False)
        file.write("\n")


def format_limits(n_threads, limits):
    """One line on what the machine can do."""
    reading = ", ".join(
        f"{_size(size)} {rate / 1e9:.0f}" for size, rate in limits.bandwidth.items()
    )
    return (
        f"{n_threads} thread{'s' * (n_threads > 1)}: GFLOP/s: sgemm "
        f"{limits.sgemm / 1e9:.0f}, at best "
        f"{limits.flops / 1e9:.0f}; reading, GB/s by size of the buffer: {reading}"
    )


def _size(n_bytes):
    return f"{n_bytes >> 20}M" if n_bytes >= 1 << 20 else f"{n_bytes >> 10}K"


def format_result(result, with_target=False):
    """The lines of one result: the case and its ratios, then each contender."""
    case = result.case
    line = (
        f"{case.task:<8}{case.variant:<15}{case.shape:<8} density {case.density:<5g}"
        f"batch {case.batch:<5}threads {case.threads}"
    )
    if result.densities:
        line += " measured " + " ".join(f"{d:.4f}" for d in result.densities)
    if result.ratio is not None:
        line += f" | {result.ratio:.2f} x {result.reference}"
    if result.medium:
        line += f" ({result.medium[1]:.2f} x {result.medium[0]})"
    if result.limit:
        line += f" | {_limit(result.limit)}"
    if with_target and result.target is not None:
        verdict = {True: "holds", False: "MISSED", None: "no reference"}[result.holds]
        line += f" | target {result.target:g}: {verdict}"
    for name, used in (result.memory or {}).items():
        peak, more = used["peak"], used["peak"] - used["before"]
        line += f" | {name} peak {peak / 2**20:.0f} MB, {more / 2**20:.0f} MB by fit"
    rows = [line]
    if result.timings:
        rows.append(
            "    " + ", ".join(_timing(*item) for item in result.timings.items())
        )
    return "\n".join(rows + [f"    {note}" for note in result.notes])


def _limit(limit):
    parts = [f"{limit['share']:.0%} of limit ({limit['bound']})"]
    if limit.get("sgemm_share"):
        parts.append(f"{limit['sgemm_share']:.0%} of sgemm's rate")
    if limit.get("gathering_share"):
        parts.append(f"rows of x at {limit['gathering_share']:.0%} of their cache's")
    return ", ".join(parts)


def _timing(name, timing):
    return f"{name} {timing.median * 1e3:.3f} ms ({timing.spread:.0%})"


_HEADINGS = (
    ("task", 8),
    ("variant", 15),
    ("shape", 8),
    ("density", 8),
    ("batch", 6),
    ("threads", 8),
    ("ms", 11),
    ("spread", 7),
    ("times as fast as", 24),
    ("medium", 8),
    ("of limit", 9),
    ("target", 8),
)


def format_table(results):
    """All results that have times, one line each."""
    rows = [[name for name, _ in _HEADINGS]]
    rows += [_cells(result) for result in results if result.timings]
    widths = [width for _, width in _HEADINGS]
    lines = [
        "".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _cells(result):
    case, own = result.case, result.timings["stochnet"]
    numbers = f"{case.density:g}", str(case.batch), str(case.threads)
    verdict = "" if result.target is None else f"{result.target:g}"
    if result.holds is not None:
        verdict += " yes" if result.holds else " NO"
    return [
        case.task,
        case.variant,
        case.shape,
        *numbers,
        f"{own.median * 1e3:.3f}",
        f"{own.spread:.0%}",
        f"{result.ratio:.2f} {result.reference}" if result.reference else "",
        f"{result.medium[1]:.2f}" if result.medium else "",
        f"{result.limit['share']:.0%}" if result.limit else "",
        verdict,
    ]


def format_scaling(results):
    """How far each kernel's time is from its limit, over densities and shapes."""
    found = {}
    for result in results:
        if result.limit:
            case = result.case
            key = case.variant, case.batch, case.threads
            found.setdefault(key, []).append(1 / result.limit["share"])
    return [
        f"{variant}, batch {batch}, threads {threads}: {min(times):.2f} to "
        f"{max(times):.2f} times the limit's time in {len(times)} cases, within a "
        f"factor of {max(times) / min(times):.2f}"
        for (variant, batch, threads), times in found.items()
        if len(times) > 1
    ]


def format_threads(results):
    """What more threads gain over one, case by case."""
    single = {
        replace(result.case, threads=1): result.timings["stochnet"].median
        for result in results
        if result.timings and result.case.threads == 1
    }
    lines = []
    for result in results:
        case = result.case
        alone = single.get(replace(case, threads=1))
        if alone is None or case.threads == 1:
            continue
        gain = alone / result.timings["stochnet"].median
        lines.append(
            f"{case.task} {case.variant} {case.shape} density {case.density:g} batch "
            f"{case.batch}: {case.threads} threads {gain:.2f} times as fast as one"
        )
    return lines


def format_targets(results):
    """One line that counts targets."""
    judged = [r for r in results if r.holds is not None]
    return f"{sum(r.holds for r in judged)} of {len(judged)} targets hold"
