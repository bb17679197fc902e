/* Rows of noise, one for each unit. Every draw takes one uniform through the inverse
 * distribution function, so that element b of a row depends on (key, counter, b) only.
 */
#include "layout.h"
#include "philox.h"
#include "scalar.h"
#include "stochnet.h"
#include "vector.h"

static void philox_block(uint32_t out[4], const uint32_t counter[4],
                         const uint32_t key[2])
{
    const sn_words zero = {0};
    sn_words c[4] = {zero + counter[0], zero + counter[1], zero + counter[2],
                     zero + counter[3]};
    sn_words unused[4] = {zero, zero, zero, zero};
    philox(c, unused, key);
    for (int i = 0; i < 4; i++)
        out[i] = (uint32_t)c[i][0];
}

typedef int32_t sn_int_vec __attribute__((vector_size(4 * SN_LANES)));
typedef uint32_t sn_bits_vec __attribute__((vector_size(4 * SN_LANES)));

/* On the grid (i + 1/2) 2^-23, never 0 or 1. */
SN_INLINE sn_vec uniform_of_bits(sn_vec bits)
{
    const sn_int_vec i = (sn_int_vec)((sn_bits_vec)bits >> 9);
    return (__builtin_convertvector(i, sn_vec) + 0.5f) * (1.0f / 8388608.0f);
}

/* Four draws of each of SN_WORDS counters. OUT out (4 SN_WORDS). IN c, random words. */
SN_INLINE void store_uniforms(float *out, const sn_words c[4])
{
    const sn_vec first = (sn_vec)((c[0] & 0xFFFFFFFFu) | c[1] << 32);
    const sn_vec last = (sn_vec)((c[2] & 0xFFFFFFFFu) | c[3] << 32);
    sn_store(out, uniform_of_bits(SN_INTERLEAVE_PAIRS_LOW(first, last)));
    sn_store(out + SN_LANES, uniform_of_bits(SN_INTERLEAVE_PAIRS_HIGH(first, last)));
}

/* Which units and blocks of four rows are drawn for next, SN_WORDS of them. */
typedef struct {
    sn_words unit, block;
} sn_places;

/* Blocks behind a unit's last are the next unit's. */
SN_INLINE void carry(sn_places *places, uint64_t n_blocks)
{
    const sn_words zero = {0}, last = zero + (n_blocks - 1);
    /* -1 where the next unit begins; in halves, as all machines compare those */
    const sn_words next = (sn_words)((sn_int_vec)places->block > (sn_int_vec)last);
    places->unit += next & 1;
    places->block -= next & n_blocks;
}

/* From the first block of unit `first` on. Never lane by lane: a vector that is read just after
   its parts were written waits for all that was written before. */
SN_INLINE sn_places places_from(uint32_t first, uint64_t n_blocks)
{
    const sn_words zero = {0};
#if SN_LANES == 16
    const sn_words lane = {0, 1, 2, 3, 4, 5, 6, 7};
#elif SN_LANES == 8
    const sn_words lane = {0, 1, 2, 3};
#else
    const sn_words lane = {0, 1};
#endif
    sn_places places = {zero + first, lane};
    for (uint64_t i = n_blocks; i < SN_WORDS; i += n_blocks)
        carry(&places, n_blocks);
    return places;
}

/* OUT c: the counters of `places`, which move on by SN_WORDS. */
SN_INLINE void next_counters(sn_words c[4], sn_places *places, const sn_draw *draw,
                             uint32_t purpose, uint64_t n_blocks)
{
    const sn_words zero = {0};
    c[0] = places->unit;
    c[1] = places->block + draw->row / 4;
    c[2] = zero + draw->step;
    c[3] = zero + (draw->layer << 8 | draw->mode << 4 | purpose);
    places->block += SN_WORDS % n_blocks;
    places->unit += SN_WORDS / n_blocks;
    carry(places, n_blocks);
}

/* Uniform draws of n_units units from `first` on for n rows each, from draw->row on, one
   unit after the other: a short row alone would not fill a vector.
   OUT out (n_units, n). n a positive multiple of 4. */
static void uniforms(float *restrict out, const sn_draw *draw, uint32_t purpose,
                     uint32_t first, int64_t n_units, int64_t n)
{
    enum { AT_ONCE = 2 * 4 * SN_WORDS };
    const sn_draw of = *draw;
    const uint64_t n_blocks = (uint64_t)n / 4;
    const int64_t count = n_units * n;
    sn_places places = places_from(first, n_blocks);
    for (int64_t i = 0; i < count; i += AT_ONCE) {
        float end[AT_ONCE], *place = i + AT_ONCE <= count ? out + i : end;
        sn_words c[4], d[4];
        next_counters(c, &places, &of, purpose, n_blocks);
        next_counters(d, &places, &of, purpose, n_blocks);
        philox(c, d, of.key);
        store_uniforms(place, c);
        store_uniforms(place + AT_ONCE / 2, d);
        if (place == end)
            memcpy(out + i, end, (size_t)(count - i) * sizeof *out);
    }
}

/* The same for one unit. OUT out (n). */
static void uniform(float *restrict out, const sn_draw *draw, uint32_t purpose,
                    uint32_t unit, int64_t n)
{
    uniforms(out, draw, purpose, unit, 1, n);
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

/* All that is added to the pre-activations of n_units units from `first` on, n rows each,
   one unit after the other: Gaussian or logistic noise, Beta noise (App. A.2) by its quantile
   table, or both.
   OUT out (n_units, n). n a multiple of SN_PAD; of several units no more than STRIP in all. */
static void additive(float *restrict out, const sn_noise *noise, const sn_draw *draw,
                     uint32_t first, int64_t n_units, int64_t n)
{
    if (noise->additive == SN_NO_NOISE) {
        memset(out, 0, (size_t)(n_units * n) * sizeof *out);
    } else {
        uniforms(out, draw, SN_ADDITIVE, first, n_units, n);
        (noise->additive == SN_GAUSSIAN ? gaussian : logistic)(out, noise->scale,
                                                               n_units * n);
    }
    for (int64_t b = 0; noise->quantiles && b < n; b += STRIP) {
        float u[STRIP];
        const int64_t length = smaller(STRIP, n - b);
        sn_draw piece = *draw;
        piece.row += (uint32_t)b;
        uniforms(u, &piece, SN_BETA, first, n_units, length);
        add_quantile(out + b, u, noise->quantiles, noise->n_quantiles, n_units * length);
    }
}
