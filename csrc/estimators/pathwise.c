/* Back-propagation through h = f(a, z) for fixed noise (Sec. 2): da = dh f'(a, z). */
#include "../stochnet.h"

static void pathwise_gradient(float *restrict da, const sn_estimator_row *row)
{
    for (int64_t b = 0; b < row->n; b++)
        da[b] += row->dl_dh[b] * row->dh_da[b];
}

static const sn_estimator pathwise = {
    .name = "pathwise",
    .credit = SN_CREDIT_ACTIVE,
    .needs_derivative = 1,
    .gradient = pathwise_gradient,
};
