/* Straight-through (Sec. 4, Eq. 13): da = dL/dh, or dL/dh p (1 - p). With credit
 * "all", dL/dh is known for every gate, also where h = 0; with "active" only for gates
 * that fired, the others get nothing; with "probe" for those that fired and a sample of
 * the others, whose dL/dh was divided by the chance to be in it.
 */
#include "../scalar.h"
#include "../stochnet.h"

static void straight_through_gradient(float *restrict da, const sn_estimator_row *row)
{
    if (!row->sigmoid_derivative) {
        for (int64_t b = 0; b < row->n; b++)
            da[b] += row->dl_dh[b];
        return;
    }
    for (int64_t b = 0; b < row->n; b++)
        da[b] += row->dl_dh[b] * (sn_sigmoid(row->a[b]) * sn_sigmoid(-row->a[b]));
}

static const sn_estimator straight_through = {
    .name = "straight_through",
    .credit = SN_CREDIT_ALL,
    .credit_choice = 1,
    .credit_probe = 1,
    .ignores_a = 1,
    .gradient = straight_through_gradient,
};
