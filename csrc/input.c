/* What a layer reads: the network's input, or the output of the layer below, of which
 * only the active blocks are touched where its gates switch large enough blocks.
 */
#include "layout.h"
#include "stochnet.h"

typedef struct {
    sn_rows rows; /* (B); with blocks only what they have, see sn_blocks */
    int has_blocks;
    sn_blocks blocks;
    const sn_nonzeros *nonzeros; /* NULL where sparse_products would not pay */
    float *panel;                /* scratch for it, (UPDATE_UNITS, ld) */
    const float *columns;        /* the rows transposed, see pack_columns; NULL where
                                    column_products would not pay */
} sn_input;

/* The filled chunks of a row: see sn_rows. Images, counts and indicators are zeros for the
   most part. OUT filled (sn_piece_count(n)). IN x (n). */
static void find_filled(uint64_t *filled, const float *x, int64_t n)
{
    const int64_t length = piece_length(n);
    for (int64_t d = 0; d < n; d += length) {
        const int64_t end = smaller(d + length, n);
        uint64_t bits = 0;
        for (int64_t i = d; i < end; i += SN_PAD)
            bits |= (uint64_t)(sn_different(x + i, 0.0f) != 0) << (i - d) / SN_PAD;
        filled[d / length] = bits;
    }
}

/* Whether readers of this layer's output skip its silent blocks. Blocks must be whole
   vectors; above this density the dense kernels, which share their loads between rows,
   are faster. */
static int output_has_blocks(const sn_layer *layer)
{
    return layer->experts_per_gate % SN_PAD == 0 && layer->density <= 0.5f &&
           !unit_table[layer->unit]->always_fires;
}

/* Whether its blocks are multiplied row by row: where they are few. As measured with vectors of
   eight floats; with sixteen block.c transposes a tile in registers, and rows have not been
   tried. */
static int blocks_by_row(const sn_layer *layer)
{
    return SN_LANES < 16 && layer->density <= 0.2f;
}

/* IN index: scratch, as long as sn_scratch_size says. */
static sn_input input_of(const sn_network *net, int64_t l, int32_t *index)
{
    if (l == 0)
        return (sn_input){.rows = {net->input, net->layers->ld_inputs, net->filled,
                                   net->ld_filled}};
    const sn_layer *below = net->layers + l - 1;
    const int64_t n_hits = sn_block_entries(net);
    return (sn_input){.rows = {.x = below->output, .ld = below->ld_units},
                      .has_blocks = output_has_blocks(below),
                      .blocks = {.by_row = blocks_by_row(below),
                                 .width = below->experts_per_gate,
                                 .ld = below->n_gates,
                                 .list = below->gates,
                                 .last = below->n_gates_of_row,
                                 .n_hits = n_hits,
                                 .hits = (sn_block_hit *)index,
                                 .end = index + 2 * n_hits}};
}

/* Of the blocks that `in` has, those whose gradient the gates of the layer below ask for:
   beside the active ones those that are probed. */
static sn_blocks credited_blocks(const sn_input *in, const sn_layer *below)
{
    sn_blocks blocks = in->blocks;
    blocks.list = below->credited_gates;
    blocks.last = below->n_credited_of_row;
    return blocks;
}

/* out[i, r] = bias[i] + w_i . x_r for `n_units` units of p from `first` on and the
   listed rows; OUT and strides as of dot_products. */
static void input_products(float *out, int64_t ld_unit, int64_t ld_row,
                           const sn_parameters *p, int64_t first, int64_t n_units,
                           const sn_input *in, const int32_t *rows, int64_t n_rows)
{
    const float *w = p->weight + first * p->ld, *bias = p->bias + first;
    if (in->has_blocks)
        (in->blocks.by_row ? block_dot_products_by_row : block_dot_products)(
            out, ld_unit, ld_row, w, p->ld, bias, n_units, in->rows.x, in->rows.ld,
            &in->blocks, rows, n_rows);
    else
        dot_products(out, ld_unit, ld_row, w, p->ld, bias, n_units, &in->rows, rows,
                     n_rows, p->ld);
}

/* The same for successive rows, from rows[0] on. */
static void row_products(float *out, int64_t ld_unit, int64_t ld_row,
                         const sn_parameters *p, int64_t first, int64_t n_units,
                         const sn_input *in, const int32_t *rows, int64_t n_rows)
{
    if (in->nonzeros)
        sparse_products(out, ld_unit, ld_row, p->weight + first * p->ld, p->ld,
                        p->bias + first, n_units, in->nonzeros, rows[0], rows[0] + n_rows,
                        p->ld, in->panel);
    else
        input_products(out, ld_unit, ld_row, p, first, n_units, in, rows, n_rows);
}

