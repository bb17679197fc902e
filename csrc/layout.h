/* Sizes that the caller allocates by and the kernels count on. */
#ifndef SN_LAYOUT_H
#define SN_LAYOUT_H

#include "stochnet.h"

/* Gate rows of a thread's scratch, and units of a dense layer updated at once. */
enum { GATE_SCRATCH_ROWS = 6, UPDATE_ROWS = 32 };

/* n rounded up to whole vectors */
static inline int64_t padded(int64_t n)
{
    return (n + SN_PAD - 1) / SN_PAD * SN_PAD;
}

/* Units of one block: at most 64 blocks, of at least 16 units. Each block has its own
   partial sum of the readout, so the blocks are part of the result's definition. */
static inline int64_t sn_block_width(int64_t n_units)
{
    const int64_t width = padded((n_units + 63) / 64);
    return width < 16 ? 16 : width;
}

static inline int64_t sn_block_count(int64_t n_units)
{
    return (n_units - 1) / sn_block_width(n_units) + 1;
}

/* Longest row of weights, in floats. */
static inline int64_t sn_longest_row(const sn_network *net)
{
    int64_t longest = net->ld_classes;
    for (int64_t l = 0; l < net->n_layers; l++) {
        const sn_layer *layer = net->layers + l;
        longest = layer->ld_inputs > longest ? layer->ld_inputs : longest;
        longest = layer->ld_hidden > longest ? layer->ld_hidden : longest;
    }
    return longest;
}

/* Floats of scratch of one thread: gate rows, one row of weights, and UPDATE_ROWS rows
   of weights or of gates. */
static inline int64_t sn_scratch_size(const sn_network *net)
{
    const int64_t longest = sn_longest_row(net);
    const int64_t panel_row = longest > net->ld_rows ? longest : net->ld_rows;
    return GATE_SCRATCH_ROWS * net->ld_rows + longest + UPDATE_ROWS * panel_row;
}

#endif
