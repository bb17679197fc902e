/* Steps of single units, each from listed rows of its own. What belongs to a weight is done
 * while it is in a register: the sum of its gradient, the plain step, and its part of the
 * row's norm.
 */
#include "layout.h"
#include "stochnet.h"
#include "tile.h"
#include "vector.h"

/* The lanes' sums of the squares of a row's weights, as sum_of_squares has them; in scratch of
   floats, too. */
typedef struct {
    sn_memory_vec sum[4];
} row_squares;

#define START(j) sn_vec w##j = keep * sn_load(w + j * SN_LANES);
#define STEP(j) w##j += scaled * sn_load(x + j * SN_LANES);
#define FINISH(j)                                                                      \
    sn_store(w + j * SN_LANES, w##j);                                                  \
    squares->sum[j % 4] += w##j * w##j;
#define DEFINE_STEP(NAME, EACH)                                                        \
    SN_INLINE void NAME(float *w, row_squares *squares, const float *c, float scale,   \
                        const float *v, int64_t ld_v, const int32_t *rows,             \
                        int32_t count, float keep)                                     \
    {                                                                                  \
        EACH(START)                                                                    \
        for (int32_t j = 0; j < count; j++) {                                          \
            const float scaled = scale * c[rows[j]], *x = v + rows[j] * ld_v;          \
            EACH(STEP)                                                                 \
        }                                                                              \
        EACH(FINISH)                                                                   \
    }
DEFINE_STEP(step_of_24, SN_EACH_24)
DEFINE_STEP(step_of_8, SN_EACH_8)
DEFINE_STEP(step_of_4, SN_EACH_4)
DEFINE_STEP(step_of_1, SN_EACH_1)
#undef START
#undef STEP
#undef FINISH
#undef DEFINE_STEP

/* w = keep w + scale times the sum over the listed rows r, in their order, of c[r] v_r. As many
   floats of `next` are asked for.
   INOUT w (n), squares: what w has become is added. IN c, v, rows (count); n a multiple of
   SN_PAD. */
static void add_listed_rows(float *w, row_squares *squares, const float *c, float scale,
                            const float *v, int64_t ld_v, const int32_t *rows,
                            int32_t count, int64_t n, float keep,
                            const next_weights *next)
{
    row_squares all = *squares;
#define TAKE(VECTORS)                                                                  \
    case VECTORS:                                                                      \
        step_of_##VECTORS(w + d, &all, c, scale, v + d, ld_v, rows, count, keep);      \
        break;
    for (int64_t d = 0, asked = 0, vectors; d < n; d += vectors * SN_LANES) {
        const int64_t left = (n - d) / SN_LANES;
        /* 24 of 32 registers, or 8 of 16: a wider group reads the listed rows less often */
        vectors = TILE_UNITS == 8 && left >= 24 ? 24 : left >= 8 ? 8 : left >= 4 ? 4 : 1;
        asked = ask_for_share(next, asked, vectors * SN_LANES);
        switch (vectors) {
            TAKE(24)
            TAKE(8)
            TAKE(4)
            TAKE(1)
        }
    }
#undef TAKE
    *squares = all;
}

/* The rest of a plain step, once the weights have taken their gradient.
   IN squares: of the row's weights. */
static void end_plain_step(sn_parameters *p, int64_t row, float bias_gradient,
                           const row_squares *squares, const sn_optimizer *o)
{
    const sn_memory_vec *s = squares->sum;
    const float sum = sn_sum((s[0] + s[1]) + (s[2] + s[3]));
    limit_norm_of_sum(p, row, sum, o);
    if (p->bias)
        p->bias[row] -= o->learning_rate * bias_gradient;
    if (p->bias && !isfinite(p->bias[row]))
        say_failed(p);
}

/* What a unit's step is made of: the gradient c (n_rows) of its pre-activation on the listed
   rows of x; and what is asked for meanwhile. */
typedef struct {
    const float *c;
    const sn_rows *x;
    const int32_t *rows;
    int32_t count;
    next_weights next;
} unit_gradient;

/* Columns [d, d + n) of the step of unit `row` of p; with the last of them the rest of it.
   INOUT squares: zero before the first columns; gradient: scratch (p->ld), that of the same
   unit for all columns. */
static void step_of_columns(sn_parameters *p, int64_t row, const unit_gradient *of,
                            int64_t d, int64_t n, row_squares *squares, float *gradient,
                            const sn_optimizer *o)
{
    const int plain = is_plain_sgd(p, o);
    float *out = plain ? p->weight + row * p->ld : gradient;
    if (!plain)
        memset(out + d, 0, (size_t)n * sizeof *out);
    add_listed_rows(out + d, squares, of->c, plain ? -o->learning_rate : 1.0f, of->x->x + d,
                    of->x->ld, of->rows, of->count, n, plain ? plain_keep(o) : 1.0f,
                    &of->next);
    if (d + n < p->ld)
        return;
    float bias_gradient = 0.0f;
    for (int32_t j = 0; p->bias && j < of->count; j++)
        bias_gradient += of->c[of->rows[j]];
    if (plain) {
        end_plain_step(p, row, bias_gradient, squares, o);
        return;
    }
    update_row(p, row, gradient, bias_gradient, o);
    check_rows(p, row, 1, o, 0);
}

/* Columns of x that units [first, end) take at once: those of all rows stay in L2, and they are
   whole tiles. Few rows would gain less from it than is lost where weights come from memory a
   part of a row at a time: all columns. */
static int64_t columns_together(const int32_t *count, int64_t first, int64_t end,
                                int64_t n_rows, int64_t n)
{
    enum { TILE = 8 * SN_LANES, FEW = 5 };
    if (n_rows * n <= L2_FLOATS || listed_rows(count, first, end) < FEW * (end - first))
        return n;
    const int64_t columns = L2_FLOATS / 2 / n_rows / TILE * TILE;
    return columns > TILE ? columns : TILE;
}

/* Units that take their steps together, so many columns at a time: these come from L3 anew for
   each group of units. A step that is not plain has a gradient of each in scratch. */
static int64_t units_together(int64_t columns, const sn_parameters *p,
                              const sn_optimizer *optimizer)
{
    enum { SQUARES = sizeof(row_squares) / sizeof(float) };
    if (columns == p->ld || !is_plain_sgd(p, optimizer))
        return UPDATE_UNITS;
    return smaller(EXPERTS_TOGETHER, UPDATE_UNITS * p->ld / SQUARES);
}

/* The step of units [first, end), at most units_together, so many columns at a time.
   The squares of plain steps are where the gradients of others are, one after the other in the
   same place where all columns are taken at once. */
static void update_units_by_columns(sn_parameters *p, int64_t first, int64_t end,
                                    const sn_optimizer *optimizer, const float *c,
                                    int64_t ld_rows, const sn_rows *x, const int32_t *rows,
                                    const int32_t *count, int64_t columns, float *scratch)
{
    const int plain = is_plain_sgd(p, optimizer);
    row_squares unused = {0};
    for (int64_t d = 0; d < p->ld; d += columns) {
        const int64_t n = smaller(columns, p->ld - d);
        coming_weights coming = coming_from(p, d, n, count, first, end);
        for (int64_t k = next_listed(count, first, end); k < end;
             k = next_listed(count, k + 1, end)) {
            const int64_t i = k - first;
            const unit_gradient of = {c + k * ld_rows, x, rows + k * ld_rows, count[k],
                                      next_of(&coming)};
            row_squares *squares = &unused;
            float *gradient = NULL;
            if (plain)
                squares = (row_squares *)(void *)scratch + (columns < p->ld ? i : 0);
            else
                gradient = scratch + i * p->ld;
            if (plain && d == 0)
                memset(squares, 0, sizeof *squares);
            step_of_columns(p, k, &of, d, n, squares, gradient, optimizer);
        }
    }
}

/* One step of those units [first, end) of p that have rows; nothing of the others is touched.
   IN c, rows (*, ld_rows) and count of all units, c the gradients of their pre-activations;
   x (n_rows); scratch: (UPDATE_UNITS, p->ld). */
static void update_listed_units(sn_parameters *p, int64_t first, int64_t end,
                                const sn_optimizer *optimizer, const float *c,
                                int64_t ld_rows, const sn_rows *x, const int32_t *rows,
                                const int32_t *count, int64_t n_rows, float *scratch)
{
    if (is_frozen(optimizer))
        return;
    const int64_t columns = columns_together(count, first, end, n_rows, p->ld);
    const int64_t units = units_together(columns, p, optimizer);
    for (int64_t k = first; k < end; k += units)
        update_units_by_columns(p, k, smaller(k + units, end), optimizer, c, ld_rows, x, rows,
                                count, columns, scratch);
}
