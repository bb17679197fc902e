/* Units with rows, one after the other, and asking for the weights of those that come: the
 * processor does not foresee them, and where they are far away they are most of the time.
 */
#include "layout.h"
#include "stochnet.h"
#include "vector.h"

/* The first unit from k on with rows, or `end`. */
SN_INLINE int64_t next_listed(const int32_t *count, int64_t k, int64_t end)
{
    while (k < end && count[k] == 0)
        k++;
    return k;
}

/* Rows listed for units [first, end) */
static int64_t listed_rows(const int32_t *count, int64_t first, int64_t end)
{
    int64_t listed = 0;
    for (int64_t k = first; k < end; k++)
        listed += count[k];
    return listed;
}

/* Index of the first of n ascending numbers that is `least` or more. */
static int32_t first_from(const int32_t *list, int32_t n, int32_t least)
{
    int32_t low = 0;
    while (low < n) {
        const int32_t middle = low + (n - low) / 2;
        if (list[middle] < least)
            low = middle + 1;
        else
            n = middle;
    }
    return low;
}

/* Whether rows of p are asked for some units ahead, into L2, and not one unit ahead, into L1:
   where they come from memory and the processor is AMD's. On its Zen 4 that is up to 1.4 times
   as fast: a row that is asked for at once seems to fill the buffers between L1 and L2, for which
   rows of x then wait as long as memory takes. On Intel's processors with AVX-512, and where
   weights come from L3, it was slower. */
SN_INLINE int asks_far_ahead(const sn_parameters *p)
{
#if defined(__x86_64__)
    enum { L3_FLOATS = 1 << 22 };
    return p->n_rows * p->ld > L3_FLOATS && __builtin_cpu_is("amd");
#else
    (void)p;
    return 0;
#endif
}

/* Whether weights that come next are asked for all at once, and not in shares, between tiles of
   work. At once they fill the buffers that rows of x come through, and Zen 3 drops requests that
   find no room. With AVX-512 shares were as fast with 256 rows on Zen 4, slower with 32, and
   have not been tried on others. */
enum { ASKS_AT_ONCE = SN_LANES == 16 };

/* n floats of each of the units that come next. */
typedef struct {
    const float *weight;    /* of the first unit */
    int64_t ld, n, n_units; /* no units: nothing is asked for */
    int far;
} next_weights;

/* Asks for a share of so many floats of each unit, or for what is left, from `from` on. Returns
   where to go on. */
SN_INLINE int64_t ask_for_share(const next_weights *next, int64_t from, int64_t share)
{
    const int64_t end = ASKS_AT_ONCE ? next->n : smaller(from + share, next->n);
    for (int64_t u = 0; u < next->n_units; u++)
        if (next->far)
            sn_prefetch_L2(next->weight + u * next->ld + from, end - from);
        else
            sn_prefetch(next->weight + u * next->ld + from, end - from);
    return end;
}

/* The share of each of so many tiles. */
SN_INLINE int64_t share_of(const next_weights *next, int64_t n_tiles)
{
    return padded(part_count(next->n, n_tiles));
}

/* The weights of listed units, which are asked for one after the other. */
typedef struct {
    const float *weight; /* of unit 0, from where they are asked for */
    int64_t ld, n;       /* so many floats */
    const int32_t *count;
    int64_t end;
    int64_t asked; /* units before it have been asked for, or are not to be */
    int far;
} coming_weights;

/* Those of one unit more, to be asked for during each unit. */
SN_INLINE next_weights next_of(coming_weights *coming)
{
    const int64_t k = smaller(next_listed(coming->count, coming->asked, coming->end),
                              coming->end);
    coming->asked = k + 1;
    return (next_weights){.weight = coming->weight + k * coming->ld,
                          .ld = coming->ld,
                          .n = coming->n,
                          .n_units = k < coming->end,
                          .far = coming->far};
}

/* Floats [d, d + n) of those of units [first, end) of p, but of the first, which is too near. */
SN_INLINE coming_weights coming_from(const sn_parameters *p, int64_t d, int64_t n,
                                     const int32_t *count, int64_t first, int64_t end)
{
    enum { UNITS_AHEAD = ASKS_AT_ONCE ? 3 : 2 };
    const int64_t second = next_listed(count, first, end) + 1;
    coming_weights coming = {.weight = p->weight + d,
                             .ld = p->ld,
                             .n = n,
                             .count = count,
                             .end = end,
                             .asked = second,
                             .far = asks_far_ahead(p)};
    for (int i = 1; coming.far && i < UNITS_AHEAD; i++) {
        const next_weights next = next_of(&coming);
        ask_for_share(&next, 0, n);
    }
    return coming;
}
