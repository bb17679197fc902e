/* Philox4x32-10 (Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy
 * as 1, 2, 3"): four random words as a pure function of a 128-bit counter and a
 * 64-bit key. The counter here is
 *   (unit, row / 4, step, layer << 8 | mode << 4 | purpose)
 * so that a draw depends on nothing but what it is for: not on threads, not on the
 * size of the batch, not on what was drawn before.
 */
#ifndef SN_PHILOX_H
#define SN_PHILOX_H

#include "stochnet.h"
#include "vector.h"

SN_INLINE void philox_round(uint32_t c[4], uint32_t k0, uint32_t k1)
{
    const uint64_t p0 = (uint64_t)0xD2511F53u * c[0];
    const uint64_t p1 = (uint64_t)0xCD9E8D57u * c[2];
    const uint32_t c1 = c[1], c3 = c[3];
    c[0] = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
    c[1] = (uint32_t)p1;
    c[2] = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
    c[3] = (uint32_t)p0;
}

/* OUT out (4). IN counter (4), key (2). */
SN_INLINE void philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2])
{
    uint32_t c[4] = {counter[0], counter[1], counter[2], counter[3]};
#pragma GCC unroll 10
    for (uint32_t round = 0; round < 10; round++)
        philox_round(c, key[0] + round * 0x9E3779B9u, key[1] + round * 0xBB67AE85u);
    for (int i = 0; i < 4; i++)
        out[i] = c[i];
}

#endif
