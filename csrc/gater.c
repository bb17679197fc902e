/* The gater's two dense layers, U = tanh(x Wb' + bb) and a = Wg U' + bg, upwards and
 * downwards. Called by all threads of a parallel region; see network.c.
 *
 * Downwards there are two ways. With few hidden units a block of gates adds its part to its
 * own partial sum of dL/dU and takes its step at once, while its da and weights are in
 * cache. With many, such sums would be larger than da: then all gates come first, dL/dU
 * follows panel by panel of hidden units, and the gates' steps are last.
 */
#include "layout.h"
#include "stochnet.h"
#include "vector.h"

/* Most columns and rows of a panel of a dense layer. */
enum { PANEL_COLUMNS = 256, PANEL_ROWS = 256 };

/* Panels begin at multiples of so many columns: those that sparse_products takes at once. Its
   bits depend on which these are. */
enum { COLUMNS_STEP = WIDE };

/* A dense layer's outputs in panels that threads share: `across` parts of the columns times
   `down` parts of the rows, which are whole multiples of `step`. They may depend on the
   threads, as an output's bits do not depend on its panel. */
typedef struct {
    int64_t n_columns, n_rows, step, across, down;
} panel_grid;

typedef struct {
    sn_part columns, rows;
} grid_panel;

/* How many parts of at most `most` of n: as many for each of n_shares. */
static int64_t parts_of(int64_t n, int64_t most, int64_t n_shares)
{
    return n_shares * part_count(n, n_shares * most);
}

/* Part i of `parts` nearly equal ones of n, all but the last whole multiples of `step`; some
   are empty where there are too few. */
static sn_part equal_part(int64_t n, int64_t step, int64_t parts, int64_t i)
{
    const int64_t steps = part_count(n, step);
    return (sn_part){smaller(steps * i / parts * step, n),
                     smaller(steps * (i + 1) / parts * step, n)};
}

/* The largest of the parts. */
static int64_t largest_part(int64_t n, int64_t step, int64_t parts)
{
    int64_t most = 0;
    for (int64_t i = 0; i < parts; i++) {
        const sn_part part = equal_part(n, step, parts, i);
        most = larger(most, part.end - part.first);
    }
    return most;
}

/* As many panels for each thread, so that the one with most has least. Rather of columns, so
   that one thread reads a weight, but not of so few that tiles are not filled: such panels
   count for some twentieths more.
   IN n_rows, of which a panel has at most `most`. */
static panel_grid grid_of(int64_t n_columns, int64_t n_rows, int64_t step, int64_t most,
                          int64_t n_threads)
{
    enum { FEW_COLUMNS = 64, ANY = 20, OF_FEW_COLUMNS = 5, OF_ROWS = 2 };
    int64_t best = 1, least = INT64_MAX;
    for (int64_t across = n_threads; across >= 1; across--) {
        if (n_threads % across != 0)
            continue;
        const int64_t few = across > 1 && n_columns < across * FEW_COLUMNS;
        const int64_t cost = ANY + OF_FEW_COLUMNS * few + OF_ROWS * (across < n_threads);
        const int64_t time = largest_part(n_columns, COLUMNS_STEP, across) *
                             largest_part(n_rows, step, n_threads / across) * cost;
        if (time < least) {
            best = across;
            least = time;
        }
    }
    return (panel_grid){n_columns, n_rows, step, parts_of(n_columns, PANEL_COLUMNS, best),
                        parts_of(n_rows, most, n_threads / best)};
}

/* Panel i of across * down. */
static grid_panel grid_panel_at(const panel_grid *grid, int64_t i)
{
    return (grid_panel){
        equal_part(grid->n_columns, COLUMNS_STEP, grid->across, i / grid->down),
        equal_part(grid->n_rows, grid->step, grid->down, i % grid->down)};
}

static int is_empty(const grid_panel *panel)
{
    return panel->columns.first == panel->columns.end ||
           panel->rows.first == panel->rows.end;
}

