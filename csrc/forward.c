/* One layer upwards: U = tanh(x Wb' + bb); then block by block of gates: a = Wg U' + bg,
 * noise, gate, active rows, penalty, experts of the active rows, readout. Called by all
 * threads of a parallel region; see network.c.
 */
#include "layout.h"
#include "stochnet.h"
#include "vector.h"

/* Most columns and rows of a panel of a dense layer. */
enum { PANEL_COLUMNS = 256, PANEL_ROWS = 256 };

/* Gates whose experts may be computed together, as a dense layer, and the share of their
   rows from which on that is faster, forward and backward. */
enum { TILE_GATES = 8 };
static const double DENSE_SHARE = 0.4;

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Width of nearly equal panels of at most PANEL_COLUMNS of n columns, at least two
   panels where there is enough to share. */
static int64_t panel_width(int64_t n)
{
    const int64_t panels = smaller(1 + (n - 1) / PANEL_COLUMNS, n) + (n <= PANEL_COLUMNS);
    return padded((n + panels - 1) / panels);
}

/* What a thread carries through a mini-batch. */
typedef struct {
    int64_t n_rows;
    const sn_draw *draw; /* NULL: deterministic */
    int training;
    gate_scratch gate;
    float *row;      /* one row of weights */
    float *gradient; /* (UPDATE_UNITS) rows of weights */
} sn_pass;

/* In place. n a multiple of SN_PAD. */
static void tanh_row(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = sn_tanh(x[i]);
}

/* U = tanh(x Wb' + bb), (B, M) */
static void hidden_forward(const sn_network *net, int64_t l, int64_t n_rows)
{
    sn_layer *layer = net->layers + l;
    const sn_input in = input_of(net, l);
    const int64_t width = panel_width(layer->n_hidden), ld = layer->ld_hidden;
#pragma omp for schedule(dynamic) collapse(2)
    for (int64_t first = 0; first < n_rows; first += PANEL_ROWS)
        for (int64_t m = 0; m < layer->n_hidden; m += width) {
            const int64_t n = smaller(width, layer->n_hidden - m);
            const int64_t rows = smaller(PANEL_ROWS, n_rows - first);
            float *U = layer->hidden_output + m;
            input_products(U, 1, ld, &layer->hidden, m, n, &in, net->indices + first, rows);
            for (int64_t b = first; b < first + rows; b++)
                tanh_row(U + b * ld, padded(n));
        }
}

/* out (units, B) = W x' + bias for units [first, end) of p on every row: gates on U, or
   experts on x */
static void unit_major_products(float *out, const sn_network *net, const sn_parameters *p,
                                int64_t first, int64_t end, const sn_input *in,
                                int64_t n_rows)
{
    for (int64_t b = 0; b < n_rows; b += PANEL_ROWS)
        input_products(out + first * net->ld_rows, net->ld_rows, 1, p, first, end - first,
                       in, net->indices + b, smaller(PANEL_ROWS, n_rows - b));
}

/* a (K, B), of gates [first, end) */
static void gate_products(const sn_network *net, sn_layer *layer, int64_t first,
                          int64_t end, int64_t n_rows)
{
    const sn_input hidden = {.x = layer->hidden_output, .ld = layer->ld_hidden};
    unit_major_products(layer->a, net, &layer->gate, first, end, &hidden, n_rows);
}

/* Whether the experts of gates [first, first + TILE_GATES) are better computed on every
   row, as a dense layer: each has rows, and together more than DENSE_SHARE of them. Single
   experts gather rows for each alone, at less than half the speed of a dense tile. */
static int is_dense_tile(const sn_layer *layer, const int32_t *count, int64_t first,
                         int64_t end, int64_t n_rows)
{
    int64_t listed = 0;
    if (layer->experts_per_gate > 1 || first + TILE_GATES > end)
        return 0;
    for (int64_t k = first; k < first + TILE_GATES; k++) {
        if (count[k] == 0)
            return 0;
        listed += count[k];
    }
    return (double)listed > DENSE_SHARE * (double)(TILE_GATES * n_rows);
}

