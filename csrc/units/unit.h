/* What several units share. A unit is described by `sn_unit` in stochnet.h; its row
 * functions are loops over n floats, n a multiple of SN_PAD, that the compiler
 * vectorises. To add one: write units/NAME.c and add it to units/table.h.
 */
#ifndef SN_UNIT_H
#define SN_UNIT_H

#include "../scalar.h"
#include "../stochnet.h"

/* max(0, a) */
static void rectifier_value(float *restrict h, int32_t choice, const sn_unit_row *row)
{
    (void)choice;
    for (int64_t b = 0; b < row->n; b++)
        h[b] = row->a[b] > 0.0f ? row->a[b] : 0.0f;
}

static void rectifier_derivative(float *restrict dh, const float *restrict h,
                                 const sn_unit_row *row)
{
    for (int64_t b = 0; b < row->n; b++)
        dh[b] = h[b] > 0.0f ? 1.0f : 0.0f;
}

static void sigmoid_of_a(float *restrict p, const sn_unit_row *row)
{
    for (int64_t b = 0; b < row->n; b++)
        p[b] = sn_sigmoid(row->a[b]);
}

/* p = sigm(scale a + shift), dp = dp/da */
static void sigmoid_probability(float *restrict p, float *restrict dp,
                                const float *restrict a, float scale, float shift,
                                int64_t n)
{
    for (int64_t b = 0; b < n; b++) {
        float complement;
        p[b] = sn_sigmoid_and(&complement, scale * a[b] + shift);
        dp[b] = scale * p[b] * complement;
    }
}

/* Of units that always fire. */
static void certain_probability(float *restrict p, float *restrict dp,
                                const sn_unit_row *row)
{
    (void)dp;
    for (int64_t b = 0; b < row->n; b++)
        p[b] = 1.0f;
}

static void sigmoid_value(float *restrict h, int32_t choice, const sn_unit_row *row)
{
    (void)choice;
    sigmoid_of_a(h, row);
}

static float positive_everywhere(int32_t choice)
{
    (void)choice;
    return -INFINITY;
}

static double zero_initial_bias(double density, double spread, const sn_noise *noise,
                                double temperature)
{
    (void)density, (void)spread, (void)noise, (void)temperature;
    return 0.0;
}

static inline double logit(double p)
{
    return log(p / (1.0 - p));
}

static inline double normal_quantile(double p)
{
    return (double)sn_normal_quantile((float)p);
}

#endif
