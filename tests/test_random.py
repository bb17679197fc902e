"""Random numbers: Philox by its published vectors, the rest by a NumPy Philox.

All keys are fixed, so every statistical test here either always passes or always
fails. Its limits say how unlikely the fixed outcome may be: a p-value of at least
P_FLOOR, a z-score of at most Z_LIMIT (a p-value of 6e-7, but many scores are taken).
"""

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtri

from stochnet import gaters
from stochnet._kernels import random
from stochnet._kernels.arrays import row_length

KEY = (0x243F6A88, 0x85A308D3)
MODES = {"training": 0, "sampling": 1}
UNIFORM, ADDITIVE, BETA, WEIGHTS = 0, 1, 2, 5
P_FLOOR = 1e-4
Z_LIMIT = 5.0

# Beta noise: the paper's, a symmetric one (its scale is a limit), nearly uniform ones,
# and skewed ones.
BETA_SHAPES = [(0.1, 40.1), (0.5, 40.1), (0.5, 1.5), (0.01, 1.5), (0.9, 2.0), (0.2, 5)]


def philox(counter, key):
    """Philox4x32-10 of counters (4, ...), written from the paper."""
    c = [np.asarray(word, dtype=np.uint64) for word in counter]
    key = [int(word) for word in key]
    low = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        first = np.uint64(0xD2511F53) * c[0]
        second = np.uint64(0xCD9E8D57) * c[2]
        c = [
            (second >> np.uint64(32)) ^ c[1] ^ np.uint64(key[0]),
            second & low,
            (first >> np.uint64(32)) ^ c[3] ^ np.uint64(key[1]),
            first & low,
        ]
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return np.stack(c)


