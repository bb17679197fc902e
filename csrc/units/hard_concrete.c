/* Hard concrete (Louizos, Welling & Kingma 2018): a binary concrete variable
 * s = sigm((a + l) / T), l logistic, stretched to (LOW, HIGH) and clamped to [0, 1]. It
 * is 0 and 1 with positive probability and smooth in between. l = logit(1 - z), so that
 * a gate fires where z is below its probability, as other units do.
 */
#include "unit.h"

/* gamma and zeta of the paper; both edges are where logit(s) is -+log(11) */
#define HARD_LOW (-0.1f)
#define HARD_HIGH 1.1f
#define HARD_EDGE 2.39789527f

static inline float hard_clamp(float s)
{
    const float h = HARD_LOW + (HARD_HIGH - HARD_LOW) * s;
    return h > 0.0f ? (h < 1.0f ? h : 1.0f) : 0.0f;
}

static void hard_concrete_forward(float *restrict h, const sn_unit_row *row)
{
    const float inverse = 1.0f / row->temperature;
    for (int64_t b = 0; b < row->n; b++)
        h[b] = hard_clamp(sn_sigmoid((row->a[b] - sn_logit(row->z[b])) * inverse));
}

/* (HIGH - LOW) s (1 - s) / T inside, with s and 1 - s as h has them */
static void hard_concrete_derivative(float *restrict dh, const float *restrict h,
                                     const sn_unit_row *row)
{
    const float scale = 1.0f / ((HARD_HIGH - HARD_LOW) * row->temperature);
    for (int64_t b = 0; b < row->n; b++) {
        const float slope = scale * (h[b] - HARD_LOW) * (HARD_HIGH - h[b]);
        dh[b] = h[b] > 0.0f && h[b] < 1.0f ? slope : 0.0f;
    }
}

/* P(h != 0) = sigm(a - T log(-LOW / HIGH)): its sum over gates is the L0 norm */
static void hard_concrete_probability(float *restrict p, float *restrict dp,
                                      const sn_unit_row *row)
{
    sigmoid_probability(p, dp, row->a, 1.0f, row->temperature * HARD_EDGE, row->n);
}

/* E[h | a] = integral of P(h > t) over [0, 1] = integral of sigm(a - T x) dh(x), x the
   logit of s between the edges: Gauss's rule with eight points, whose relative error is
   below 2e-6 for T <= 1 and 3e-4 for T <= 2. */
static void hard_concrete_mean(float *restrict h, const sn_unit_row *row)
{
    static const float x[4] = {0.439857062f, 1.26017168f, 1.91032278f, 2.30267451f};
    static const float weight[4] = {0.248679848f, 0.155376933f, 0.0718717340f,
                                    0.0240711742f};
    for (int64_t b = 0; b < row->n; b++)
        h[b] = 0.0f;
    for (int i = 0; i < 4; i++) {
        const float shift = row->temperature * x[i];
        for (int64_t b = 0; b < row->n; b++)
            h[b] += weight[i] *
                    (sn_sigmoid(row->a[b] - shift) + sn_sigmoid(row->a[b] + shift));
    }
}

/* 0, "mean": E[h | a]. 1, "clamped": the paper's, sigm(a) stretched and clamped, which
   is zero for every gate that fires with probability 1/2 or less at T = 1. */
static void hard_concrete_value(float *restrict h, int32_t choice,
                                const sn_unit_row *row)
{
    if (choice == 0) {
        hard_concrete_mean(h, row);
        return;
    }
    for (int64_t b = 0; b < row->n; b++)
        h[b] = hard_clamp(sn_sigmoid(row->a[b]));
}

static float hard_concrete_positive_above(int32_t choice)
{
    return choice == 1 ? -HARD_EDGE : -INFINITY;
}

static double hard_concrete_initial_bias(double density, double spread,
                                         const sn_noise *noise, double temperature)
{
    (void)spread, (void)noise;
    return logit(density) - temperature * (double)HARD_EDGE;
}

static const sn_unit hard_concrete = {
    .name = "hard_concrete",
    .z = SN_Z_UNIFORM,
    .default_temperature = 2.0f / 3.0f, /* of the paper */
    .forward = hard_concrete_forward,
    .derivative = hard_concrete_derivative,
    .smooth_probability = 1,
    .probability = hard_concrete_probability,
    .values = {"mean", "clamped"},
    .value = hard_concrete_value,
    .positive_above = hard_concrete_positive_above,
    .initial_bias = hard_concrete_initial_bias,
};
