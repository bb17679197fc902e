/* One layer downwards: gate by gate the gradients of H and h, the estimator, and the
 * updates of readout and experts; where a layer lies below, first the gradient of the
 * input, panel by panel; and the gater's two dense layers, for which see gater.c. Called by
 * all threads of a parallel region; see network.c.
 */
#include "layout.h"
#include "stochnet.h"
#include "vector.h"

/* dL/dy of expert e, from the readout or the layer above: on every row where the
   estimator credits all gates, else on the listed rows. OUT g (n_rows): scratch for it,
   where it does not lie elsewhere already. */
static const float *output_gradient(float *g, const sn_network *net, int64_t l, int64_t e,
                                    const int32_t *rows, int32_t count, int64_t n_rows)
{
    const sn_layer *layer = net->layers + l;
    if (l < net->n_layers - 1)
        for (int32_t j = 0; j < count; j++)
            g[rows[j]] = layer->output_gradient[rows[j] * layer->ld_units + e];
    else if (sn_has_many_classes(net))
        return layer->output_gradient + e * net->ld_rows; /* see readout_gradients */
    else if (layer->credit == SN_CREDIT_ALL)
        readout_gradient_of_all(g, net, e, n_rows);
    else
        readout_gradient(g, net, e, rows, count);
    return g;
}

/* Gate k's gradients of h (added to dh) and of H (left in its place); then the step of
   its rows of the readout. */
static void experts_backward(sn_network *net, int64_t l, int64_t k, float *restrict dh,
                             const sn_pass *pass)
{
    sn_layer *layer = net->layers + l;
    const int64_t ld = net->ld_rows, G = layer->experts_per_gate;
    const int32_t *rows = layer->rows + k * ld, count = layer->count[k];
    const int all = layer->credit == SN_CREDIT_ALL;
    const int32_t *credited = all ? net->indices : layer->credited + k * ld;
    const int32_t n_credited = all ? (int32_t)pass->n_rows : layer->n_credited[k];
    /* one loop over a random number of rows, not two; with full credit all rows have dh, in
       whole vectors, and those that are off nothing else */
    const int32_t *taken = all ? rows : credited, n_taken = all ? count : n_credited;
    const float *h = layer->h + k * ld;
    const int differs = estimator_table[layer->estimator]->needs_difference;
    float *restrict y = pass->gate.slope;
    if (differs)
        gate_difference(dh, net, layer, k, credited, n_credited, pass->n_rows, &pass->gate);
    for (int64_t e = k * G; e < (k + 1) * G; e++) {
        float *restrict H = layer->expert_output + e * ld;
        const float *g = output_gradient(pass->gate.output_gradient, net, l, e, credited,
                                         n_credited, pass->n_rows);
        if (all && !differs)
            for (int64_t b = 0; b < pass->n_rows; b++)
                dh[b] += g[b] * H[b];
        for (int32_t j = 0; j < n_taken; j++) {
            const int32_t b = taken[j];
            if (!all && !differs)
                dh[b] += g[b] * H[b];
            y[b] = h[b] * H[b];
            H[b] = g[b] * h[b];
        }
        if (l == net->n_layers - 1)
            update_readout(net, e, y, rows, count, pass->row);
    }
    if (layer->credit == SN_CREDIT_PROBE)
        for (int32_t j = 0; j < n_credited; j++)
            if (h[credited[j]] == 0.0f) /* stands for those that were not probed, too */
                dh[credited[j]] *= 1.0f / layer->probe_rate;
}

/* Step of single experts from `first` on that is taken as that of a dense layer. */
static void update_dense_tile(sn_network *net, sn_layer *layer, int64_t first,
                              const sn_input *in, const sn_pass *pass)
{
    const int64_t ld = net->ld_rows;
    float *dH = layer->expert_output + first * ld;
    for (int64_t i = 0; i < TILE_GATES; i++) {
        const float *h = layer->h + (first + i) * ld;
        for (int64_t b = 0; b < pass->n_rows; b++)
            dH[i * ld + b] = h[b] != 0.0f ? dH[i * ld + b] : 0.0f;
    }
    update_units(&layer->expert, first, TILE_GATES, &net->main, dH, ld, 1, in, net->indices,
                 net->indices, pass->n_rows, pass->gradient);
}

/* Step of the experts of gates [first, end) from dH, which is left in
   layer->expert_output and lost. */
