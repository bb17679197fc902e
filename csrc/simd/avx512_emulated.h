/* The intrinsics of AVX-512 that the engine uses, lane by lane, after Intel's Intrinsics
 * Guide. What is missing here does not compile in avx512_emulated.c.
 */
#ifndef SN_AVX512_EMULATED_H
#define SN_AVX512_EMULATED_H

/* Before __AVX512F__ is defined, as it would count on the instructions then. */
#include <immintrin.h>
#include <stdint.h>

#define __AVX512F__ 1

#define SN_EMULATED static inline __attribute__((always_inline))

typedef int32_t sn_emulated_ints __attribute__((vector_size(64)));
typedef uint64_t sn_emulated_words __attribute__((vector_size(64)));

/* A function of 16 lanes, of which LANE is the i-th. */
#define SN_EMULATE(NAME, TYPE, PARAMETERS, LANE)                                       \
    SN_EMULATED TYPE sn_emulated_##NAME PARAMETERS                                     \
    {                                                                                  \
        TYPE out = {0};                                                                \
        for (int i = 0; i < 16; i++)                                                   \
            out[i] = LANE;                                                             \
        return out;                                                                    \
    }

SN_EMULATE(set1_ps, __m512, (float y), y)
SN_EMULATE(loadu_ps, __m512, (const float *p), p[i])
SN_EMULATE(mask_blend_ps, __m512, (uint32_t mask, __m512 a, __m512 b),
           (mask >> i & 1 ? b : a)[i])

/* Within each four lanes, lanes of a, then of b; two bits choose one. */
SN_EMULATE(shuffle_ps, __m512, (__m512 a, __m512 b, int choice),
           (i % 4 < 2 ? a : b)[(i & ~3) + (choice >> 2 * (i % 4) & 3)])
SN_EMULATE(permute_ps, __m512, (__m512 a, int choice),
           a[(i & ~3) + (choice >> 2 * (i % 4) & 3)])

/* The same with whole fours, */
SN_EMULATE(shuffle_f32x4, __m512, (__m512 a, __m512 b, int choice),
           (i < 8 ? a : b)[4 * (choice >> 2 * (i / 4) & 3) + i % 4])

/* and with any lanes. */
SN_EMULATE(permutexvar_ints, __m512, (sn_emulated_ints from, __m512 a), a[from[i] & 15])
SN_EMULATE(widen, __m512, (__m128 a), i < 4 ? a[i] : 0.0f)
SN_EMULATE(set1_ints, sn_emulated_ints, (int32_t y), y)

SN_EMULATED __m128 sn_emulated_extract(__m512 a, int four)
{
    return (__m128){a[4 * four], a[4 * four + 1], a[4 * four + 2], a[4 * four + 3]};
}

/* predicate: _CMP_GT_OQ or _CMP_NEQ_UQ */
SN_EMULATED uint32_t sn_emulated_compare(__m512 a, __m512 b, int predicate)
{
    uint32_t mask = 0;
    for (int i = 0; i < 16; i++)
        mask |= (uint32_t)(predicate == _CMP_GT_OQ ? a[i] > b[i] : !(a[i] == b[i])) << i;
    return mask;
}

SN_EMULATED sn_emulated_ints sn_emulated_compress(uint32_t mask, sn_emulated_ints a)
{
    sn_emulated_ints out = {0};
    for (int i = 0, n = 0; i < 16; i++)
        if (mask >> i & 1)
            out[n++] = a[i];
    return out;
}

SN_EMULATED void sn_emulated_store(int32_t *p, uint32_t mask, sn_emulated_ints a)
{
    for (int i = 0; i < 16; i++)
        if (mask >> i & 1)
            p[i] = a[i];
}

SN_EMULATED sn_emulated_words sn_emulated_multiply(sn_emulated_words a, sn_emulated_words b)
{
    return (a & 0xFFFFFFFFu) * (b & 0xFFFFFFFFu);
}

/* Some are macros in Intel's header. */
#undef _mm512_cmp_ps_mask
#undef _mm512_extractf32x4_ps
#undef _mm512_permute_ps
#undef _mm512_setr_epi32
#undef _mm512_shuffle_f32x4
#undef _mm512_shuffle_ps
#define _mm512_add_epi32(a, b) ((__m512i)((sn_emulated_ints)(a) + (sn_emulated_ints)(b)))
#define _mm512_castps128_ps512 sn_emulated_widen
#define _mm512_castps512_ps128(a) sn_emulated_extract(a, 0)
#define _mm512_cmp_ps_mask sn_emulated_compare
#define _mm512_extractf32x4_ps sn_emulated_extract
#define _mm512_loadu_ps sn_emulated_loadu_ps
#define _mm512_mask_blend_ps sn_emulated_mask_blend_ps
#define _mm512_mask_storeu_epi32(p, mask, a) sn_emulated_store(p, mask, (sn_emulated_ints)(a))
#define _mm512_maskz_compress_epi32(mask, a)                                           \
    ((__m512i)sn_emulated_compress(mask, (sn_emulated_ints)(a)))
#define _mm512_mul_epu32(a, b)                                                         \
    ((__m512i)sn_emulated_multiply((sn_emulated_words)(a), (sn_emulated_words)(b)))
#define _mm512_permute_ps sn_emulated_permute_ps
#define _mm512_permutexvar_ps(from, a)                                                 \
    sn_emulated_permutexvar_ints((sn_emulated_ints)(from), a)
#define _mm512_set1_epi32(y) ((__m512i)sn_emulated_set1_ints(y))
#define _mm512_set1_ps sn_emulated_set1_ps
#define _mm512_setr_epi32(...) ((__m512i)(sn_emulated_ints){__VA_ARGS__})
#define _mm512_setzero_ps() ((__m512){0})
#define _mm512_shuffle_f32x4 sn_emulated_shuffle_f32x4
#define _mm512_shuffle_ps sn_emulated_shuffle_ps

/* No register holds such a vector. */
#define SN_IN_REGISTER(v) (void)0

#endif