def uniforms(n_units, n_rows, purpose, step=0, layer=0, mode="training", row=0):
    """Uniforms by the counter layout (unit, row / 4, step, layer, mode, purpose)."""
    units, blocks = np.meshgrid(
        np.arange(n_units), np.arange(row // 4, (row + n_rows + 3) // 4), indexing="ij"
    )
    stream = np.full(units.shape, layer << 8 | MODES[mode] << 4 | purpose)
    words = philox((units, blocks, np.full(units.shape, step), stream), KEY)
    bits = words.transpose(1, 2, 0).reshape(n_units, -1)[:, :n_rows]
    return ((bits >> np.uint64(9)) + 0.5) * 2.0**-23


def noise_of(kind, density=0.1, scale=1.0, beta=40.1):
    return gaters.make_noise(
        kind, density=density, scale=scale, beta=beta, draw_only=False
    )


def million(noise):
    return random.additive(100, 10_000, noise, KEY).ravel()


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000 " * 4, "00000000 " * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_known_answers_of_random123(counter, key, expected):
    counter, key, expected = (
        [int(word, 16) for word in text.split()] for text in (counter, key, expected)
    )
    assert random.philox4x32(counter, key).tolist() == expected
    assert philox(counter, key).tolist() == expected  # the reference below, too


@pytest.mark.parametrize("counter, key", [((0,) * 3, (0, 0)), ((0,) * 4, (0,))])
def test_philox_refuses_wrong_sizes(counter, key):
    with pytest.raises(ValueError, match="words"):
        random.philox4x32(counter, key)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layer", [0, 3])
@pytest.mark.parametrize("step", [0, 1, 2**32 - 1])
@pytest.mark.parametrize("row", [0, 4, 1000, 2**31])
def test_uniform_is_philox_of_the_documented_counter(mode, layer, step, row):
    where = {"step": step, "layer": layer, "mode": mode, "row": row}
    drawn = random.uniform(3, 21, KEY, **where)
    assert drawn.dtype == np.float32
    # exact: the grid (i + 1/2) 2^-23 is representable
    np.testing.assert_array_equal(drawn, uniforms(3, 21, UNIFORM, **where))


@pytest.mark.parametrize("n", [1, 16, 21])
@pytest.mark.parametrize("number", [0, 3])
def test_weights_are_uniforms_of_their_own(n, number):
    weight = np.full((5, row_length(n)), np.nan, dtype=np.float32)
    random.fill_uniform(weight, n, 0.3, KEY, number=number)
    u = uniforms(5, n, WEIGHTS, step=number)
    # one rounding of a number up to 0.3
    np.testing.assert_allclose(weight[:, :n], 0.3 * (2 * u - 1), rtol=1e-7, atol=0)
    assert not weight[:, n:].any()


@pytest.mark.parametrize("n_threads", [2, 3])
def test_weights_are_the_same_from_any_number_of_threads(n_threads):
    n = 500
    drawn = np.full((2, 301, row_length(n)), np.nan, dtype=np.float32)
    assert drawn[0].size > random.MIN_SHARED_WEIGHTS
    for weight, threads in zip(drawn, (1, n_threads), strict=True):
        random.fill_uniform(weight, n, 1.0, KEY, number=0, n_threads=threads)
    np.testing.assert_array_equal(drawn[0], drawn[1])


def test_weights_need_padded_rows():
    weight = np.zeros((5, 20), dtype=np.float32)
    with pytest.raises(ValueError, match="must have 32 floats, got 20"):
        random.fill_uniform(weight, 20, 1.0, KEY, number=0)


@pytest.mark.parametrize("mode", MODES)
def test_additive_noise_is_a_quantile_of_its_own_uniforms(mode):
    where = {"step": 7, "layer": 1, "mode": mode, "row": 64}
    noise = noise_of("beta+gaussian", scale=0.5)
    grid = np.linspace(0, 1, len(noise.quantiles))
    expected = 0.5 * ndtri(uniforms(5, 70, ADDITIVE, **where))
    expected += np.interp(uniforms(5, 70, BETA, **where), grid, noise.quantiles)
    # single precision of numbers up to about 3
    np.testing.assert_allclose(
        random.additive(5, 70, noise, KEY, **where), expected, rtol=0, atol=3e-6
    )


def test_no_noise_is_zero():
    assert not random.additive(2, 5, gaters.Noise(), KEY).any()


def test_row_must_begin_a_block():
    with pytest.raises(ValueError, match="multiple of 4"):
        random.uniform(1, 4, KEY, row=2)


@pytest.mark.parametrize("kind", ["uniform", *gaters.NOISES])
def test_a_draw_does_not_depend_on_the_block_it_is_asked_in(kind):
    def draw(n_units, n_rows, row=0):
        if kind == "uniform":
            return random.uniform(n_units, n_rows, KEY, step=3, row=row)
        return random.additive(n_units, n_rows, noise_of(kind), KEY, step=3, row=row)

    whole = draw(9, 133)
    for n_units, n_rows, row in [(9, 133, 0), (1, 1, 0), (4, 17, 12), (9, 1, 132)]:
        block = whole[:n_units, row : row + n_rows]
        np.testing.assert_array_equal(draw(n_units, n_rows, row), block)
    assert draw(3, 0).shape == (3, 0)


# ---- Distributions: 10^6 draws notice an error of 0.002 of a distribution function


def test_distribution_of_uniform():
    u = random.uniform(100, 10_000, KEY).ravel()
    assert 0 < u.min() < u.max() < 1
    assert stats.kstest(u, "uniform").pvalue > P_FLOOR


@pytest.mark.parametrize("scale", [0.1, 1.0, 7.0])
def test_distribution_of_gaussian(scale):
    noise = noise_of("gaussian", scale=scale)
    assert stats.kstest(million(noise), stats.norm(0, scale).cdf).pvalue > P_FLOOR


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_distribution_of_logistic(scale):
    noise = noise_of("logistic", scale=scale)
    assert stats.kstest(million(noise), stats.logistic(0, scale).cdf).pvalue > P_FLOOR


@pytest.mark.parametrize(("density", "beta"), BETA_SHAPES)
def test_distribution_of_beta(density, beta):
    """The table's cells are 1/4096 wide: its error is too small to be seen here."""
    alpha, scale = gaters.beta_noise(density, beta)
    expected = stats.beta(alpha, beta, loc=-0.5 * scale, scale=scale)
    draws = million(noise_of("beta", density, beta=beta))
    assert stats.kstest(draws, expected.cdf).pvalue > P_FLOOR


@pytest.mark.parametrize(("density", "beta"), BETA_SHAPES)
def test_moments_of_beta_plus_gaussian(density, beta):
    """Their sum, not their maximum or their average, and independent of each other."""
    alpha, beta_scale = gaters.beta_noise(density, beta)
    expected = stats.beta(alpha, beta, loc=-0.5 * beta_scale, scale=beta_scale)
    # a Gaussian as wide as the Beta part: neither hides the other
    deviation = expected.std()
    draws = million(noise_of("beta+gaussian", density, deviation, beta)).astype(float)
    n, variance = len(draws), 2 * deviation**2
    assert abs(draws.mean() - expected.mean()) < Z_LIMIT * np.sqrt(variance / n)
    fourth = np.mean((draws - draws.mean()) ** 4)
    error = np.sqrt((fourth - variance**2) / n)
    assert abs(draws.var() - variance) < Z_LIMIT * error


@pytest.mark.parametrize("kind", gaters.NOISES)
@pytest.mark.parametrize(("density", "beta"), BETA_SHAPES)
def test_mean_attribute_is_the_mean_of_the_draws(kind, density, beta):
    noise = noise_of(kind, density, 0.3, beta)
    draws = random.additive(50, 4000, noise, KEY).astype(float)
    error = draws.std() / np.sqrt(draws.size)
    assert abs(draws.mean() - noise.mean) < Z_LIMIT * error


# ---- Independence


def largest_correlation(streams):
    """Largest |z| of the correlations between the rows of `streams`."""
    z = np.corrcoef(streams) * np.sqrt(streams.shape[1])
    np.fill_diagonal(z, 0)
    return np.abs(z).max()


def test_units_and_rows_are_uncorrelated():
    block = random.uniform(64, 16384, KEY)
    assert largest_correlation(block) < Z_LIMIT
    block = random.uniform(16384, 64, KEY)
    assert largest_correlation(block.T) < Z_LIMIT


def test_steps_layers_modes_keys_and_purposes_are_uncorrelated():
    shape = 16, 4096
    streams = [
        random.uniform(*shape, KEY, step=step, layer=layer, mode=mode)
        for step in (0, 1, 2, 256)
        for layer in (0, 1)
        for mode in MODES
    ]
    streams.append(random.uniform(*shape, (KEY[0] + 1, KEY[1])))
    streams.append(random.uniform(*shape, (KEY[0], KEY[1] + 1)))
    streams.append(random.additive(*shape, noise_of("gaussian"), KEY))
    streams.append(random.additive(*shape, noise_of("beta"), KEY))
    assert largest_correlation(np.stack([s.ravel() for s in streams])) < Z_LIMIT
