/* Noise rows of one unit. Every draw takes one uniform through the inverse
 * distribution function, so that element b of a row depends on (key, counter, b) only.
 */
#include "layout.h"
#include "philox.h"
#include "scalar.h"
#include "stochnet.h"

static void philox_block(uint32_t out[4], const uint32_t counter[4],
                         const uint32_t key[2])
{
    philox(out, counter, key);
}

/* Four draws on the grid (i + 1/2) 2^-23, never 0 or 1. */
SN_INLINE void four_uniforms(float *restrict out, const sn_draw *draw, uint32_t purpose,
                             uint32_t unit, uint32_t block)
{
    const uint32_t key[2] = {draw->key[0], draw->key[1]};
    const uint32_t counter[4] = {unit, draw->row / 4 + block, draw->step,
                                 draw->layer << 8 | draw->mode << 4 | purpose};
    uint32_t bits[4];
    philox(bits, counter, key);
    for (int i = 0; i < 4; i++)
        out[i] = ((float)(int32_t)(bits[i] >> 9) + 0.5f) * (1.0f / 8388608.0f);
}

/* Uniform draws of one unit for rows draw->row + b.
   OUT out (n). IN unit; purpose. n must be a multiple of 4. */
static void uniform(float *restrict out, const sn_draw *draw, uint32_t purpose,
                    uint32_t unit, int64_t n)
{
    const sn_draw of = *draw;
    for (int64_t block = 0; block < n / 4; block++)
        four_uniforms(out + 4 * block, &of, purpose, unit, (uint32_t)block);
}

/* The same for n_units units from `first` on, one row after the other: the ten rounds of
   a short row alone would be waited for.
   OUT out (n_units, n). n a multiple of SN_PAD. */
static void uniforms(float *restrict out, const sn_draw *draw, uint32_t purpose,
                     uint32_t first, int64_t n_units, int64_t n)
{
    const sn_draw of = *draw;
    uint32_t unit[STRIP / 4], block[STRIP / 4];
    int64_t count = 0;
    for (uint32_t u = 0; u < n_units; u++)
        for (uint32_t b = 0; b < n / 4; b++, count++) {
            unit[count] = first + u;
            block[count] = b;
        }
    for (int64_t i = 0; i < count; i++)
        four_uniforms(out + 4 * i, &of, purpose, unit[i], block[i]);
}

/* Initial weights, uniform on +-limit; threads share the units.
   OUT w (n_units, ld_w), its first n columns. ld_w = padded(n). */
static void uniform_weights(float *restrict w, int64_t ld_w, const sn_draw *draw,
                            float limit, int64_t n_units, int64_t n, int32_t n_threads)
{
    (void)n_threads;
#pragma omp parallel for schedule(static) num_threads(n_threads) if (n_threads > 1)
    for (int64_t unit = 0; unit < n_units; unit++) {
        float *row = w + unit * ld_w;
        uniform(row, draw, SN_WEIGHTS, (uint32_t)unit, ld_w);
        for (int64_t d = 0; d < n; d++)
            row[d] = limit * (2.0f * row[d] - 1.0f);
        for (int64_t d = n; d < ld_w; d++)
            row[d] = 0.0f;
    }
}

static void gaussian(float *restrict out, float scale, int64_t n)
{
    for (int64_t b = 0; b < n; b++)
        out[b] = scale * sn_normal_quantile(out[b]);
}

static void logistic(float *restrict out, float scale, int64_t n)
{
    for (int64_t b = 0; b < n; b++)
        out[b] = scale * sn_logit(out[b]);
}

/* Adds the quantile function at u, linear between the n_quantiles of its table. */
static void add_quantile(float *restrict out, const float *restrict u,
                         const float *restrict quantiles, int64_t n_quantiles,
                         int64_t n)
{
    for (int64_t b = 0; b < n; b++) {
        const float position = u[b] * (float)(n_quantiles - 1);
        const int32_t cell = (int32_t)position;
        const float left = quantiles[cell], right = quantiles[cell + 1];
        out[b] += left + (position - (float)cell) * (right - left);
    }
}

/* All that is added to the pre-activation of a unit: Gaussian or logistic noise, Beta
   noise (App. A.2) by its quantile table, or both.
   OUT out (n). n must be a multiple of SN_PAD. */
static void additive(float *restrict out, const sn_noise *noise, const sn_draw *draw,
                     uint32_t unit, int64_t n)
{
    if (noise->additive == SN_NO_NOISE) {
        for (int64_t b = 0; b < n; b++)
            out[b] = 0.0f;
    } else {
        uniform(out, draw, SN_ADDITIVE, unit, n);
        (noise->additive == SN_GAUSSIAN ? gaussian : logistic)(out, noise->scale, n);
    }
    if (noise->quantiles) {
        /* in short pieces, so that no scratch row is needed */
        for (int64_t b = 0; b < n; b += SN_PAD) {
            float u[SN_PAD];
            sn_draw piece = *draw;
            piece.row += (uint32_t)b;
            uniform(u, &piece, SN_BETA, unit, SN_PAD);
            add_quantile(out + b, u, noise->quantiles, noise->n_quantiles, SN_PAD);
        }
    }
}
