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

/* As many counters at once as a vector has lanes of 64 bits, one word of each: in the lower
   half of its lane, where the product of two words has place. Upper halves mean nothing. */
enum { SN_WORDS = SN_LANES / 2 };
typedef uint64_t sn_words __attribute__((vector_size(8 * SN_WORDS)));

/* Products of the lower halves. GCC does not find these instructions by itself. */
SN_INLINE sn_words sn_multiply(sn_words a, sn_words b)
{
#if defined(__AVX512F__)
    return (sn_words)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (sn_words)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
    return (sn_words)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
    return (a & 0xFFFFFFFFu) * (b & 0xFFFFFFFFu);
#endif
}

SN_INLINE void philox_round(sn_words c[4], uint32_t k0, uint32_t k1)
{
    const sn_words zero = {0}, m0 = zero + 0xD2511F53u, m1 = zero + 0xCD9E8D57u;
    const sn_words p0 = sn_multiply(m0, c[0]), p1 = sn_multiply(m1, c[2]);
    c[0] = p1 >> 32 ^ c[1] ^ (uint64_t)k0;
    c[1] = p1;
    c[2] = p0 >> 32 ^ c[3] ^ (uint64_t)k1;
    c[3] = p0;
}

/* Two at a time, as a round of one waits for the round before.
   INOUT c, d: the counters' four words, then as many random ones. IN key (2). */
SN_INLINE void philox(sn_words c[4], sn_words d[4], const uint32_t key[2])
{
#pragma GCC unroll 10
    for (uint32_t round = 0; round < 10; round++) {
        const uint32_t k0 = key[0] + round * 0x9E3779B9u, k1 = key[1] + round * 0xBB67AE85u;
        philox_round(c, k0, k1);
        philox_round(d, k0, k1);
    }
}

#endif
