/* One layer upwards: U = tanh(x Wb' + bb); a = Wg U' + bg; then block by block of gates:
 * noise, gate, active rows, penalty, experts of the active rows, readout. Called by all
 * threads of a parallel region; see network.c.
 */
#include "layout.h"
#include "stochnet.h"
#include "vector.h"

/* Most columns and rows of a panel of a dense layer. */
enum { PANEL_COLUMNS = 256, PANEL_ROWS = 256 };

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
static void hidden_forward(const sn_network *net, sn_layer *layer, const sn_input *in,
                           int64_t n_rows)
{
    const int64_t width = panel_width(layer->n_hidden), ld = layer->ld_hidden;
#pragma omp for schedule(dynamic) collapse(2)
    for (int64_t first = 0; first < n_rows; first += PANEL_ROWS)
        for (int64_t m = 0; m < layer->n_hidden; m += width) {
            const int64_t n = smaller(width, layer->n_hidden - m);
            const int64_t rows = smaller(PANEL_ROWS, n_rows - first);
            float *U = layer->hidden_output + m;
            input_products(U, 1, ld, &layer->hidden, m, n, in, net->indices + first, rows);
            for (int64_t b = first; b < first + rows; b++)
                tanh_row(U + b * ld, padded(n));
        }
}

/* out (units, B) = W x' + bias for all units of p: gates on U, or experts on x */
static void unit_major_forward(float *out, const sn_network *net, const sn_parameters *p,
                               const sn_input *in, int64_t n_rows)
{
    const int64_t width = panel_width(p->n_rows);
#pragma omp for schedule(dynamic) collapse(2)
    for (int64_t first = 0; first < n_rows; first += PANEL_ROWS)
        for (int64_t k = 0; k < p->n_rows; k += width)
            input_products(out + k * net->ld_rows, net->ld_rows, 1, p, k,
                           smaller(width, p->n_rows - k), in, net->indices + first,
                           smaller(PANEL_ROWS, n_rows - first));
}

/* a (K, B) */
static void gater_forward(const sn_network *net, int64_t l, int64_t n_rows)
{
    sn_layer *layer = net->layers + l;
    const sn_input in = input_of(net, l);
    const sn_input hidden = {.x = layer->hidden_output, .ld = layer->ld_hidden};
    hidden_forward(net, layer, &in, n_rows);
    unit_major_forward(layer->a, net, &layer->gate, &hidden, n_rows);
}

/* Experts of gates [first, end) on their active rows; where the estimator credits all
   gates they have been computed on every row. */
static void experts_forward(const sn_network *net, sn_layer *layer, const sn_input *in,
                            int64_t first, int64_t end, int64_t computed_rows)
{
    const int64_t ld = net->ld_rows, G = layer->experts_per_gate;
    for (int64_t k = first; k < end; k++)
        layer->reads[k] += G * (computed_rows ? computed_rows : layer->count[k]);
    if (computed_rows)
        return;
    if (in->has_blocks)
        for (int64_t k = first; k < end; k++)
            input_products(layer->expert_output + k * G * ld, ld, 1, &layer->expert, k * G,
                           G, in, layer->rows + k * ld, layer->count[k]);
    else
        expert_forward(layer->expert_output, ld, &layer->expert, G, in->x, layer->rows,
                       layer->count, first, end);
}

static void gates_forward(sn_layer *layer, int64_t k, const sn_draw *draw, int64_t ld_rows,
                          const sn_pass *pass)
{
    if (!draw) {
        gate_predict(layer, k, pass->n_rows, ld_rows);
        return;
    }
    const sn_unit_row row =
        gate_forward(layer, k, pass->n_rows, ld_rows, draw, &pass->gate);
    if (pass->training)
        gate_penalty(layer, k, pass->n_rows, ld_rows, &row, &pass->gate);
}

/* Gates and experts of one layer, block by block, and their part of the readout. */
static void units_forward(sn_network *net, int64_t l, const sn_draw *draw,
                          const sn_pass *pass)
{
    sn_layer *layer = net->layers + l;
    const sn_input in = input_of(net, l);
    const int64_t width = sn_block_width(layer);
    const int last = l == net->n_layers - 1;
    const int64_t computed =
        pass->training && layer->credit == SN_CREDIT_ALL ? pass->n_rows : 0;
#pragma omp for schedule(dynamic)
    for (int64_t first = 0; first < layer->n_gates; first += width) {
        const int64_t end = smaller(first + width, layer->n_gates);
        for (int64_t k = first; k < end; k++)
            gates_forward(layer, k, draw, net->ld_rows, pass);
        experts_forward(net, layer, &in, first, end, computed);
        if (!last)
            continue;
        float *partial = net->partials + first / width * net->ld_rows * net->ld_classes;
        memset(partial, 0, (size_t)(pass->n_rows * net->ld_classes) * sizeof *partial);
        for (int64_t k = first; k < end; k++)
            readout_gate(net, partial, layer, k);
    }
}

/* y (B, E) = h H, and the active gates of each row. Where readers skip silent blocks
   those are not written, else they are zero. */
static void write_output(sn_layer *layer, int64_t n_rows, int64_t ld_rows)
{
    const int64_t G = layer->experts_per_gate;
    const int clear = !output_has_blocks(layer);
#pragma omp for schedule(static)
    for (int64_t first = 0; first < n_rows; first += SN_PAD) {
        const int64_t end = smaller(first + SN_PAD, n_rows);
        for (int64_t b = first; b < end; b++)
            layer->n_gates_of_row[b] = 0;
        for (int64_t k = 0; k < layer->n_gates; k++)
            for (int64_t b = first; b < end; b++) {
                const float h = layer->h[k * ld_rows + b];
                const float *H = layer->expert_output + k * G * ld_rows + b;
                float *y = layer->output + b * layer->ld_units + k * G;
                if (h != 0.0f)
                    layer->gates[b * layer->n_gates + layer->n_gates_of_row[b]++] =
                        (int32_t)k;
                if (h != 0.0f || clear)
                    for (int64_t g = 0; g < G; g++)
                        y[g] = h != 0.0f ? h * H[g * ld_rows] : 0.0f;
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
    gater_forward(net, l, pass->n_rows);
    if (pass->training && layer->credit == SN_CREDIT_ALL) {
        const sn_input in = input_of(net, l);
        unit_major_forward(layer->expert_output, net, &layer->expert, &in, pass->n_rows);
    }
    units_forward(net, l, pass->draw ? &draw : NULL, pass);
    if (l < net->n_layers - 1)
        write_output(layer, pass->n_rows, net->ld_rows);
}