/* Single experts of gates [first, end): dense tiles, and what is gathered between them. */
static void single_experts_forward(const sn_network *net, sn_layer *layer,
                                   const sn_input *in, int64_t first, int64_t end,
                                   const int32_t *rows, const int32_t *count,
                                   int64_t n_rows)
{
    const int64_t ld = net->ld_rows;
    int64_t gathered = first;
    for (int64_t k = first; k < end; k += TILE_GATES) {
        if (!is_dense_tile(layer, count, k, end, n_rows))
            continue;
        expert_forward(layer->expert_output, ld, &layer->expert, 1, in->x, rows, count,
                       gathered, k);
        gathered = k + TILE_GATES;
        unit_major_products(layer->expert_output, net, &layer->expert, k, gathered, in,
                            n_rows);
    }
    expert_forward(layer->expert_output, ld, &layer->expert, 1, in->x, rows, count,
                   gathered, end);
}

/* Experts of gates [first, end) on the rows listed for each, or on all where the estimator
   credits all gates. */
static void experts_forward(const sn_network *net, sn_layer *layer, const sn_input *in,
                            int64_t first, int64_t end, const int32_t *rows,
                            const int32_t *count, const sn_pass *pass)
{
    const int64_t ld = net->ld_rows, G = layer->experts_per_gate, n_rows = pass->n_rows;
    const int all = pass->training && layer->credit == SN_CREDIT_ALL;
    for (int64_t k = first; k < end; k++)
        layer->reads[k] += G * (all ? n_rows : count[k]);
    if (all)
        unit_major_products(layer->expert_output, net, &layer->expert, first * G, end * G,
                            in, n_rows);
    else if (in->has_blocks)
        for (int64_t k = first; k < end; k++)
            input_products(layer->expert_output + k * G * ld, ld, 1, &layer->expert, k * G,
                           G, in, rows + k * ld, count[k]);
    else if (G == 1)
        single_experts_forward(net, layer, in, first, end, rows, count, n_rows);
    else
        expert_forward(layer->expert_output, ld, &layer->expert, G, in->x, rows, count,
                       first, end);
}

static int probes(const sn_layer *layer, const sn_pass *pass)
{
    return pass->training && layer->credit == SN_CREDIT_PROBE;
}

/* Gates [first, end), deterministic where there is no draw. */
static void gates_forward(sn_layer *layer, int64_t first, int64_t end, const sn_draw *draw,
                          int64_t ld_rows, const sn_pass *pass)
{
    if (!draw) {
        for (int64_t k = first; k < end; k++)
            gate_predict(layer, k, pass->n_rows, ld_rows);
        return;
    }
    while (first < end) {
        const gate_strip strip = strip_from(first, end, pass->n_rows, ld_rows);
        const sn_unit_row row = gate_forward(layer, &strip, draw, &pass->gate);
        if (pass->training)
            gate_penalty(layer, &strip, &row, &pass->gate);
        if (probes(layer, pass))
            gate_probe(layer, &strip, draw, pass->gate.z);
        first += strip.n_gates;
    }
}

/* Gates and experts of one layer, block by block, and their part of the readout. */
static void units_forward(sn_network *net, int64_t l, const sn_draw *draw,
                          const sn_pass *pass)
{
    sn_layer *layer = net->layers + l;
    const sn_input in = input_of(net, l);
    const int64_t width = sn_block_width(layer);
    const int last = l == net->n_layers - 1;
    const int32_t *rows = pass->training ? layer->credited : layer->rows;
    const int32_t *count = pass->training ? layer->n_credited : layer->count;
#pragma omp for schedule(dynamic)
    for (int64_t first = 0; first < layer->n_gates; first += width) {
        const int64_t end = smaller(first + width, layer->n_gates);
        gate_products(net, layer, first, end, pass->n_rows);
        gates_forward(layer, first, end, draw, net->ld_rows, pass);
        experts_forward(net, layer, &in, first, end, rows, count, pass);
        if (!last)
            continue;
        float *partial = net->partials + first / width * net->ld_rows * net->ld_classes;
        memset(partial, 0, (size_t)(pass->n_rows * net->ld_classes) * sizeof *partial);
        for (int64_t k = first; k < end; k++)
            readout_gate(net, partial, layer, k);
    }
}

