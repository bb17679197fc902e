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

/* How the weights of listed units are asked for. */
typedef struct {
    int at_once;     /* all of a unit's, and not in shares, between tiles of work */
    int in_turns;    /* or in turns with the products of a tile, a line for each of its own */
    int into_L2;     /* and not into L1 */
    int units_ahead; /* 1: while the unit before is worked on */
} asking;

/* What was fastest. Requests that wait for L3 or memory fill the buffers between L1 and L2,
   which rows of x come through as well.
   Intel's processors with AVX-512: in turns, or in shares, into L2, as long as they do not come
   all at once.
   AMD's with AVX-512 (Zen 4): at once, and from memory three units ahead into L2.
   Without AVX-512: in shares, as Zen 3 drops requests that find no room; from memory two units
   ahead into L2. */
SN_INLINE asking asking_for(const sn_parameters *p)
{
    enum { L3_FLOATS = 1 << 22, HAS_AVX512 = SN_LANES == 16 };
    int is_amd = 0;
#if defined(__x86_64__)
    is_amd = __builtin_cpu_is("amd") != 0;
#endif
    if (HAS_AVX512 && !is_amd)
        return (asking){.in_turns = 1, .into_L2 = 1, .units_ahead = 1};
    const int far = is_amd && p->n_rows * p->ld > L3_FLOATS;
    return (asking){.at_once = HAS_AVX512,
                    .into_L2 = far,
                    .units_ahead = !far ? 1 : HAS_AVX512 ? 3 : 2};
}

/* n floats of each of the units that come next. */
typedef struct {
    const float *weight;    /* of the first unit */
    int64_t ld, n, n_units; /* no units: nothing is asked for */
    asking how;
} next_weights;

/* Asks for a share of so many floats of each unit, or for what is left, from `from` on. Returns
   where to go on. */
SN_INLINE int64_t ask_for_share(const next_weights *next, int64_t from, int64_t share)
{
    const int64_t end = next->how.at_once ? next->n : smaller(from + share, next->n);
    for (int64_t u = 0; u < next->n_units; u++)
        if (next->how.into_L2)
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

/* Where a tile finds the weights that it is to ask for in turns, or NULL. */
SN_INLINE const float *asked_in_turns(const next_weights *next)
{
    return next->how.in_turns && next->n_units > 0 ? next->weight : NULL;
}

/* The weights of listed units, which are asked for one after the other. */
typedef struct {
    const float *weight; /* of unit 0, from where they are asked for */
    int64_t ld, n;       /* so many floats */
    const int32_t *count;
    int64_t end;
    int64_t asked; /* units before it have been asked for, or are not to be */
    asking how;
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
                          .how = coming->how};
}

/* Floats [d, d + n) of those of units [first, end) of p, but of the first, which is too near. */
SN_INLINE coming_weights coming_from(const sn_parameters *p, int64_t d, int64_t n,
                                     const int32_t *count, int64_t first, int64_t end)
{
    const int64_t second = next_listed(count, first, end) + 1;
    coming_weights coming = {.weight = p->weight + d,
                             .ld = p->ld,
                             .n = n,
                             .count = count,
                             .end = end,
                             .asked = second,
                             .how = asking_for(p)};
    for (int i = 1; i < coming.how.units_ahead; i++) {
        const next_weights next = next_of(&coming);
        ask_for_share(&next, 0, n);
    }
    return coming;
}