/* What a thread carries through a mini-batch. */
typedef struct {
    int64_t n_rows, thread, n_threads;
    const sn_draw *draw; /* NULL: deterministic */
    int training, keeps_gates;
    gate_scratch gate;
    float *row;      /* one row of weights */
    float *gradient; /* (UPDATE_UNITS) rows of weights */
    int32_t *index;  /* see input_of */
    /* the network's input, in training: see sparse.c */
    int is_sparse, skips_chunks;
} sn_pass;

/* Where this pass transposes rows of n floats to; NULL where it does not. */
static float *columns_of(float *columns, int64_t n, const sn_pass *pass)
{
    const int are_faster = pass->training ? are_columns_faster(n, pass->n_rows)
                                          : are_columns_faster_by_lane(n, pass->n_rows);
    return are_faster ? columns : NULL;
}

/* The input of layer l for products in which all rows meet all units: its nonzeros or its
   columns, where those are faster. */
static sn_input whole_input_of(const sn_network *net, int64_t l, const sn_pass *pass)
{
    sn_input in = input_of(net, l, pass->index);
    in.nonzeros = l == 0 && pass->is_sparse ? &net->nonzeros : NULL;
    in.panel = pass->gradient;
    if (pass->training && !in.nonzeros && !in.has_blocks && (l > 0 || !pass->skips_chunks))
        in.columns = columns_of(net->input_columns, in.rows.ld, pass);
    return in;
}

/* ---- Upwards ------------------------------------------------------------------------ */

/* In place. n a multiple of SN_LANES. */
static void tanh_row(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = sn_tanh(x[i]);
}

/* U = tanh(x Wb' + bb) of panels [first, end) and units [m, m + n), and their columns, both
   from those of the input: all panels for some columns of it, whose weights stay in cache. */
static void hidden_of_panels(sn_layer *layer, const sn_input *in, float *columns,
                             int64_t n_rows, int64_t first, int64_t end, int64_t m, int64_t n)
{
    const sn_parameters *p = &layer->hidden;
    const int64_t M = layer->n_hidden, ld = layer->ld_hidden;
    for (int64_t d = 0; d < p->ld; d += COLUMNS_TOGETHER)
        for (int64_t i = first; i < end; i++) {
            const sn_part rows = panel_at(n_rows, i);
            const int64_t width = rows.end - rows.first;
            add_columns(columns + rows.first * ld + m * width, width, p->weight + m * p->ld,
                        p->ld, p->bias + m, n, in->columns + rows.first * p->ld, width, d,
                        p->ld, i == first ? n : 0);
        }
    for (int64_t i = first; i < end; i++) {
        const sn_part rows = panel_at(n_rows, i);
        const int64_t width = rows.end - rows.first;
        float *panel = columns + rows.first * ld + m * width;
        tanh_row(panel, n * width);
        transpose_groups(layer->hidden_output + rows.first * ld + m, SN_LANES * ld, ld, panel,
                         width, n, padded(n), width);
        if (m + n == M)
            memset(panel + n * width, 0, (size_t)((ld - M) * width) * sizeof *panel);
    }
}

/* All panels and units. */
static void hidden_of_columns(sn_layer *layer, const sn_input *in, float *columns,
                              const sn_pass *pass)
{
    enum { MOST = (PANEL_ROWS - 1) / (3 * SN_LANES) + 1 };
    const panel_grid grid =
        grid_of(layer->n_hidden, panel_count(pass->n_rows), 1, MOST, pass->n_threads);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < grid.across * grid.down; i++) {
        const grid_panel of = grid_panel_at(&grid, i);
        if (!is_empty(&of))
            hidden_of_panels(layer, in, columns, pass->n_rows, of.rows.first, of.rows.end,
                             of.columns.first, of.columns.end - of.columns.first);
    }
}

