/* Stochastic times smooth (Sec. 2.2, Eq. 2): p = sigm(a), b ~ Bernoulli(sqrt p),
 * h = b sqrt(p), so that E[h] = p and P(h > 0) = sqrt(p).
 */
#include "unit.h"

static void sts_forward(float *restrict h, const sn_unit_row *row)
{
    for (int64_t b = 0; b < row->n; b++) {
        const float root = sqrtf(sn_sigmoid(row->a[b]));
        h[b] = row->z[b] < row->p[b] ? root : 0.0f;
    }
}

/* d(b sqrt p)/da = b sqrt(p) (1 - p) / 2, with p = h^2 where b = 1 */
static void sts_derivative(float *restrict dh, const float *restrict h,
                           const sn_unit_row *row)
{
    for (int64_t b = 0; b < row->n; b++)
        dh[b] = 0.5f * h[b] * sn_sigmoid(-row->a[b]);
}

/* d(sqrt p)/da = sqrt(p) (1 - p) / 2 */
static void sts_probability(float *restrict p, float *restrict dp, const sn_unit_row *row)
{
    for (int64_t b = 0; b < row->n; b++) {
        float complement;
        p[b] = sqrtf(sn_sigmoid_and(&complement, row->a_draw[b]));
        dp[b] = 0.5f * p[b] * complement;
    }
}

/* 0, "mean": E[h | a] = p. 1, "root": sqrt(p), what the gate is when it fires. */
static void sts_value(float *restrict h, int32_t choice, const sn_unit_row *row)
{
    for (int64_t b = 0; b < row->n; b++) {
        const float p = sn_sigmoid(row->a[b]);
        h[b] = choice == 1 ? sqrtf(p) : p;
    }
}

static double sts_initial_bias(double density, double spread, const sn_noise *noise,
                               double temperature)
{
    (void)spread, (void)noise, (void)temperature;
    return logit(density * density);
}

static const sn_unit sts = {
    .name = "sts",
    .z = SN_Z_UNIFORM,
    .gate_noise = 1,
    .forward = sts_forward,
    .derivative = sts_derivative,
    .smooth_probability = 1,
    .probability = sts_probability,
    .values = {"mean", "root"},
    .value = sts_value,
    .positive_above = positive_everywhere,
    .initial_bias = sts_initial_bias,
};
