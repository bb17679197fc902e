/* Dot products of inputs most of which are zeros (images, counts, indicators), one nonzero
 * at a time.
 *
 * dot_products can leave out only what is zero in whole chunks of all rows of a tile. Here
 * the weights of a panel of units are transposed, so that each nonzero of a row meets the
 * weights of all of them as whole vectors, and zeros cost nothing wherever they are. That
 * is worth a transposition only where many rows meet all units. Sums run over a row's
 * nonzeros, so the last bits are not those of dot_products. Which of the two is taken
 * depends on the whole mini-batch, so this is for training alone: a prediction's bits
 * depend on its row.
 */
#include "layout.h"
#include "stochnet.h"
#include "tile.h"
#include "transpose.h"
#include "vector.h"

/* Units of the two kinds of panels, and rows whose sums are finished together. */
enum { WIDE = UPDATE_UNITS, NARROW = 16, ROWS_TOGETHER = 16 };

/* Lists the nonzeros of row b. OUT of nonzeros; the first end is -1 where more than half of
   the row is nonzero: then not all are listed. IN x (n). */
static void find_nonzeros(const sn_nonzeros *nonzeros, int64_t b, const float *x, int64_t n)
{
    const int64_t length = piece_length(n);
    int32_t *column = nonzeros->column + b * nonzeros->ld;
    float *value = nonzeros->value + b * nonzeros->ld;
    int32_t *end = nonzeros->end + b * sn_piece_count(n), listed = 0;
    int64_t room = n / 2;
    for (int64_t d = 0; d < n; d += length) {
        const int64_t piece = smaller(length, n - d);
        int32_t j = listed;
        for (int64_t i = 0; i < piece; i += SN_PAD) {
            const uint32_t bits = sn_different(x + d + i, 0.0f);
            room -= __builtin_popcount(bits);
            if (room < 0) {
                end[0] = -1;
                return;
            }
            listed += sn_list_bits(column + listed, (int32_t)i, bits);
        }
        for (; j < listed; j++)
            value[j] = x[d + column[j]];
        for (; listed % NONZEROS_AT_ONCE != 0; listed++) {
            column[listed] = column[listed - 1];
            value[listed] = 0.0f;
        }
        end[d / length] = listed;
    }
}

/* Floats of the mini-batch that dot products take in tiles of three rows: they skip chunks
   that are zero in all of these. */
static int64_t floats_of_tiles(const sn_network *net, int64_t n_rows)
{
    const int64_t pieces = net->ld_filled;
    int64_t taken = 0;
    for (int64_t b = 0; b + 3 <= n_rows; b += 3)
        for (int64_t p = 0; p < pieces; p++) {
            const uint64_t *filled = net->filled + b * pieces + p;
            taken += 3 * SN_PAD *
                     __builtin_popcountll(filled[0] | filled[pieces] | filled[2 * pieces]);
        }
    return taken;
}

/* Whether column_products are there for the network's input, in place of dot products that
   skip chunks: for short rows that is not asked. */
static int has_columns(const sn_network *net, int64_t n_rows)
{
    const int64_t ld = net->layers->ld_inputs;
    return ld > SHORT_ROW && are_columns_faster(ld, n_rows);
}

/* Floats of a tile that take as long as column_products, which skip nothing, do for the
   mini-batch, as measured. */
static int64_t floats_of_columns(const sn_network *net, int64_t n_rows)
{
    enum { SIXTEENTHS = SN_LANES == 8 ? 14 : 15 };
    return n_rows * net->layers->ld_inputs * SIXTEENTHS / 16;
}

/* Whether dot products skip so much of the network's input that they are faster than
   column_products. */
static int skips_chunks(const sn_network *net, int64_t n_rows)
{
    return has_columns(net, n_rows) &&
           floats_of_tiles(net, n_rows) < floats_of_columns(net, n_rows);
}

/* Whether sparse_products takes less time than dot_products and column_products for the
   mini-batch. As measured, twice a nonzero takes as long as PER_TWO floats of a tile, and the
   transposition as TRANSPOSED rows. */
static int is_sparse(const sn_network *net, int64_t n_rows)
{
    enum { PER_TWO = 5, TRANSPOSED = 6 };
    const int64_t pieces = net->ld_filled;
    int64_t sparse = TRANSPOSED * net->layers->ld_inputs;
    for (int64_t b = 0; b < n_rows; b++) {
        const int32_t *end = net->nonzeros.end + b * pieces;
        if (end[0] < 0)
            return 0;
        sparse += PER_TWO * end[pieces - 1] / 2;
    }
    if (has_columns(net, n_rows) && sparse >= floats_of_columns(net, n_rows))
        return 0;
    return sparse < floats_of_tiles(net, n_rows);
}

/* sum (units) = panel' x of a row of `count` nonzeros. A kernel sums several nonzeros side
   by side, so that no addition waits for the one before. */
#define START(i, j) sn_vec sum##i##j = {0};
#define STEP(i, j) sum##i##j += x##i * sn_load(w##i + j * SN_LANES);
#define UNIT(i, WITH)                                                                  \
    const float x##i = value[e + i], *w##i = panel + column[e + i] * width;            \
    WITH(STEP, i)
