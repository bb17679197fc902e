/* Kullback-Leibler penalty (Eq. 14): -weight (s log q + (1 - s) log(1 - q)), q the
 * unit's firing probability averaged over the mini-batch, kept away from 0 and 1.
 */
#include "../layout.h"
#include "../scalar.h"
#include "../stochnet.h"
#include "../vector.h"

static void kl_gradient(float *restrict da, float *restrict value,
                        const sn_penalty_row *row)
{
    float q[STRIP_GATES], slope[STRIP_GATES];
    const float s = row->density, n_rows = (float)row->n_rows;
    for (int64_t k = 0; k < row->n_gates; k++)
        q[k] = sn_row_sum(row->p + k * row->ld, row->n_rows) / n_rows;
    for (int64_t k = 0; k < row->n_gates; k++) {
        const float low = q[k] < 1e-6f ? 1e-6f : q[k];
        const float mean = low > 1.0f - 1e-6f ? 1.0f - 1e-6f : low;
        slope[k] = row->weight * ((1.0f - s) / (1.0f - mean) - s / mean) / n_rows;
        value[k] = -row->weight * (s * sn_log(mean) + (1.0f - s) * sn_log(1.0f - mean));
    }
    for (int64_t k = 0; k < row->n_gates; k++)
        for (int64_t b = 0; b < row->n; b++)
            da[k * row->ld + b] = slope[k] * row->dp_da[k * row->ld + b];
}

static const sn_penalty kl = {
    .name = "kl",
    .needs_smooth_probability = 1,
    .default_weight = 1e-2f,
    .gradient = kl_gradient,
};