/* w_i = keep w_i + sum over the listed rows of c[i, r] x_r. INOUT w (n_units, ld of x).
   IN c, element (i, r) at i * ld_unit + r * ld_row; indices (n_units) 0, 1, ... Returns
   whether what it wrote is known to be finite. */
static int input_sums(float *w, int64_t n_units, const float *c, int64_t ld_unit,
                      int64_t ld_row, const sn_input *in, const int32_t *indices,
                      const int32_t *rows, int64_t n_rows, float keep)
{
    const int64_t ld = in->rows.ld;
    if (in->has_blocks) {
        for (int64_t i = 0; keep != 1.0f && i < n_units * ld; i++)
            w[i] *= keep;
        return block_weight_sums(w, ld, n_units, c, ld_unit, ld_row, in->rows.x, ld,
                                 &in->blocks, rows, n_rows);
    }
    weighted_sums(w, ld, indices, n_units, c, ld_unit, ld_row, &in->rows, rows, n_rows, ld,
                  keep);
    return 0;
}

/* Gradients of the biases, and c scaled by -rate where that is what the weights take.
   OUT bias_gradient (n_units). INOUT c, on the listed rows. */
static void sum_and_scale(float *restrict bias_gradient, float *restrict c,
                          int64_t n_units, int64_t ld_unit, int64_t ld_row,
                          const int32_t *rows, int64_t n_rows, float scale)
{
    const int all = n_rows > 0 && rows[n_rows - 1] - rows[0] == n_rows - 1;
    if (all && ld_row == 1) { /* whole vectors */
        for (int64_t i = 0; i < n_units; i++) {
            float *ci = c + i * ld_unit + rows[0];
            bias_gradient[i] = sn_row_sum(ci, n_rows);
            for (int64_t b = 0; b < n_rows; b++)
                ci[b] *= scale;
        }
        return;
    }
    if (ld_row == 1) {
        for (int64_t i = 0; i < n_units; i++) {
            float sum = 0.0f, *ci = c + i * ld_unit;
            for (int64_t j = 0; j < n_rows; j++) {
                sum += ci[rows[j]];
                ci[rows[j]] *= scale;
            }
            bias_gradient[i] = sum;
        }
        return;
    }
    for (int64_t i = 0; i < n_units; i++)
        bias_gradient[i] = 0.0f;
    for (int64_t j = 0; j < n_rows; j++)
        for (int64_t i = 0; i < n_units; i++) {
            float *cij = c + i * ld_unit + rows[j] * ld_row;
            bias_gradient[i] += *cij;
            *cij *= scale;
        }
}

/* One step of `n_units` units of p from `first` on, from the gradient c of their
   pre-activations on the listed rows; c is lost.
   IN gradient: scratch, (UPDATE_UNITS, p->ld). */
static void update_units(sn_parameters *p, int64_t first, int64_t n_units,
                         const sn_optimizer *optimizer, float *c, int64_t ld_unit,
                         int64_t ld_row, const sn_input *in, const int32_t *indices,
                         const int32_t *rows, int64_t n_rows, float *gradient)
{
    const int plain = is_plain_sgd(p, optimizer);
    if (is_frozen(optimizer) || n_rows == 0)
        return;
    for (int64_t from = 0; from < n_units; from += UPDATE_UNITS) {
        const int64_t row = first + from;
        const int64_t width = n_units - from < UPDATE_UNITS ? n_units - from : UPDATE_UNITS;
        float bias_gradient[UPDATE_UNITS], *ci = c + from * ld_unit;
        sum_and_scale(bias_gradient, ci, width, ld_unit, ld_row, rows, n_rows,
                      plain ? -optimizer->learning_rate : 1.0f);
        float *out = plain ? p->weight + row * p->ld : gradient;
        if (!plain)
            memset(out, 0, (size_t)(width * p->ld) * sizeof *out);
        const int finite = input_sums(out, width, ci, ld_unit, ld_row, in, indices, rows,
                                      n_rows, plain ? plain_keep(optimizer) : 1.0f);
        for (int64_t i = 0; i < width; i++)
            end_step(p, row + i, plain, gradient + i * p->ld, bias_gradient[i], optimizer);
        check_rows(p, row, width, optimizer, plain && finite);
    }
}