#define SUM_1(j) sum0##j
#define SUM_2(j) (sum0##j + sum1##j)
#define SUM_4(j) ((sum0##j + sum1##j) + (sum2##j + sum3##j))
#define SUM_8(j) (SUM_4(j) + ((sum4##j + sum5##j) + (sum6##j + sum7##j)))
#define FINISH_AT_1(j) sn_store(sum + j * SN_LANES, SUM_1(j));
#define FINISH_AT_2(j) sn_store(sum + j * SN_LANES, SUM_2(j));
#define FINISH_AT_4(j) sn_store(sum + j * SN_LANES, SUM_4(j));
#define FINISH_AT_8(j) sn_store(sum + j * SN_LANES, SUM_8(j));
#define DEFINE_SPARSE_DOT(NAME, VECTORS, AT_ONCE)                                      \
    static void NAME(float *sum, const float *panel, const int32_t *column,            \
                     const float *value, int64_t count)                                \
    {                                                                                  \
        enum { width = VECTORS * SN_LANES };                                           \
        SN_EACH_##AT_ONCE(START_##VECTORS)                                             \
        for (int64_t e = 0; e < count; e += AT_ONCE) {                                 \
            SN_EACH_##AT_ONCE(UNIT_##VECTORS)                                          \
        }                                                                              \
        SN_EACH_##VECTORS(FINISH_AT_##AT_ONCE)                                         \
    }
#if SN_LANES == 16
DEFINE_SPARSE_DOT(sparse_dot_wide, 2, 4)
DEFINE_SPARSE_DOT(sparse_dot_narrow, 1, 8)
#elif SN_LANES == 8
DEFINE_SPARSE_DOT(sparse_dot_wide, 4, 2)
DEFINE_SPARSE_DOT(sparse_dot_narrow, 2, 4)
#else
DEFINE_SPARSE_DOT(sparse_dot_wide, 8, 1)
DEFINE_SPARSE_DOT(sparse_dot_narrow, 4, 2)
#endif
#undef START
#undef STEP
#undef UNIT
#undef SUM_1
#undef SUM_2
#undef SUM_4
#undef SUM_8
#undef FINISH_AT_1
#undef FINISH_AT_2
#undef FINISH_AT_4
#undef FINISH_AT_8

/* sum (n_rows, width) = panel' x over piece p of `pieces`, for rows from `first` on. */
static void panel_sums(float *sum, int64_t width, const float *panel,
                       const sn_nonzeros *x, int64_t p, int64_t pieces, int64_t first,
                       int64_t n_rows)
{
    for (int64_t r = 0; r < n_rows; r++) {
        const int32_t *end = x->end + (first + r) * pieces + p;
        const int32_t start = p > 0 ? end[-1] : 0;
        const int64_t at = (first + r) * x->ld + start;
        (width == WIDE ? sparse_dot_wide : sparse_dot_narrow)(
            sum + r * width, panel, x->column + at, x->value + at, end[0] - start);
    }
}

/* out[i, r] = bias[i] + sum[r, i], or added to what is there. OUT o: row r at r of it.
   IN sum (n_rows, width). */
static void store_sums(const dot_output *o, const float *sum, int64_t width,
                       int64_t n_units, int64_t n_rows)
{
    float by_unit[WIDE * ROWS_TOGETHER];
    if (o->ld_unit == 1) {
        for (int64_t r = 0; r < n_rows; r++) {
            float *restrict out = o->out + r * o->ld_row;
            const float *base = o->add ? out : o->bias;
            for (int64_t i = 0; i < n_units; i++)
                out[i] = base[i] + sum[r * width + i];
        }
        return;
    }
    transpose(by_unit, ROWS_TOGETHER, sum, width, n_rows, width);
    for (int64_t i = 0; i < n_units; i++) {
        float *out = o->out + i * o->ld_unit;
        for (int64_t r = 0; r < n_rows; r++)
            out[r] = (o->add ? out[r] : o->bias[i]) + by_unit[i * ROWS_TOGETHER + r];
    }
}

/* out[i, r] = bias[i] + w_i . x_r for rows [first, end).
   OUT out, element (i, r) at i * ld_unit + r * ld_row, one of which is 1.
   IN w (n_units, ld_w), bias (n_units), x with n inputs a row; panel: scratch,
   (WIDE, piece_length(n)). */
static void sparse_products(float *out, int64_t ld_unit, int64_t ld_row, const float *w,
                            int64_t ld_w, const float *bias, int64_t n_units,
                            const sn_nonzeros *x, int64_t first, int64_t end, int64_t n,
                            float *panel)
{
    const int64_t length = piece_length(n), pieces = sn_piece_count(n);
    float sum[ROWS_TOGETHER * WIDE];
    for (int64_t i = 0, width; i < n_units; i += width) {
        width = n_units - i > NARROW ? WIDE : NARROW;
        const int64_t units = smaller(width, n_units - i);
        for (int64_t p = 0; p < pieces; p++) {
            const int64_t d = p * length;
            transpose(panel, width, w + i * ld_w + d, ld_w, units, smaller(length, n - d));
            for (int64_t b = first; b < end; b += ROWS_TOGETHER) {
                const int64_t rows = smaller(ROWS_TOGETHER, end - b);
                const dot_output o = {out + i * ld_unit + b * ld_row, ld_unit, ld_row,
                                      bias + i, p > 0, NULL};
                panel_sums(sum, width, panel, x, p, pieces, b, rows);
                store_sums(&o, sum, width, units, rows);
            }
        }
    }
}
