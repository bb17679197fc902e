"""How many times faster than the strongest reference each case should be.

Ratios hold with two threads; for training steps and predictions the reference is
PyTorch in float32.
"""

N_THREADS = 2

# (task, variant, shape, density): {rows of a mini-batch: ratio}
TARGETS = {
    ("step", "active", "paper", 0.1): {32: 2.6, 256: 2.2},
    ("step", "all", "paper", 0.1): {32: 2.0, 256: 1.7},
    ("step", "active", "wide", 0.1): {32: 5.0, 256: 4.5},
    ("step", "active", "wide", 0.01): {32: 13.0, 256: 8.0},
    ("step", "active", "huge", 0.1): {32: 5.0, 256: 7.0},
    ("step", "active", "huge", 0.01): {32: 12.0, 256: 9.0},
    ("predict", "", "paper", 0.1): {1: 1.5, 32: 2.0, 256: 1.7},
    ("predict", "", "wide", 0.1): {1: 3.0, 32: 3.0, 256: 4.0},
    ("predict", "", "wide", 0.01): {1: 3.0, 32: 6.0, 256: 8.0},
    ("predict", "", "huge", 0.1): {1: 4.0, 32: 3.0, 256: 4.5},
    ("predict", "", "huge", 0.01): {1: 4.0, 32: 8.0, 256: 8.0},
    ("kernel", "expert forward", "paper", 0.1): {32: 4.0, 256: 4.0},
    ("kernel", "expert forward", "paper", 0.01): {32: 20.0, 256: 12.0},
    ("epoch", "active", "paper", 0.1): {32: 3.0, 256: 2.0},
    ("epoch", "all", "paper", 0.1): {32: 3.0, 256: 2.0},
    ("blocks", "", "deep", 0.1): {256: 12.0, 1024: 25.0},
    ("digits", "", "small", 0.1): {32: 5.0},
}


def target_for(case):
    """The ratio that a `stochnet.bench.shapes.Case` should reach, or None."""
    if case.threads != N_THREADS:
        return None
    key = (case.task, case.variant, case.shape, case.density)
    return TARGETS.get(key, {}).get(case.batch)
