"""Pseudo-random priorities of a stream's rows, the lowest of which are its sample."""
import numpy as np

from libc.stdint cimport int64_t, uint64_t

#: Rows that one search looks at.
cdef int64_t MOST_ROWS = 1 << 24


cdef uint64_t _priority(uint64_t position, uint64_t seed) noexcept nogil:
    """Position and seed, mixed as SplitMix64 does (Steele, Lea & Flood 2014)."""
    cdef uint64_t x = position * <uint64_t>0x9E3779B97F4A7C15 + seed
    x = (x ^ (x >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * <uint64_t>0x94D049BB133111EB
    return x ^ (x >> 31)


def priorities(int64_t start, int64_t n, uint64_t seed):
    """Of rows `start` to `start + n` of a stream, (n,), uint64."""
    out = np.empty(n, dtype=np.uint64)
    cdef uint64_t[::1] values = out
    cdef int64_t i
    for i in range(n):
        values[i] = _priority(start + i, seed)
    return out


def next_below(int64_t start, uint64_t seed, uint64_t limit):
    """First row from `start` on whose priority is below `limit`.

    Where the next 2^24 have none, the one after them.
    """
    cdef int64_t i = start, end = start + MOST_ROWS
    while i < end and _priority(i, seed) >= limit:
        i += 1
    return i
