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
    for (int64_t b = 0; b < row->n; b++)
        dh[b] = h[b] * sn_sigmoid(-row->a[b]);
}

static const sn_unit sigmoid = {
    .name = "sigmoid",
    .z = SN_Z_NONE,
    .gate_noise = 1,
    .always_fires = 1,
    .forward = sigmoid_forward,
    .derivative = sigmoid_derivative,
    .probability = certain_probability,
    .values = {"probability"},
    .value = sigmoid_value,
    .positive_above = positive_everywhere,
    .initial_bias = zero_initial_bias,
};
