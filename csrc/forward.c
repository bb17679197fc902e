/* One layer upwards: the gater's hidden units; then block by block of gates: pre-activations,
 * noise, gate, active rows, penalty, experts of the active rows, readout. Called by all
 * threads of a parallel region; see network.c.
 */
#include "layout.h"
#include "stochnet.h"
#include "vector.h"

/* Gates whose experts may be computed together, as a dense layer, and the share of their
   rows from which on that is faster, forward and backward. */
enum { TILE_GATES = 8 };
static const double DENSE_SHARE = 0.4;

/* Whether the single experts of gates [first, first + TILE_GATES) are better computed on
   every row, as a dense layer: each has rows, and together more than DENSE_SHARE of them.
   They gather rows for each alone, at less than half the speed of a dense tile. */
static int is_dense_tile(const int32_t *count, int64_t first, int64_t end, int64_t n_rows)
{
    int64_t listed = 0;
    if (first + TILE_GATES > end)
        return 0;
    for (int64_t k = first; k < first + TILE_GATES; k++) {
        if (count[k] == 0)
            return 0;
        listed += count[k];
    }
    return (double)listed > DENSE_SHARE * (double)(TILE_GATES * n_rows);
}

/* The first dense tile of a layer from k on, or `end`: what lies before it is gathered. Tiles
   are counted from the last gate, as blocks are, so that where they begin does not depend on
   how many gates are taken together: a step's last bits would show it. */
static int64_t next_dense_tile(const sn_layer *layer, const int32_t *count, int64_t k,
                               int64_t end, int64_t n_rows)
{
    k += (layer->n_gates - k) % TILE_GATES;
    while (k < end && !is_dense_tile(count, k, end, n_rows))
        k += TILE_GATES;
    return smaller(k, end);
}

/* Single experts of gates [first, end): dense tiles, and what is gathered between them. */
static void single_experts_forward(const sn_network *net, const sn_layer *layer,
                                   const sn_input *in, int64_t first, int64_t end,
                                   const int32_t *rows, const int32_t *count,
                                   const sn_pass *pass)
{
    const int64_t ld = net->ld_rows;
    float *H = layer->expert_output;
    for (int64_t k = first, tile; k < end; k = tile + TILE_GATES) {
        tile = next_dense_tile(layer, count, k, end, pass->n_rows);
        expert_forward(H, ld, &layer->expert, 1, &in->rows, rows, count, k, tile);
        if (tile < end)
            unit_major_products(H, net, &layer->expert, tile, tile + TILE_GATES, in, pass);
    }
}

/* Whether all experts are computed, as the estimator credits gates that are off as well. */
static int computes_all(const sn_layer *layer, const sn_pass *pass)
{
    return pass->training && layer->credit == SN_CREDIT_ALL;
}

