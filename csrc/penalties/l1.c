/* L1 penalty (Eq. 15): weight times the unit's mean activation over the mini-batch.
 * A unit whose output has no derivative is penalised by its firing probability.
 */
#include "../stochnet.h"
#include "../vector.h"

static float l1_gradient(float *restrict da, const sn_penalty_row *row)
{
    const float *value = row->dh_da ? row->h : row->p;
    const float *slope = row->dh_da ? row->dh_da : row->dp_da;
    const float scale = row->weight / (float)row->n_rows;
    for (int64_t b = 0; b < row->n; b++)
        da[b] += scale * slope[b];
    return scale * sn_row_sum(value, row->n_rows); /* no unit is negative */
}

static const sn_penalty l1 = {
    .name = "l1",
    .default_weight = 1e-4f,
    .gradient = l1_gradient,
};
