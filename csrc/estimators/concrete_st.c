/* Straight-through Gumbel-sigmoid (Jang, Gu & Poole 2017) for a Bernoulli unit: with
 * l = logit(1 - z), which is logistic, the gate is h = 1[a + l > 0], and the gradient is
 * that of the concrete sample s = sigm((a + l) / T) in its place:
 * da = dL/dh s (1 - s) / T. It is not zero where h is. Credit as for straight-through.
 */
#include "../scalar.h"
#include "../stochnet.h"

static void concrete_st_gradient(float *restrict da, const sn_estimator_row *row)
{
    const float inverse = 1.0f / row->temperature;
    for (int64_t b = 0; b < row->n; b++) {
        const float x = (row->a[b] - sn_logit(row->z[b])) * inverse;
        da[b] += row->dl_dh[b] * (inverse * sn_sigmoid(x) * sn_sigmoid(-x));
    }
}

static const sn_estimator concrete_st = {
    .name = "concrete_st",
    .credit = SN_CREDIT_ALL,
    .credit_choice = 1,
    .credit_probe = 1,
    .needs_z = 1,
    .default_temperature = 2.0f / 3.0f, /* as of the units concrete and hard_concrete */
    .gradient = concrete_st_gradient,
};