/* Index of the first of n ascending rows that is `row` or comes after it. */
static int32_t first_from(const int32_t *rows, int32_t n, int32_t row)
{
    int32_t low = 0;
    while (low < n) {
        const int32_t middle = low + (n - low) / 2;
        if (rows[middle] < row)
            low = middle + 1;
        else
            n = middle;
    }
    return low;
}

/* y (B, E) = h H, and the active gates of each row. Where readers skip silent blocks a row
   is its active blocks, one behind the other, else it is zero where a gate is. */
static void write_output(sn_layer *layer, int64_t n_rows, int64_t ld_rows)
{
    const int64_t G = layer->experts_per_gate;
    const int packed = output_has_blocks(layer);
#pragma omp for schedule(static)
    for (int64_t first = 0; first < n_rows; first += SN_PAD) {
        const int64_t end = smaller(first + SN_PAD, n_rows);
        for (int64_t b = first; b < end; b++)
            layer->n_gates_of_row[b] = 0;
        for (int64_t k = 0; k < layer->n_gates; k++)
            for (int64_t b = first; b < end; b++) {
                const float h = layer->h[k * ld_rows + b];
                const float *H = layer->expert_output + k * G * ld_rows + b;
                const int64_t place = packed ? layer->n_gates_of_row[b] : k;
                float *y = layer->output + b * layer->ld_units + place * G;
                if (h != 0.0f)
                    layer->gates[b * layer->n_gates + layer->n_gates_of_row[b]++] =
                        (int32_t)k;
                if (h != 0.0f || !packed)
                    for (int64_t g = 0; g < G; g++)
                        y[g] = h != 0.0f ? h * H[g * ld_rows] : 0.0f;
            }
    }
}

/* Gates that fired or are probed, of each row. */
static void list_credited_gates(sn_layer *layer, int64_t n_rows, int64_t ld_rows)
{
#pragma omp for schedule(static)
    for (int64_t first = 0; first < n_rows; first += SN_PAD) {
        const int32_t end = (int32_t)smaller(first + SN_PAD, n_rows);
        for (int64_t b = first; b < end; b++)
            layer->n_credited_of_row[b] = 0;
        for (int64_t k = 0; k < layer->n_gates; k++) {
            const int32_t *rows = layer->credited + k * ld_rows;
            const int32_t count = layer->n_credited[k];
            for (int32_t j = first_from(rows, count, (int32_t)first);
                 j < count && rows[j] < end; j++)
                layer->credited_gates[rows[j] * layer->n_gates +
                                      layer->n_credited_of_row[rows[j]]++] = (int32_t)k;
        }
    }
}

/* Where layer l draws. */
static sn_draw layer_draw(const sn_pass *pass, int64_t l)
{
    sn_draw draw = *pass->draw;
    draw.layer = (uint32_t)l;
    return draw;
}

static void layer_forward(sn_network *net, int64_t l, const sn_pass *pass)
{
    sn_layer *layer = net->layers + l;
    sn_draw draw;
    if (pass->draw)
        draw = layer_draw(pass, l);
    hidden_forward(net, l, pass->n_rows);
    units_forward(net, l, pass->draw ? &draw : NULL, pass);
    if (l < net->n_layers - 1)
        write_output(layer, pass->n_rows, net->ld_rows);
    if (l < net->n_layers - 1 && probes(layer, pass) && output_has_blocks(layer))
        list_credited_gates(layer, pass->n_rows, net->ld_rows);
}
