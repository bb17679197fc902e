/* Sums over gates that threads share: each block of gates has a partial sum of its own for
 * every row of the mini-batch, and the sum of a row is that of its blocks, ascending.
 */
#include "layout.h"
#include "stochnet.h"

/* Row b of a block's partial sum, of n_columns floats. */
static float *partial_row(const sn_network *net, int64_t block, int64_t b,
                          int64_t n_columns)
{
    return net->partials + (block * net->ld_rows + b) * n_columns;
}

/* A block's partial sum (n_rows, n_columns), zero. */
static float *cleared_partial(const sn_network *net, int64_t block, int64_t n_rows,
                              int64_t n_columns)
{
    float *partial = partial_row(net, block, 0, n_columns);
    memset(partial, 0, (size_t)(n_rows * n_columns) * sizeof *partial);
    return partial;
}

/* out (n_columns) += row b of all blocks of gates of `layer` */
static void add_partials(float *restrict out, const sn_network *net, const sn_layer *layer,
                         int64_t b, int64_t n_columns)
{
    const int64_t n_blocks = sn_block_count(layer);
    for (int64_t block = 0; block < n_blocks; block++) {
        const float *partial = partial_row(net, block, b, n_columns);
        for (int64_t c = 0; c < n_columns; c++)
            out[c] += partial[c];
    }
}
