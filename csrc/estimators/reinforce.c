/* REINFORCE for a Bernoulli unit (Theorem 1, Corollary 1):
 * da = (h - sigm(a)) (L - baseline) / B. The 1/B is there because the criterion is the
 * mean of the examples' losses L.
 */
#include "../scalar.h"
#include "../stochnet.h"

static void reinforce_gradient(float *restrict da, const sn_estimator_row *row)
{
    const float scale = 1.0f / (float)row->n_rows;
    for (int64_t b = 0; b < row->n; b++)
        da[b] += (row->h[b] - sn_sigmoid(row->a[b])) *
                 ((row->loss[b] - row->baseline) * scale);
}

static const sn_estimator reinforce = {
    .name = "reinforce",
    .credit = SN_CREDIT_LOSS,
    .gradient = reinforce_gradient,
};
