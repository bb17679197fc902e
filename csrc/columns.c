/* Dense products whose inputs are columns: lanes are rows of the mini-batch.
 *
 * A dot product of a few vectors takes longer to sum its lanes than to multiply. Transposed
 * inputs have no lanes to sum: a unit's outputs are the sum of the inputs' columns, times its
 * weights. That sum runs over inputs, ascending, so the last bits are not those of
 * dot_products; and rows come a vector at a time, so that a few would cost as much. This is
 * therefore for training alone: a prediction's bits depend on its row.
 */
#include "layout.h"
#include "stochnet.h"
#include "vector.h"

/* Whether inputs of n floats are transposed. As measured, dot products are as fast with
   vectors of four floats; and of long rows with eight, with columns that leave L2, and where
   the last vector is not full. */
static int are_columns_faster(int64_t n, int64_t n_rows)
{
    enum { LEAST = 32 };
    if (n <= SHORT_ROW)
        return SN_LANES >= 8 && n_rows >= SN_PAD;
    return SN_LANES == 16 && n <= PIECE && n_rows >= LEAST && n_rows <= COLUMN_ROWS &&
           n_rows % SN_PAD == 0;
}

/* out_i = bias[i] + sum over inputs d of w[i, d] column_d, for n_units units.
   OUT out (n_units, ld_rows). IN w (n_units, ld_w), bias (n_units), columns
   (n, padded(n_rows)), indices 0, 1, ... up to LEAST_INDICES. A tile reads its units' weights
   in turns, which the processor does not foresee: the next units' are asked for. */
static void column_products(float *out, int64_t ld_rows, const float *w, int64_t ld_w,
                            const float *bias, int64_t n_units, const float *columns,
                            const int32_t *indices, int64_t n_rows, int64_t n)
{
    enum { UNITS = 32 };
    const int64_t length = padded(n_rows);
    for (int64_t i = 0; i < n_units; i++)
        for (int64_t b = 0; b < length; b++)
            out[i * ld_rows + b] = bias[i];
    for (int64_t i = 0; i < n_units; i += UNITS) {
        if (i + UNITS < n_units)
            sn_prefetch(w + (i + UNITS) * ld_w, smaller(UNITS, n_units - i - UNITS) * ld_w);
        for (int64_t d = 0; d < n; d += LEAST_INDICES) {
            const sn_rows in = {.x = columns + d * length, .ld = length};
            weighted_sums(out + i * ld_rows, ld_rows, indices, smaller(UNITS, n_units - i),
                          w + i * ld_w + d, ld_w, 1, &in, indices,
                          smaller(LEAST_INDICES, n - d), length, 1.0f);
        }
    }
}
