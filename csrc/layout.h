/* Sizes that the caller allocates by and the kernels count on. */
#ifndef SN_LAYOUT_H
#define SN_LAYOUT_H

#include "stochnet.h"

/* Gate rows of a thread's scratch, units updated at once, least length of `indices`;
   floats of the gates' rows that are worked on at once, and how many gates that may be. */
enum { GATE_SCRATCH_ROWS = 6, UPDATE_UNITS = 32, LEAST_INDICES = 256 };
enum { STRIP = 512, STRIP_GATES = STRIP / SN_PAD };

/* Entries of an index of blocks that stay in cache. */
enum { BLOCK_ENTRIES = 8192 };

/* Experts that a thread takes together where x leaves L2 and passes anew for each group of
   them: many, but so few that what is written of them for a mini-batch stays in L2. */
enum { EXPERTS_TOGETHER = 256 };

/* Whether n_rows rows of n floats leave any L2. */
static inline int sn_leaves_L2(int64_t n_rows, int64_t n)
{
    enum { LARGEST = 1 << 19 };
    return n_rows * n > LARGEST;
}

static inline int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Units [first, end) of those that threads share. */
typedef struct {
    int64_t first, end;
} sn_part;

/* How many parts of `width` n units have, */
static inline int64_t part_count(int64_t n, int64_t width)
{
    return (n - 1) / width + 1;
}

/* and which part i is. One that is smaller is the first: the first threads have a part more
   than the last where parts are no multiple of them. */
static inline sn_part part_at(int64_t n, int64_t width, int64_t i)
{
    const int64_t end = n - (part_count(n, width) - 1 - i) * width;
    return (sn_part){end > width ? end - width : 0, end};
}

/* n rounded up to whole vectors */
static inline int64_t padded(int64_t n)
{
    return (n + SN_PAD - 1) / SN_PAD * SN_PAD;
}

/* Length of a row of n floats. Rows a multiple of a kilobyte apart would share a few sets
   of the caches, so that a tile's rows push each other out. */
static inline int64_t sn_row_length(int64_t n)
{
    return padded(n) % 256 == 0 ? padded(n) + SN_PAD : padded(n);
}

/* Longer rows are cut into pieces of at most so many floats: a tile's stay in L1, and all
   rows of a mini-batch in L2. Part of the result's definition. */
enum { PIECE = 1024 };

static inline int64_t sn_piece_count(int64_t n)
{
    return (n - 1) / PIECE + 1;
}

/* Length of nearly equal pieces of rows of n floats. */
static inline int64_t piece_length(int64_t n)
{
    return padded((n - 1) / sn_piece_count(n) + 1);
}

/* The nonzeros of each piece are filled up with zeros to whole multiples of that many. */
enum { NONZEROS_AT_ONCE = 8 };

/* Most that is listed of a row of n floats whose nonzeros are: half of it. */
static inline int64_t sn_nonzeros_length(int64_t n)
{
    return padded(n / 2 + sn_piece_count(n) * (NONZEROS_AT_ONCE - 1));
}

/* Gates of one block: at most 64 blocks, of at least 16 experts. Each block has its own
   partial sum of the readout, so the blocks are part of the result's definition. */
static inline int64_t sn_block_width(const sn_layer *layer)
{
    const int64_t least = (15 + layer->experts_per_gate) / layer->experts_per_gate;
    const int64_t width = (layer->n_gates + 63) / 64;
    return (width + least - 1) / least * least;
}

static inline int64_t sn_block_count(const sn_layer *layer)
{
    return part_count(layer->n_gates, sn_block_width(layer));
}

/* The gates of a block. */
static inline sn_part sn_block_at(const sn_layer *layer, int64_t block)
{
    return part_at(layer->n_gates, sn_block_width(layer), block);
}

/* Whether backward a block of gates is done with at once, their weights included. Each block
   then has its own partial sum of the hidden units' gradient, which is worth it where it is
   shorter than the block's rows of da: they and the weights stay in cache. */
