/* L1 penalty (Eq. 15): weight times the unit's mean activation over the mini-batch.
 * A unit whose output has no derivative is penalised by its firing probability.
 */
#include "../stochnet.h"
#include "../vector.h"

static void l1_gradient(float *restrict da, float *restrict value,
                        const sn_penalty_row *row)
{
    const float *activation = row->dh_da ? row->h : row->p;
    const float *slope = row->dh_da ? row->dh_da : row->dp_da;
    const float scale = row->weight / (float)row->n_rows;
    for (int64_t k = 0; k < row->n_gates; k++) {
        const int64_t first = k * row->ld;
        for (int64_t b = first; b < first + row->n; b++)
            da[b] = scale * slope[b];
        value[k] = scale * sn_row_sum(activation + first, row->n_rows); /* none is < 0 */
    }
}

static const sn_penalty l1 = {
    .name = "l1",
    .default_weight = 1e-4f,
    .gradient = l1_gradient,
};
