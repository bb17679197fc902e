/* Local expectation for a Bernoulli unit (Titsias & Lázaro-Gredilla 2015): the gate is
 * averaged out, the others are as sampled: da = sigm'(a) (L(h = 1) - L(h = 0)) / B.
 * Unbiased as REINFORCE is, with less variance: it is REINFORCE's conditional mean. The
 * difference does not depend on the gate itself, so that it may be known for gates that
 * fired and for a weighted sample of the others alone, and the estimate stays unbiased.
 */
#include "../scalar.h"
#include "../stochnet.h"

static void local_expectation_gradient(float *restrict da, const sn_estimator_row *row)
{
    for (int64_t b = 0; b < row->n; b++)
        da[b] += row->dl_dh[b] * (sn_sigmoid(row->a[b]) * sn_sigmoid(-row->a[b]));
}

static const sn_estimator local_expectation = {
    .name = "local_expectation",
    .credit = SN_CREDIT_ALL,
    .credit_probe = 1,
    .needs_difference = 1,
    .gradient = local_expectation_gradient,
};