static inline int sn_sums_by_block(const sn_layer *layer)
{
    return layer->n_hidden <= sn_block_width(layer);
}

/* More classes than that are many. */
enum { FEW_CLASSES = 64 };

/* Whether the readout's kernels are those for many classes, see readout.c. Part of the
   result's definition, as is the next. */
static inline int sn_has_many_classes(const sn_network *net)
{
    return net->n_classes > FEW_CLASSES;
}

/* Whether logits are summed row by row, from lists of what ran for each: where blocks are of
   few gates, their partial sums would be read and written for longer than V is read. */
static inline int sn_reads_out_by_row(const sn_network *net)
{
    enum { GATES_FOR_EACH_CLASS = 16 };
    const sn_layer *last = net->layers + net->n_layers - 1;
    return sn_has_many_classes(net) &&
           last->n_gates < GATES_FOR_EACH_CLASS * net->n_classes;
}

/* Floats of `partials`, (blocks, B, columns): forward of the readout, backward of hidden
   units. */
static inline int64_t sn_partials_size(const sn_network *net)
{
    int64_t most = 0;
    for (int64_t l = 0; l < net->n_layers; l++) {
        const sn_layer *layer = net->layers + l;
        const int64_t hidden = sn_sums_by_block(layer) ? layer->ld_hidden : 0;
        const int is_read_out = l == net->n_layers - 1 && !sn_reads_out_by_row(net);
        const int64_t classes = is_read_out ? net->ld_classes : 0;
        const int64_t columns = hidden > classes ? hidden : classes;
        const int64_t size = sn_block_count(layer) * net->ld_rows * columns;
        most = size > most ? size : most;
    }
    return most;
}

/* Floats of the columns of any layer's input, */
static inline int64_t sn_input_columns_size(const sn_network *net)
{
    int64_t longest = 0;
    for (int64_t l = 0; l < net->n_layers; l++)
        longest = larger(longest, net->layers[l].ld_inputs);
    return longest * net->ld_rows;
}

/* and of any layer's hidden units. */
static inline int64_t sn_hidden_columns_size(const sn_network *net)
{
    int64_t longest = 0;
    for (int64_t l = 0; l < net->n_layers; l++)
        longest = larger(longest, net->layers[l].ld_hidden);
    return longest * net->ld_rows;
}

/* Entries of `indices`: for the rows of a batch and the experts of a gate. */
static inline int64_t sn_index_count(const sn_network *net)
{
    int64_t n = net->ld_rows > LEAST_INDICES ? net->ld_rows : LEAST_INDICES;
    for (int64_t l = 0; l < net->n_layers; l++)
        n = net->layers[l].experts_per_gate > n ? net->layers[l].experts_per_gate : n;
    return n;
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

/* Length of one of the gate rows of a thread's scratch. */
static inline int64_t sn_strip_length(const sn_network *net)
{
    return net->ld_rows > STRIP ? net->ld_rows : STRIP;
}

/* Most blocks that a row of some layer's input can have; 0 where there is one layer. */
static inline int64_t sn_most_blocks(const sn_network *net)
{
    int64_t most = 0;
    for (int64_t l = 0; l < net->n_layers - 1; l++)
        most = net->layers[l].n_gates > most ? net->layers[l].n_gates : most;
    return most;
}

/* Entries of a thread's index of blocks, at least those of one row. */
static inline int64_t sn_block_entries(const sn_network *net)
{
    const int64_t most = sn_most_blocks(net);
    return most == 0 || most > BLOCK_ENTRIES ? most : BLOCK_ENTRIES;
}

/* Floats of scratch of one thread: gate rows, one row of weights, UPDATE_UNITS gradients
   of them, and the index of blocks, two integers an entry and one a block. */
static inline int64_t sn_scratch_size(const sn_network *net)
{
    return GATE_SCRATCH_ROWS * sn_strip_length(net) +
           (1 + UPDATE_UNITS) * sn_longest_row(net) +
           padded(2 * sn_block_entries(net) + sn_most_blocks(net) + 1);
}

#endif
