/* Kullback-Leibler penalty (Eq. 14): -weight (s log q + (1 - s) log(1 - q)), q the
 * unit's firing probability averaged over the mini-batch, kept away from 0 and 1.
 */
#include "../scalar.h"
#include "../stochnet.h"
#include "../vector.h"

static float kl_gradient(float *restrict da, const sn_penalty_row *row)
{
    float q = sn_row_sum(row->p, row->n_rows) / (float)row->n_rows;
    q = q < 1e-6f ? 1e-6f : q;
    q = q > 1.0f - 1e-6f ? 1.0f - 1e-6f : q;
    const float s = row->density;
    const float slope =
        row->weight * ((1.0f - s) / (1.0f - q) - s / q) / (float)row->n_rows;
    for (int64_t b = 0; b < row->n; b++)
        da[b] += slope * row->dp_da[b];
    return -row->weight * (s * sn_log(q) + (1.0f - s) * sn_log(1.0f - q));
}

static const sn_penalty kl = {
    .name = "kl",
    .needs_smooth_probability = 1,
    .default_weight = 1e-2f,
    .gradient = kl_gradient,
};