/* Experts of gates [first, end) on the rows listed for each, or all. */
static void experts_forward(const sn_network *net, const sn_layer *layer,
                            const sn_input *in, int64_t first, int64_t end,
                            const int32_t *rows, const int32_t *count,
                            const sn_pass *pass)
{
    const int64_t ld = net->ld_rows, G = layer->experts_per_gate, n_rows = pass->n_rows;
    float *H = layer->expert_output;
    const int all = computes_all(layer, pass);
    for (int64_t k = first; k < end; k++)
        layer->reads[k] += G * (all ? n_rows : count[k]);
    if (all)
        unit_major_products(H, net, &layer->expert, first * G, end * G, in, pass);
    else if (G == 1 && !in->has_blocks)
        single_experts_forward(net, layer, in, first, end, rows, count, pass);
    else
        for (int64_t k = first; k < end; k++)
            input_products(H + k * G * ld, ld, 1, &layer->expert, k * G, G, in,
                           rows + k * ld, count[k]);
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

/* y (B, E) = h H of gates [first, end), while both are in cache: zero where a gate is, or
   not written there where readers skip silent blocks. */
static void write_output(const sn_network *net, const sn_layer *layer, int64_t first,
                         int64_t end, int64_t n_rows)
{
    const int64_t G = layer->experts_per_gate, ld = net->ld_rows;
    const int skipped = output_has_blocks(layer);
    for (int64_t k = first; k < end; k++) {
        const int32_t *rows = skipped ? layer->rows + k * ld : net->indices;
        const int64_t count = skipped ? layer->count[k] : n_rows;
        const float *h = layer->h + k * ld, *H = layer->expert_output + k * G * ld;
        for (int64_t j = 0; j < count; j++) {
            const int32_t b = rows[j];
            float *y = layer->output + b * layer->ld_units + k * G;
            for (int64_t g = 0; g < G; g++)
                y[g] = h[b] != 0.0f ? h[b] * H[g * ld + b] : 0.0f;
        }
    }
}

/* Whether pre-activations are read again once their block of gates is done, */
static int keeps_a(const sn_layer *layer, const sn_pass *pass)
{
    const int reads = !estimator_table[layer->estimator]->ignores_a;
    return pass->training && (reads || layer->sigmoid_derivative);
}

/* whether gates and active rows are, */
static int keeps_gates(const sn_network *net, int64_t l, const sn_pass *pass)
{
    return pass->training || l < net->n_layers - 1 || pass->keeps_gates ||
           sn_reads_out_by_row(net);
}

/* and whether the experts' outputs are. */
static int keeps_H(const sn_network *net, int64_t l, const sn_pass *pass)
{
    return pass->training || (l == net->n_layers - 1 && sn_reads_out_by_row(net));
}

/* Successive blocks of gates that a thread takes through a layer together: one, or, where x
   leaves L2 and passes anew for each group of experts, those of many; but as many groups as
   there are threads. */
static int64_t blocks_together(const sn_layer *layer, const sn_pass *pass)
{
    const int64_t experts = sn_block_width(layer) * layer->experts_per_gate;
    if (!sn_leaves_L2(pass->n_rows, layer->ld_inputs))
        return 1;
    return smaller(part_count(EXPERTS_TOGETHER, experts),
                   larger(sn_block_count(layer) / pass->n_threads, 1));
}

/* The gates of successive blocks. */
static sn_part gates_of_blocks(const sn_layer *layer, sn_part blocks)
{
    return (sn_part){sn_block_at(layer, blocks.first).first,
                     sn_block_at(layer, blocks.end - 1).end};
}

/* Where `all`, n_rows rows of 32-bit numbers for each gate, is written for gates from `first`
   on, at most those of the blocks that a thread takes together, as the address that gate 0
   would have: in its place, or, where nobody reads it once they are done, in that of so many
   gates for each thread, which stays in cache. */
static void *place_of_gates(const void *all, int64_t n_rows, int is_kept,
                            const sn_network *net, const sn_layer *layer, int64_t first,
                            const sn_pass *pass)
{
    enum { BYTES = 4 };
    const int64_t width = sn_block_width(layer) * blocks_together(layer, pass);
    const int64_t gates = pass->thread * width - first;
    int64_t by = gates * n_rows * net->ld_rows * BYTES;
    if (is_kept || pass->n_threads * width > layer->n_gates)
        by = 0;
    return (void *)((uintptr_t)all + (uintptr_t)by);
}

/* Layer l with the places of gates from `first` on. */
static sn_layer layer_of_gates(const sn_network *net, int64_t l, int64_t first,
                               const sn_pass *pass)
{
    const sn_layer *whole = net->layers + l;
    const int64_t G = whole->experts_per_gate;
    const int keeps = keeps_gates(net, l, pass);
    sn_layer layer = *whole;
    layer.a = place_of_gates(whole->a, 1, keeps_a(whole, pass), net, whole, first, pass);
    layer.h = place_of_gates(whole->h, 1, keeps, net, whole, first, pass);
    layer.rows = place_of_gates(whole->rows, 1, keeps, net, whole, first, pass);
    layer.expert_output = place_of_gates(whole->expert_output, G, keeps_H(net, l, pass),
                                         net, whole, first, pass);
    return layer;
}

/* Gates of a block that go upwards together, so that what is written of them for all rows is
   still in L2 when it is read; few would read their rows too often, or fill no tile. */
static int64_t gates_together(const sn_layer *layer, int64_t n_rows)
{
    enum { FLOATS = 1 << 14, LEAST = 32 };
    const int64_t units = larger(FLOATS / padded(n_rows) / LEAST, 1) * LEAST;
    return larger(units / layer->experts_per_gate, LANE_TILE_UNITS);
}

/* Gates [first, end) and their experts. */
static void gates_and_experts_forward(const sn_network *net, int64_t l, sn_layer *layer,
                                      int64_t first, int64_t end, const sn_input *in,
                                      const sn_draw *draw, const sn_pass *pass)
{
    const int32_t *rows = pass->training ? layer->credited : layer->rows;
    const int32_t *count = pass->training ? layer->n_credited : layer->count;
    gate_products(net, layer, first, end, pass);
    gates_forward(layer, first, end, draw, net->ld_rows, pass);
    experts_forward(net, layer, in, first, end, rows, count, pass);
    if (l < net->n_layers - 1)
        write_output(net, layer, first, end, pass->n_rows);
}

/* The readout of gates [first, end) of some blocks, added to the blocks' partial sums, which
   start with their first gates. */
static void read_out_gates(const sn_network *net, const sn_layer *layer, sn_part blocks,
                           int64_t first, int64_t end, const sn_pass *pass)
{
    const int64_t ld = net->ld_classes;
    for (int64_t block = blocks.first; block < blocks.end; block++) {
        const sn_part gates = sn_block_at(layer, block);
        const int64_t last = smaller(gates.end, end);
        float *logits = gates.first >= first && gates.first < end
                            ? cleared_partial(net, block, pass->n_rows, ld)
                            : partial_row(net, block, 0, ld);
        for (int64_t k = larger(gates.first, first); k < last; k++)
            readout_gate(net, logits, layer, k);
    }
}

/* Gates and experts of one layer, block by block, and their part of the readout. */
static void units_forward(sn_network *net, int64_t l, const sn_draw *draw,
                          const sn_pass *pass)
{
    const sn_layer *whole = net->layers + l;
    const sn_input in = computes_all(whole, pass) ? whole_input_of(net, l, pass)
                                                  : input_of(net, l, pass->index);
    const int64_t n_blocks = sn_block_count(whole), together = blocks_together(whole, pass);
    const int64_t step = together > 1 ? together * sn_block_width(whole)
                                      : gates_together(whole, pass->n_rows);
    const int reads_out = l == net->n_layers - 1 && !sn_reads_out_by_row(net);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < part_count(n_blocks, together); i++) {
        const sn_part blocks = part_at(n_blocks, together, i);
        const sn_part gates = gates_of_blocks(whole, blocks);
        for (int64_t first = gates.first; first < gates.end; first += step) {
            const int64_t end = smaller(first + step, gates.end);
            sn_layer layer = layer_of_gates(net, l, first, pass);
            gates_and_experts_forward(net, l, &layer, first, end, &in, draw, pass);
            if (reads_out)
                read_out_gates(net, &layer, blocks, first, end, pass);
        }
    }
}

