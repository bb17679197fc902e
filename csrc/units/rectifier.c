/* Rectifier without noise, the paper's baseline (Sec. 5): h = max(0, a). */
#include "unit.h"

static void rectifier_forward(float *restrict h, const sn_unit_row *row)
{
    rectifier_value(h, 0, row);
}

static void rectifier_probability(float *restrict p, float *restrict dp,
                                  const sn_unit_row *row)
{
    (void)dp;
    for (int64_t b = 0; b < row->n; b++)
        p[b] = row->a[b] > 0.0f ? 1.0f : 0.0f;
}

static float rectifier_positive_above(int32_t choice)
{
    (void)choice;
    return 0.0f;
}

static double rectifier_initial_bias(double density, double spread,
                                     const sn_noise *noise, double temperature)
{
    (void)noise, (void)temperature;
    return spread * normal_quantile(density);
}

static const sn_unit rectifier = {
    .name = "rectifier",
    .z = SN_Z_NONE,
    .forward = rectifier_forward,
    .derivative = rectifier_derivative,
    .probability = rectifier_probability,
    .values = {"rectified"},
    .value = rectifier_value,
    .positive_above = rectifier_positive_above,
    .initial_bias = rectifier_initial_bias,
};
