/* Dense layers of the gater. Training calls BLAS on panels (network.c). Prediction
 * cannot: BLAS picks its kernel by the size of the batch, and a row's result must not
 * depend on its neighbours. Hence one kernel of our own, forward only.
 */
#include "scalar.h"
#include "stochnet.h"
#include "vector.h"

/* As many accumulators as the registers hold beside a row of inputs. */
enum { TILE_UNITS = 4, TILE_ROWS = SN_LANES == 16 ? 5 : 3 };

/* n_units x n_rows dot products over n floats. Each is one vector accumulator along
   the row and then sn_sum: its bits do not depend on the tile that it is in. */
SN_INLINE void dense_tile(const int units, const int rows, float *out, int64_t ld_unit,
                          int64_t ld_row, const float *w, int64_t ld_w, const float *x,
                          int64_t ld_x, int64_t n)
{
    sn_vec sum[TILE_UNITS][TILE_ROWS];
#pragma GCC unroll 8
    for (int i = 0; i < units; i++)
#pragma GCC unroll 8
        for (int j = 0; j < rows; j++)
            sum[i][j] = (sn_vec){0};
    for (int64_t d = 0; d < n; d += SN_LANES) {
        sn_vec input[TILE_ROWS];
#pragma GCC unroll 8
        for (int j = 0; j < rows; j++)
            input[j] = sn_load(x + j * ld_x + d);
#pragma GCC unroll 8
        for (int i = 0; i < units; i++) {
            const sn_vec weight = sn_load(w + i * ld_w + d);
#pragma GCC unroll 8
            for (int j = 0; j < rows; j++)
                sum[i][j] += weight * input[j];
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < units; i++)
#pragma GCC unroll 8
        for (int j = 0; j < rows; j++)
            out[i * ld_unit + j * ld_row] = sn_sum(sum[i][j]);
}

/* out[i * ld_unit + b * ld_row] = w_i . x_b.
   OUT out (n_units, n_rows) by the two strides. IN w (n_units, ld_w), x (n_rows, ld_x),
   n a multiple of SN_PAD. */
static void dense_forward(float *out, int64_t ld_unit, int64_t ld_row, const float *w,
                          int64_t ld_w, int64_t n_units, const float *x, int64_t ld_x,
                          int64_t n_rows, int64_t n)
{
    for (int64_t i = 0; i < n_units; i += TILE_UNITS)
        for (int64_t b = 0; b < n_rows;) {
            float *o = out + i * ld_unit + b * ld_row;
            const float *wi = w + i * ld_w, *xb = x + b * ld_x;
            if (i + TILE_UNITS <= n_units && b + TILE_ROWS <= n_rows) {
                dense_tile(TILE_UNITS, TILE_ROWS, o, ld_unit, ld_row, wi, ld_w, xb, ld_x,
                           n);
                b += TILE_ROWS;
            } else if (i + TILE_UNITS <= n_units) {
                dense_tile(TILE_UNITS, 1, o, ld_unit, ld_row, wi, ld_w, xb, ld_x, n);
                b += 1;
            } else {
                for (int64_t r = 0; r < n_units - i; r++)
                    dense_tile(1, 1, o + r * ld_unit, ld_unit, ld_row, wi + r * ld_w,
                               ld_w, xb, ld_x, n);
                b += 1;
            }
        }
}

/* In place. n a multiple of SN_PAD. */
static void tanh_row(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = sn_tanh(x[i]);
}
