/* ReinMax (Liu et al. 2023) for a Bernoulli unit: Heun's method in place of the Euler
 * step that straight-through is. With p = sigm(a) and q = (h + p) / 2,
 * da = dL/dh (2 q (1 - q) - p (1 - p) / 2), which for h = 0 and for h = 1 is dL/dh times
 * half the probability of the other outcome; so its mean is p (1 - p) times the
 * trapezoidal rule for L(h = 1) - L(h = 0). Credit as for straight-through.
 */
#include "../scalar.h"
#include "../stochnet.h"

static void reinmax_gradient(float *restrict da, const sn_estimator_row *row)
{
    for (int64_t b = 0; b < row->n; b++) {
        const float a = row->h[b] > 0.0f ? -row->a[b] : row->a[b];
        da[b] += row->dl_dh[b] * (0.5f * sn_sigmoid(a));
    }
}

static const sn_estimator reinmax = {
    .name = "reinmax",
    .credit = SN_CREDIT_ALL,
    .credit_choice = 1,
    .credit_probe = 1,
    .gradient = reinmax_gradient,
};
