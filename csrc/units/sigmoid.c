/* Sigmoid, the paper's dense baseline (Sec. 5): h = sigm(a), with optional noise on a.
 * It never is zero.
 */
#include "unit.h"

static void sigmoid_forward(float *restrict h, const sn_unit_row *row)
{
    sigmoid_of_a(h, row);
}

static void sigmoid_derivative(float *restrict dh, const float *restrict h,
                               const sn_unit_row *row)
{
    sigmoid_slope(dh, h, row);
}

static void sigmoid_probability(float *restrict p, const sn_unit_row *row)
{
    for (int64_t b = 0; b < row->n; b++)
        p[b] = 1.0f;
}

static void sigmoid_value(float *restrict h, int32_t choice, const sn_unit_row *row)
{
    (void)choice;
    sigmoid_of_a(h, row);
}

static double sigmoid_initial_bias(double density, double spread,
                                   const sn_noise *noise)
{
    (void)density, (void)spread, (void)noise;
    return 0.0;
}

static const sn_unit sigmoid = {
    .name = "sigmoid",
    .z = SN_Z_NONE,
    .gate_noise = 1,
    .always_fires = 1,
    .forward = sigmoid_forward,
    .derivative = sigmoid_derivative,
    .probability = sigmoid_probability,
    .values = {"probability"},
    .value = sigmoid_value,
    .positive_only = never_positive_only,
    .initial_bias = sigmoid_initial_bias,
};