/* The active gates of each row. */
static void list_active_gates(sn_layer *layer, int64_t n_rows, int64_t ld_rows)
{
#pragma omp for schedule(static)
    for (int64_t first = 0; first < n_rows; first += SN_PAD) {
        for (int64_t b = first; b < smaller(first + SN_PAD, n_rows); b++)
            layer->n_gates_of_row[b] = 0;
        for (int64_t k = 0; k < layer->n_gates; k++) {
            int32_t active[SN_PAD];
            const uint32_t bits = sn_different(layer->h + k * ld_rows + first, 0.0f);
            const int32_t n = list_rows(active, 0, first, bits, n_rows);
            for (int32_t j = 0; j < n; j++)
                layer->gates[active[j] * layer->n_gates +
                             layer->n_gates_of_row[active[j]]++] = (int32_t)k;
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

/* Columns of the input, for hidden units and for experts that are all computed. */
static void transpose_input(const sn_network *net, int64_t l, const sn_pass *pass)
{
    const sn_input in = whole_input_of(net, l, pass);
    if (in.columns)
        pack_columns(net->input_columns, in.rows.x, in.rows.ld, pass->n_rows, in.rows.ld, 0);
}

static void layer_forward(sn_network *net, int64_t l, const sn_pass *pass)
{
    sn_layer *layer = net->layers + l;
    sn_draw draw;
    if (pass->draw)
        draw = layer_draw(pass, l);
    transpose_input(net, l, pass);
    hidden_forward(net, l, pass);
    units_forward(net, l, pass->draw ? &draw : NULL, pass);
    if (l < net->n_layers - 1)
        list_active_gates(layer, pass->n_rows, net->ld_rows);
    if (l < net->n_layers - 1 && probes(layer, pass) && output_has_blocks(layer))
        list_credited_gates(layer, pass->n_rows, net->ld_rows);
}