/* The same row by row. */
static void hidden_of_rows(const sn_network *net, sn_layer *layer, const sn_input *in,
                           const sn_pass *pass)
{
    const int64_t ld = layer->ld_hidden;
    const panel_grid grid =
        grid_of(layer->n_hidden, pass->n_rows, SN_PAD, PANEL_ROWS, pass->n_threads);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < grid.across * grid.down; i++) {
        const grid_panel of = grid_panel_at(&grid, i);
        const int64_t m = of.columns.first, n = of.columns.end - m;
        if (is_empty(&of))
            continue;
        row_products(layer->hidden_output + m, 1, ld, &layer->hidden, m, n, in,
                     net->indices + of.rows.first, of.rows.end - of.rows.first);
        for (int64_t b = of.rows.first; b < of.rows.end; b++)
            tanh_row(layer->hidden_output + b * ld + m, padded(n));
    }
}

static void hidden_forward(const sn_network *net, int64_t l, const sn_pass *pass)
{
    sn_layer *layer = net->layers + l;
    const sn_input in = whole_input_of(net, l, pass);
    float *columns = columns_of(net->hidden_columns, layer->ld_hidden, pass);
    if (in.columns && columns) {
        hidden_of_columns(layer, &in, columns, pass);
        return;
    }
    hidden_of_rows(net, layer, &in, pass);
    if (columns)
        pack_columns(columns, layer->hidden_output, layer->ld_hidden, pass->n_rows,
                     layer->ld_hidden, !pass->training);
}

/* out (units, B) = W x' + bias for units [first, end) of p on every row: gates on U, or
   experts on x */
static void unit_major_products(float *out, const sn_network *net, const sn_parameters *p,
                                int64_t first, int64_t end, const sn_input *in,
                                const sn_pass *pass)
{
    const int64_t ld = net->ld_rows, n_rows = pass->n_rows, n_units = end - first;
    const float *w = p->weight + first * p->ld, *bias = p->bias + first;
    out += first * ld;
    if (in->columns && pass->training)
        column_products(out, ld, w, p->ld, bias, n_units, in->columns, n_rows, p->ld);
    else if (in->columns && n_units >= LANE_TILE_UNITS)
        column_products_by_lane(out, ld, w, p->ld, bias, n_units, in->columns, n_rows, p->ld);
    else
        for (int64_t b = 0; b < n_rows; b += PANEL_ROWS)
            row_products(out, ld, 1, p, first, n_units, in, net->indices + b,
                         smaller(PANEL_ROWS, n_rows - b));
}

/* a (K, B), of gates [first, end) */
static void gate_products(const sn_network *net, sn_layer *layer, int64_t first,
                          int64_t end, const sn_pass *pass)
{
    const int64_t ld = layer->ld_hidden;
    const sn_input hidden = {.rows = {.x = layer->hidden_output, .ld = ld},
                             .columns = columns_of(net->hidden_columns, ld, pass)};
    unit_major_products(layer->a, net, &layer->gate, first, end, &hidden, pass);
}

/* ---- Downwards ---------------------------------------------------------------------- */

/* Steps of the weights of gates [first, end), and the control of their firing rate. */
static void update_gates(const sn_network *net, sn_layer *layer, int64_t first, int64_t end,
                         const sn_pass *pass)
{
    const sn_input hidden = {.rows = {.x = layer->hidden_output, .ld = layer->ld_hidden}};
    update_units(&layer->gate, first, end - first, &net->gater,
                 layer->da + first * net->ld_rows, net->ld_rows, 1, &hidden, net->indices,
                 net->indices, pass->n_rows, pass->gradient);
    for (int64_t k = first; k < end; k++)
        control_firing_rate(layer, k, pass->n_rows);
}

/* dU (rows, n) += da' Wg over gates [first, end) for rows and columns from row and m on.
   INOUT dU, at its element (row, m). */
static void add_hidden_gradient(float *dU, const sn_network *net, const sn_layer *layer,
                                int64_t row, int64_t n_rows, int64_t m, int64_t n,
                                int64_t first, int64_t end)
{
    const int64_t ld = layer->ld_hidden;
    for (int64_t k = first; k < end; k += LEAST_INDICES) {
        const sn_rows weights = {.x = layer->gate.weight + k * ld + m, .ld = ld};
        weighted_sums(dU, ld, net->indices + row, n_rows, layer->da + k * net->ld_rows, 1,
                      net->ld_rows, &weights, net->indices,
                      smaller(LEAST_INDICES, end - k), n, 1.0f);
    }
}

