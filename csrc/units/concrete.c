/* Binary concrete, or Gumbel-sigmoid (Maddison, Mnih & Teh 2017; Jang, Gu & Poole
 * 2017): h = sigm((a + l) / T), l logistic: the sigmoid unit with a temperature and with
 * logistic noise on its input, so that `a` below contains l. It never is zero; what it
 * relaxes is the gate 1[a + l > 0], which fires with probability sigm(a).
 */
#include "unit.h"

static void concrete_forward(float *restrict h, const sn_unit_row *row)
{
    const float inverse = 1.0f / row->temperature;
    for (int64_t b = 0; b < row->n; b++)
        h[b] = sn_sigmoid(row->a[b] * inverse);
}

static void concrete_derivative(float *restrict dh, const float *restrict h,
                                const sn_unit_row *row)
{
    const float inverse = 1.0f / row->temperature;
    for (int64_t b = 0; b < row->n; b++)
        dh[b] = inverse * h[b] * sn_sigmoid(-row->a[b] * inverse);
}

/* "probability": sigm(a) = P(h > 1/2 | a), to which E[h | a] goes as T goes to 0. */
static const sn_unit concrete = {
    .name = "concrete",
    .z = SN_Z_NONE,
    .gate_noise = 1,
    .always_fires = 1,
    .default_temperature = 2.0f / 3.0f, /* of Maddison et al. for binary variables */
    .forward = concrete_forward,
    .derivative = concrete_derivative,
    .probability = certain_probability,
    .values = {"probability"},
    .value = sigmoid_value,
    .positive_above = positive_everywhere,
    .initial_bias = zero_initial_bias,
};
