/* Noisy rectifier (Sec. 2.1): h = max(0, a + z), z Gaussian or logistic. */
#include "unit.h"

static void noisy_rectifier_forward(float *restrict h, const sn_unit_row *row)
{
    for (int64_t b = 0; b < row->n; b++) {
        const float x = row->a[b] + row->z[b];
        h[b] = x > 0.0f ? x : 0.0f;
    }
}

/* Gaussian: Phi(a / scale). Logistic: sigm(a / scale), Proposition 1 (a). */
static void noisy_rectifier_probability(float *restrict p, float *restrict dp,
                                        const sn_unit_row *row)
{
    const float inverse = 1.0f / row->noise->scale;
    if (row->noise->additive == SN_LOGISTIC)
        sigmoid_probability(p, dp, row->a, inverse, 0.0f, row->n);
    else
        for (int64_t b = 0; b < row->n; b++) {
            p[b] = sn_normal_cdf(row->a[b] * inverse);
            dp[b] = inverse * sn_normal_density(row->a[b] * inverse);
        }
}

/* 0, "mean": E[h | a]. Logistic: scale softplus(a / scale), Proposition 1 (b).
   Gaussian: a Phi(a / scale) + scale phi(a / scale).
   1, "rectified": max(0, a), the noise replaced by its mean. */
static void noisy_rectifier_value(float *restrict h, int32_t choice,
                                  const sn_unit_row *row)
{
    const float scale = row->noise->scale, inverse = 1.0f / scale;
    if (choice == 1)
        rectifier_value(h, choice, row);
    else if (row->noise->additive == SN_LOGISTIC)
        for (int64_t b = 0; b < row->n; b++)
            h[b] = scale * sn_softplus(row->a[b] * inverse);
    else
        for (int64_t b = 0; b < row->n; b++) {
            float t = row->a[b] * inverse;
            t = t < -14.0f ? -14.0f : t; /* no infinity times zero */
            const float mean = t * sn_normal_cdf(t) + sn_normal_density(t);
            h[b] = mean < 0.0f ? 0.0f : scale * mean; /* the terms cancel far below 0 */
        }
}

static float noisy_rectifier_positive_above(int32_t choice)
{
    return choice == 1 ? 0.0f : -INFINITY;
}

static double noisy_rectifier_initial_bias(double density, double spread,
                                           const sn_noise *noise, double temperature)
{
    (void)spread, (void)temperature;
    return noise->scale * (noise->additive == SN_LOGISTIC ? logit(density)
                                                          : normal_quantile(density));
}

static const sn_unit noisy_rectifier = {
    .name = "noisy_rectifier",
    .z = SN_Z_ADDITIVE,
    .forward = noisy_rectifier_forward,
    .derivative = rectifier_derivative,
    .smooth_probability = 1,
    .probability = noisy_rectifier_probability,
    .values = {"mean", "rectified"},
    .value = noisy_rectifier_value,
    .positive_above = noisy_rectifier_positive_above,
    .initial_bias = noisy_rectifier_initial_bias,
};
