"""Report what a bug report needs to know."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

_DISTRIBUTIONS = (
    "stochnet",
    "numpy",
    "scipy",
    "scikit-learn",
    "joblib",
    "threadpoolctl",
)

# OpenMP tells its specification's date, people know the number.
_OPENMP = {
    200505: "2.5",
    200805: "3.0",
    201107: "3.1",
    201307: "4.0",
    201511: "4.5",
    201811: "5.0",
    202011: "5.1",
    202111: "5.2",
    202411: "6.0",
}


def _installed(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _openmp(date):
    if not date:
        return "no, serial build"
    return f"{_OPENMP[date]} ({date})" if date in _OPENMP else str(date)


def _version_info():
    """
    Collect the versions and the settings of the build in use.

    Returns
    -------
    dict
        Names to strings, in the order in which `show_versions` prints them.
    """
    info = {
        "python": sys.version.replace("\n", " "),
        "platform": platform.platform(),
    }
    info.update((name, _installed(name)) for name in _DISTRIBUTIONS)
    try:
        # Here, and not above: a report is needed most when this import fails.
        from stochnet._kernels import engine
    except ImportError as error:
        info["engine"] = f"cannot be imported: {error}"
    else:
        build = engine.build_info()
        info["cython"] = str(build.get("cython", "unknown"))
        info["compiler"] = str(build.get("compiler", "unknown"))
        info["openmp"] = _openmp(build.get("openmp", 0))
        info["threads"] = str(engine.max_threads())
        info["instructions"] = str(engine.simd())
        info["instructions available"] = ", ".join(engine.simd_available())
    info["cpus"] = str(os.cpu_count())
    return info


def show_versions():
    """
    Print the versions and the settings of the build in use.

    Prints those of Python, of the platform, of stochnet and of what it depends
    on; then how the engine was compiled (Cython, C compiler, OpenMP), the number
    of threads used by default, and the instruction sets in use and available.
    Please include the output in bug reports.

    Examples
    --------
    >>> import stochnet
    >>> stochnet.show_versions()  # doctest: +SKIP
    """
    info = _version_info()
    width = max(map(len, info))
    for name, value in info.items():
        print(f"{name:>{width}}: {value}")
