/* Sizes that the caller allocates by and the kernels count on. */
#ifndef SN_LAYOUT_H
#define SN_LAYOUT_H

#include "stochnet.h"

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

/* Floats of scratch of one thread: six gate rows, one row of weights, and 32 rows of
   weights or of gates. */
static inline int64_t sn_scratch_size(const sn_network *net)
{
    const int64_t longest = sn_longest_row(net);
    const int64_t panel_row = longest > net->ld_rows ? longest : net->ld_rows;
    return 6 * net->ld_rows + longest + 32 * panel_row;
}

#endif