static void update_experts(sn_network *net, sn_layer *layer, int64_t first, int64_t end,
                           const sn_input *in, const sn_pass *pass)
{
    const int64_t ld = net->ld_rows, G = layer->experts_per_gate;
    const int32_t *rows = layer->rows, *count = layer->count;
    float *dH = layer->expert_output;
    if (G > 1 || in->has_blocks) {
        for (int64_t k = first; k < end; k++)
            update_units(&layer->expert, k * G, G, &net->main, dH + k * G * ld, ld, 1, in,
                         net->indices, rows + k * ld, count[k], pass->gradient);
        return;
    }
    for (int64_t k = first, tile; k < end; k = tile + TILE_GATES) {
        tile = next_dense_tile(layer, count, k, end, pass->n_rows);
        update_listed_units(&layer->expert, k, tile, &net->main, dH, ld, &in->rows, rows,
                            count, pass->n_rows, pass->gradient);
        if (tile < end)
            update_dense_tile(net, layer, tile, in, pass);
    }
}

/* Gradients of h and H, and the estimator's of a, for gate k. */
static void gate_and_experts_backward(sn_network *net, int64_t l, int64_t k,
                                      const sn_draw *draw, const sn_pass *pass)
{
    sn_layer *layer = net->layers + l;
    float *dh = pass->gate.noisy;
    memset(dh, 0, (size_t)padded(pass->n_rows) * sizeof *dh);
    if (layer->credit == SN_CREDIT_ALL || layer->n_credited[k] > 0)
        experts_backward(net, l, k, dh, pass);
    gate_backward(layer, k, pass->n_rows, net->ld_rows, dh, net->loss, draw, &pass->gate);
}

/* Asks for what the gradients of gate k of the last layer read first: rows that were written
   upwards, long ago, and that the processor does not foresee. The list of rows comes before
   what it is the key to: its first 32 are mostly all where a tenth of 256 is active. */
SN_INLINE void prefetch_gate(const sn_network *net, const sn_layer *layer, int64_t k)
{
    const int64_t ld = net->ld_rows, G = layer->experts_per_gate;
    if (layer->credit == SN_CREDIT_ALL || layer->count[k] > 0) {
        __builtin_prefetch(layer->rows + k * ld);
        __builtin_prefetch(layer->rows + k * ld + SN_PAD);
        sn_prefetch(net->readout.weight + k * G * net->ld_classes, net->ld_classes);
        sn_prefetch(layer->expert_output + k * G * ld, ld);
        sn_prefetch(layer->h + k * ld, ld);
    }
    sn_prefetch(layer->da + k * ld, ld);
}

/* Gradients of gates [first, end) and of their experts. */
static void gates_backward(sn_network *net, int64_t l, int64_t first, int64_t end,
                           const sn_draw *draw, const sn_pass *pass)
{
    /* a gate with few rows is done with long before memory answers */
    enum { SHORT = 64, MANY = 8, FEW = 2 };
    const sn_layer *layer = net->layers + l;
    const int64_t ahead = net->ld_rows <= SHORT ? MANY : FEW;
    if (l == net->n_layers - 1 && sn_has_many_classes(net))
        readout_gradients(net, first, end, pass->n_rows);
    for (int64_t k = first; k < end; k++) {
        if (l == net->n_layers - 1 && k + ahead < layer->n_gates)
            prefetch_gate(net, layer, k + ahead);
        gate_and_experts_backward(net, l, k, draw, pass);
    }
}

/* Block by block of gates their gradients, which are left in layer->da and, for the experts, in
   layer->expert_output; and, in the same go where that is asked for, the experts' steps. Where
   it is by block, the gater's part of them follows: see gater.c. */
static void units_backward(sn_network *net, int64_t l, int steps, const sn_pass *pass)
{
    sn_layer *layer = net->layers + l;
    const int64_t n_blocks = sn_block_count(layer), n_rows = pass->n_rows;
    const int64_t ld = layer->ld_hidden;
    const sn_draw draw = layer_draw(pass, l);
    const sn_input in = input_of(net, l, pass->index);
#pragma omp for schedule(static)
    for (int64_t block = 0; block < n_blocks; block++) {
        const sn_part all = sn_block_at(layer, block);
        float *dU = sn_sums_by_block(layer) ? cleared_partial(net, block, n_rows, ld) : NULL;
        for (int64_t first = all.first; first < all.end; first += UPDATE_UNITS) {
            const int64_t end = smaller(first + UPDATE_UNITS, all.end);
            gates_backward(net, l, first, end, &draw, pass);
            if (steps)
                update_experts(net, layer, first, end, &in, pass);
            if (!dU)
                continue;
            add_hidden_gradient(dU, net, layer, 0, n_rows, 0, ld, first, end);
            update_gates(net, layer, first, end, pass);
        }
    }
}

