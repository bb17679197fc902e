"""What the machine can do at best: matrix products and reading memory."""

import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import as_strided
from scipy.linalg.blas import sgemm
from threadpoolctl import threadpool_limits

from stochnet.bench.timing import make_workers, share_out

#: Bytes of the buffers that are read, all threads together: from L2 to memory.
BUFFERS = tuple(2**i for i in (18, 20, 21, 22, 23, 24, 25, 26, 28))

#: Rows and columns of the matrices that are multiplied.
MATRIX = 1024
_COLUMNS = 1024


@dataclass(frozen=True)
class Limits:
    """Rates of the machine with some number of threads.

    Attributes
    ----------
    sgemm : float
        Floating point operations per second of BLAS's large float32 matrix product.
    flops : float
        The same of whatever is fastest: some BLAS are far from what a processor can do.
    bandwidth : dict of int to float
        Bytes per second of reading a buffer of so many bytes again and again.
    """

    sgemm: float
    flops: float
    bandwidth: dict

    def seconds(self, flops, n_bytes, working_set):
        """Least time for so many operations and bytes, and which of them sets it.

        Parameters
        ----------
        flops, n_bytes : float
        working_set : float
            Bytes that are in use at a time, which decides about the cache.
        """
        computing = flops / self.flops
        reading = n_bytes / self.bandwidth_of(working_set)
        return max(computing, reading), "flops" if computing > reading else "bytes"

    def bandwidth_of(self, working_set):
        """Bytes per second of reading so many bytes again and again."""
        fitting = [size for size in self.bandwidth if size >= working_set]
        return self.bandwidth[min(fitting, default=max(self.bandwidth))]

    def to_dict(self):
        """For JSON."""
        return asdict(self)


def measure(n_threads, products, *, repeats=20, own_rate=0.0, at_least=None):
    """Measure the `Limits`.

    Parameters
    ----------
    n_threads : int
    products : iterable of callable
        Float32 matrix products; the fastest counts.
    repeats : int
        Of which the best counts: these are limits.
    own_rate : float
        Operations per second of the package's own kernel.
    at_least : Limits, optional
        Of fewer threads, which more threads do not lower.
    """
    with threadpool_limits(n_threads):
        sgemm = max(_product_rate(f, repeats) for f in products)
    with threadpool_limits(1), make_workers(n_threads) as workers:
        bandwidth = {size: _bandwidth(size, workers, repeats) for size in BUFFERS}
    flops = max(sgemm, own_rate)
    if at_least is not None:
        sgemm, flops = max(sgemm, at_least.sgemm), max(flops, at_least.flops)
        bandwidth = {
            size: max(rate, at_least.bandwidth[size])
            for size, rate in bandwidth.items()
        }
    return Limits(sgemm, flops, bandwidth)


def best_seconds(run, repeats):
    """Shortest time of so many calls, after a warm-up."""
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def scipy_product(a, b):
    """A float32 matrix product by SciPy's BLAS, which need not be NumPy's."""
    return sgemm(1.0, b.T, a.T).T  # transposed: BLAS wants columns


def _product_rate(product, repeats):
    a, b = np.random.default_rng(0).random((2, MATRIX, MATRIX), dtype=np.float32)
    return 2 * MATRIX**3 / best_seconds(lambda: product(a, b), repeats)


def _bandwidth(size, workers, repeats):
    """Bytes per second of matrix-vector products, one matrix a thread.

    Each thread runs through its matrix several times within one call: along a first
    axis of stride zero.
    """
    n_threads = len(workers)
    n_rows = max(1, size // (4 * _COLUMNS * n_threads))
    passes = max(1, 2**28 // size)
    generator = np.random.default_rng(0)
    vector = generator.random(_COLUMNS, dtype=np.float32)
    products = []
    for _ in range(n_threads):
        matrix = generator.random((n_rows, _COLUMNS), dtype=np.float32)
        shape, strides = (passes, *matrix.shape), (0, *matrix.strides)
        products.append((as_strided(matrix, shape, strides, writeable=False), vector))
    seconds = best_seconds(lambda: share_out(workers, np.matmul, products), repeats)
    return 4 * _COLUMNS * n_rows * n_threads * passes / seconds


def machine():
    """Processor, number of CPUs, caches and present load, for the report."""
    try:
        load = os.getloadavg()
    except (AttributeError, OSError):
        load = None
    return {
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "caches": _caches(),
        "load": load,
        "platform": platform.platform(),
    }


def _cpu_model():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    models = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return models[0] if models else platform.processor()


def _caches():
    """Names and sizes of the first CPU's caches, where Linux tells them."""
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (
            (index / name).read_text().strip() for name in ("level", "type", "size")
        )
        found[f"L{level} {kind}"] = size
    return found