/* du = dU (1 - U^2), in place, for rows and columns from row and m on */
static void tanh_slope(sn_layer *layer, int64_t row, int64_t n_rows, int64_t m, int64_t n)
{
    for (int64_t b = row; b < row + n_rows; b++) {
        float *restrict du = layer->hidden_gradient + b * layer->ld_hidden + m;
        const float *U = layer->hidden_output + b * layer->ld_hidden + m;
        for (int64_t i = 0; i < n; i++)
            du[i] *= 1.0f - U[i] * U[i];
    }
}

/* du of a panel. */
static void hidden_panel_backward(const sn_network *net, sn_layer *layer,
                                  const grid_panel *of)
{
    const int64_t ld = layer->ld_hidden, m = of->columns.first, n = of->columns.end - m;
    const int64_t first = of->rows.first, n_rows = of->rows.end - first;
    float *du = layer->hidden_gradient + m;
    for (int64_t b = first; b < of->rows.end; b++)
        memset(du + b * ld, 0, (size_t)padded(n) * sizeof *du);
    add_hidden_gradient(du, net, layer, first, n_rows, m, padded(n), 0, layer->n_gates);
    tanh_slope(layer, first, n_rows, m, n);
}

/* du (B, M), row by row from the sums of the blocks, or else panel by panel. */
static void hidden_backward(const sn_network *net, sn_layer *layer, const sn_pass *pass)
{
    const int64_t ld = layer->ld_hidden, n_rows = pass->n_rows;
    if (sn_sums_by_block(layer)) {
#pragma omp for schedule(static)
        for (int64_t b = 0; b < n_rows; b++) {
            float *restrict du = layer->hidden_gradient + b * ld;
            memset(du, 0, (size_t)ld * sizeof *du);
            add_partials(du, net, layer, b, ld);
            tanh_slope(layer, b, 1, 0, layer->n_hidden);
        }
        return;
    }
    const panel_grid grid =
        grid_of(layer->n_hidden, n_rows, SN_PAD, PANEL_ROWS, pass->n_threads);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < grid.across * grid.down; i++) {
        const grid_panel of = grid_panel_at(&grid, i);
        if (!is_empty(&of))
            hidden_panel_backward(net, layer, &of);
    }
}

/* How many of n units take their steps at once: at most UPDATE_UNITS, in whole tiles, and so
   many parts that threads have something to share. */
static int64_t units_at_once(int64_t n)
{
    enum { TILE = 8, PARTS = 4 };
    return smaller(UPDATE_UNITS, (n + TILE * PARTS - 1) / (TILE * PARTS) * TILE);
}

/* What is left of the gater's steps. Nobody waits for them before the next mini-batch: the
   layer below and the last of this one read none of what they write. */
static void update_gater(sn_network *net, int64_t l, const sn_pass *pass)
{
    sn_layer *layer = net->layers + l;
    const sn_input in = input_of(net, l, pass->index);
    const int64_t K = layer->n_gates, M = layer->n_hidden;
    if (!sn_sums_by_block(layer)) {
        const int64_t width = units_at_once(K), n_parts = part_count(K, width);
#pragma omp for schedule(static) nowait
        for (int64_t i = 0; i < n_parts; i++) {
            const sn_part gates = part_at(K, width, i);
            update_gates(net, layer, gates.first, gates.end, pass);
        }
    }
    const int64_t width = units_at_once(M), n_parts = part_count(M, width);
#pragma omp for schedule(static) nowait
    for (int64_t i = 0; i < n_parts; i++) {
        const sn_part units = part_at(M, width, i);
        update_units(&layer->hidden, units.first, units.end - units.first, &net->gater,
                     layer->hidden_gradient + units.first, 1, layer->ld_hidden, &in,
                     net->indices, net->indices, pass->n_rows, pass->gradient);
    }
}