/* The steps of all experts, whose gradients are in place. */
static void experts_step(sn_network *net, int64_t l, const sn_pass *pass)
{
    sn_layer *layer = net->layers + l;
    const sn_input in = input_of(net, l, pass->index);
    const int64_t n_blocks = sn_block_count(layer), together = blocks_together(layer, pass);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < part_count(n_blocks, together); i++) {
        const sn_part gates = gates_of_blocks(layer, part_at(n_blocks, together, i));
        update_experts(net, layer, gates.first, gates.end, &in, pass);
    }
}

/* ---- Gradient of a layer's input, a panel of inputs at a time -------------------- */

/* The part of each row's blocks that lies in inputs [begin, end), begin a multiple of their
   width.
   OUT first, last (n_rows). */
static void blocks_within(int32_t *first, int32_t *last, const sn_blocks *all,
                          int64_t n_rows, int64_t begin, int64_t end)
{
    const int32_t least = (int32_t)(begin / all->width);
    const int32_t behind = (int32_t)part_count(end, all->width);
    for (int64_t b = 0; b < n_rows; b++) {
        const int32_t *list = all->list + b * all->ld;
        first[b] = first_from(list, all->last[b], least);
        last[b] = first_from(list, all->last[b], behind);
    }
}

/* dx += c' W over the listed rows and inputs [begin, end) */
static void add_input_gradient(float *dx, const sn_network *net, const float *c,
                               int64_t ld_unit, int64_t ld_row, const float *w,
                               int64_t n_units, int64_t ld, const sn_blocks *blocks,
                               const int32_t *rows, int64_t n_rows, int64_t begin,
                               int64_t end)
{
    const sn_rows weights = {.x = w + begin, .ld = ld};
    if (blocks)
        (blocks->by_row ? block_input_sums_by_row : block_input_sums)(
            dx, ld, c, ld_unit, ld_row, w, ld, n_units, blocks, rows, n_rows);
    else
        weighted_sums(dx + begin, ld, rows, n_rows, c, ld_row, ld_unit, &weights,
                      net->indices, n_units, end - begin, 1.0f);
}

/* dL/dx through experts and gater, experts ascending; dH, du are in place. */
static void input_gradient(sn_network *net, int64_t l, const sn_pass *pass)
{
    sn_layer *layer = net->layers + l, *below = layer - 1;
    const int64_t ld = net->ld_rows, ld_x = below->ld_units, G = layer->experts_per_gate;
    const int64_t block = below->experts_per_gate, n_rows = pass->n_rows;
    const sn_input in = input_of(net, l, pass->index);
    const sn_blocks blocks = credited_blocks(&in, below);
    const int skips = in.has_blocks && below->credit != SN_CREDIT_ALL;
    /* few of a panel's blocks are active in a row: wider ones share its preparation */
    const int64_t most = PANEL_COLUMNS * (!skips ? 1 : blocks.by_row ? 8 : 4);
    const int64_t n_parts = parts_of(ld_x, most, pass->n_threads);
    float *dx = below->output_gradient;
    int32_t *first = (int32_t *)(void *)pass->gate.z, *last = first + ld;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < n_parts; i++) {
        const sn_part inputs = equal_part(ld_x, skips ? block : SN_PAD, n_parts, i);
        const int64_t begin = inputs.first, end = inputs.end;
        sn_blocks within = blocks;
        if (skips)
            blocks_within(first, last, &blocks, n_rows, begin, end);
        within.first = first;
        within.last = last;
        for (int64_t b = 0; b < n_rows; b++)
            memset(dx + b * ld_x + begin, 0, (size_t)(end - begin) * sizeof *dx);
        for (int64_t k = 0; k < layer->n_gates; k++)
            add_input_gradient(dx, net, layer->expert_output + k * G * ld, ld, 1,
                               layer->expert.weight + k * G * ld_x, G, ld_x,
                               skips ? &within : NULL, layer->rows + k * ld,
                               layer->count[k], begin, end);
        for (int64_t m = 0; m < layer->n_hidden; m += UPDATE_UNITS)
            add_input_gradient(dx, net, layer->hidden_gradient + m, 1, layer->ld_hidden,
                               layer->hidden.weight + m * ld_x,
                               smaller(UPDATE_UNITS, layer->n_hidden - m), ld_x,
                               skips ? &within : NULL, net->indices, n_rows, begin, end);
    }
}

static void layer_backward(sn_network *net, int64_t l, const sn_pass *pass)
{
    sn_layer *layer = net->layers + l;
    /* in one go with the gradients, where nothing below waits for the weights, nor more experts
       are better together than have their gradients in cache */
    const int at_once = l == 0 && blocks_together(layer, pass) == 1;
    units_backward(net, l, at_once, pass);
    hidden_backward(net, layer, pass);
    if (l > 0)
        input_gradient(net, l, pass);
    if (!at_once)
        experts_step(net, l, pass);
    update_gater(net, l, pass);
}
