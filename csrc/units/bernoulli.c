/* Stochastic binary neuron (Sec. 3): h = 1 with probability sigm(a). Eq. 3 as printed
 * has the inequality reversed; Theorem 1 needs h = 1[z < sigm(a)].
 */
#include "unit.h"

static void bernoulli_forward(float *restrict h, const sn_unit_row *row)
{
    for (int64_t b = 0; b < row->n; b++)
        h[b] = row->z[b] < row->p[b] ? 1.0f : 0.0f;
}

static void bernoulli_probability(float *restrict p, float *restrict dp,
                                  const sn_unit_row *row)
{
    sigmoid_probability(p, dp, row->a, 1.0f, 0.0f, row->n);
}

static void bernoulli_value(float *restrict h, int32_t choice, const sn_unit_row *row)
{
    (void)choice;
    for (int64_t b = 0; b < row->n; b++)
        h[b] = 1.0f;
}

static double bernoulli_initial_bias(double density, double spread,
                                     const sn_noise *noise, double temperature)
{
    (void)spread, (void)noise, (void)temperature;
    return logit(density);
}

static const sn_unit bernoulli = {
    .name = "bernoulli",
    .z = SN_Z_UNIFORM,
    .forward = bernoulli_forward,
    .smooth_probability = 1,
    .probability = bernoulli_probability,
    .values = {"one"},
    .value = bernoulli_value,
    .positive_above = positive_everywhere,
    .initial_bias = bernoulli_initial_bias,
};
