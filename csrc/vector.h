/* Vectors of the width that the instruction set in use has, with the compiler's own
 * vector extension. Loads are unaligned: on aligned rows they cost the same.
 */
#ifndef SN_VECTOR_H
#define SN_VECTOR_H

#include <stdint.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define SN_LANES 16
#elif defined(__AVX2__)
#define SN_LANES 8
#else
#define SN_LANES 4
#endif

#define SN_INLINE static inline __attribute__((always_inline))

typedef float sn_vec __attribute__((vector_size(4 * SN_LANES)));
typedef float sn_memory_vec
    __attribute__((vector_size(4 * SN_LANES), aligned(4), may_alias));

SN_INLINE sn_vec sn_load(const float *p)
{
    return *(const sn_memory_vec *)p;
}

SN_INLINE void sn_store(float *p, sn_vec v)
{
    *(sn_memory_vec *)p = v;
}

/* Asks for n floats that are needed soon, or into L2 alone. Always inline: GCC takes a function
   that does nothing else for one without effect, and drops its calls. */
#define SN_DEFINE_PREFETCH(NAME, LOCALITY)                                             \
    SN_INLINE void NAME(const float *p, int64_t n)                                     \
    {                                                                                  \
        enum { LINE = 16 };                                                            \
        for (int64_t i = 0; i < n; i += LINE)                                          \
            __builtin_prefetch(p + i, 0, LOCALITY);                                    \
    }
SN_DEFINE_PREFETCH(sn_prefetch, 3)
SN_DEFINE_PREFETCH(sn_prefetch_L2, 2)
#undef SN_DEFINE_PREFETCH

/* Loads v once, for several uses: GCC would read it from memory again at each of them, and
   a tile that has all its operands in cache waits for nothing but loads. */
#if defined(SN_IN_REGISTER) /* already, see simd/avx512_emulated.h */
#elif defined(__x86_64__)
#define SN_IN_REGISTER(v) __asm__("" : "+v"(v))
#elif defined(__aarch64__)
#define SN_IN_REGISTER(v) __asm__("" : "+w"(v))
#else
#define SN_IN_REGISTER(v) (void)0
#endif

/* Keeps a pointer as it is: GCC would take a sum apart again, and add its terms anew at each
   turn of a loop, for four instructions of thirty. */
#define SN_IN_ONE_REGISTER(pointer) __asm__("" : "+r"(pointer))

/* Before a loop whose counter and branch would take as many instructions as a product: the
   processor may have to share with another thread what decodes them. */
#if defined(__clang__)
#define SN_UNROLL_4 _Pragma("unroll 4")
#else
#define SN_UNROLL_4 _Pragma("GCC unroll 4")
#endif

/* Repetition for kernels that keep several accumulators. They must be variables: GCC
   leaves an array of vectors in memory, even when every loop over it is unrolled. */
#define SN_EACH_1(F) F(0)
#define SN_EACH_2(F) SN_EACH_1(F) F(1)
#define SN_EACH_3(F) SN_EACH_2(F) F(2)
#define SN_EACH_4(F) SN_EACH_3(F) F(3)
#define SN_EACH_5(F) SN_EACH_4(F) F(4)
#define SN_EACH_6(F) SN_EACH_5(F) F(5)
#define SN_EACH_7(F) SN_EACH_6(F) F(6)
#define SN_EACH_8(F) SN_EACH_7(F) F(7)
#define SN_EACH_16(F)                                                                  \
    SN_EACH_8(F) F(8) F(9) F(10) F(11) F(12) F(13) F(14) F(15)
#define SN_EACH_24(F)                                                                  \
    SN_EACH_16(F) F(16) F(17) F(18) F(19) F(20) F(21) F(22) F(23)

/* The same with a first argument handed on, for tiles. */
#define SN_WITH_1(F, i) F(i, 0)
#define SN_WITH_2(F, i) F(i, 0) F(i, 1)
#define SN_WITH_3(F, i) SN_WITH_2(F, i) F(i, 2)
#define SN_WITH_4(F, i) SN_WITH_3(F, i) F(i, 3)
#define SN_WITH_8(F, i) SN_WITH_4(F, i) F(i, 4) F(i, 5) F(i, 6) F(i, 7)
#define SN_WITH_16(F, i)                                                               \
    SN_WITH_8(F, i) F(i, 8) F(i, 9) F(i, 10) F(i, 11) F(i, 12) F(i, 13) F(i, 14) F(i, 15)
#define SN_WITH_24(F, i)                                                               \
    SN_WITH_16(F, i) F(i, 16) F(i, 17) F(i, 18) F(i, 19) F(i, 20) F(i, 21) F(i, 22)    \
    F(i, 23)

typedef float sn_four __attribute__((vector_size(16)));

/* Lanes chosen from a and b, whose lanes count on from those of a. */
#if defined(__clang__) || __GNUC__ >= 12
#define SN_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int32_t sn_lanes __attribute__((vector_size(4 * SN_LANES)));
#define SN_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (sn_lanes){__VA_ARGS__})
#endif

/* Sum of the lanes: halves are added until one lane is left, in fixed order. */
SN_INLINE float sn_sum(sn_vec v)
{
    union {
        sn_vec whole;
        sn_four part[SN_LANES / 4];
    } u = {.whole = v};
#if SN_LANES == 16
    u.part[0] = (u.part[0] + u.part[2]) + (u.part[1] + u.part[3]);
#elif SN_LANES == 8
    u.part[0] += u.part[1];
#endif
    return (u.part[0][0] + u.part[0][2]) + (u.part[0][1] + u.part[0][3]);
}

/* Whether any lane is not zero, as numbers that are none are not. */
SN_INLINE int sn_any(sn_vec v)
{
#if SN_LANES == 16
    return _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_NEQ_UQ) != 0;
#elif SN_LANES == 8
    return _mm256_movemask_ps(_mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_NEQ_UQ)) != 0;
#else
    int any = 0;
    for (int i = 0; i < SN_LANES; i++)
        any |= v[i] != 0.0f;
    return any;
#endif
}

/* Sum of n floats: lanes first, then what does not fill a vector, ascending. */
SN_INLINE float sn_row_sum(const float *x, int64_t n)
{
    sn_vec lanes = {0};
    int64_t i = 0;
    for (; i + SN_LANES <= n; i += SN_LANES)
        lanes += sn_load(x + i);
    float sum = sn_sum(lanes);
    for (; i < n; i++)
        sum += x[i];
    return sum;
}

/* Four sums of lanes at once, with the same bits. */
SN_INLINE sn_four sn_sum_4(sn_vec a, sn_vec b, sn_vec c, sn_vec d)
{
#if SN_LANES == 16
#define LOW(a, b)                                                                      \
    SN_SHUFFLE(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23)
#define HIGH(a, b)                                                                     \
    SN_SHUFFLE(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31)
    const sn_vec ab = LOW(a, b) + HIGH(a, b), cd = LOW(c, d) + HIGH(c, d);
    sn_vec all = SN_SHUFFLE(ab, cd, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26,
                            27) +
                 SN_SHUFFLE(ab, cd, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30,
                            31);
    all += SN_SHUFFLE(all, all, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    all += SN_SHUFFLE(all, all, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    return (sn_four){all[0], all[4], all[8], all[12]};
#undef LOW
#undef HIGH
#elif SN_LANES == 8
#define HALVES(a, b)                                                                   \
    (SN_SHUFFLE(a, b, 0, 1, 2, 3, 12, 13, 14, 15) +                                    \
     SN_SHUFFLE(a, b, 4, 5, 6, 7, 8, 9, 10, 11))
    const sn_vec ab = HALVES(a, b), cd = HALVES(c, d);
    sn_vec all = SN_SHUFFLE(ab, cd, 0, 1, 8, 9, 4, 5, 12, 13) +
                 SN_SHUFFLE(ab, cd, 2, 3, 10, 11, 6, 7, 14, 15);
    all += SN_SHUFFLE(all, all, 1, 0, 3, 2, 5, 4, 7, 6);
    return (sn_four){all[0], all[4], all[2], all[6]};
#undef HALVES
#else
#define HALVES(a, b) (SN_SHUFFLE(a, b, 0, 1, 4, 5) + SN_SHUFFLE(a, b, 2, 3, 6, 7))
    const sn_vec ab = HALVES(a, b), cd = HALVES(c, d);
    return SN_SHUFFLE(ab, cd, 0, 2, 4, 6) + SN_SHUFFLE(ab, cd, 1, 3, 5, 7);
#undef HALVES
#endif
}

#if defined(__AVX512F__)
/* Twelve sums of lanes, of a tile of four units and three rows: lane 4 i + j has that of
   unit i and row j, and lane 4 i + 3 nothing. Same bits as sn_sum: each FOLD adds halves
   of its two vectors, of 8, 4, 2 and 1 lanes. */
SN_INLINE sn_vec sn_sum_4_by_3(const sn_vec v[4][3])
{
#define FOLD_8(a, b)                                                                   \
    (_mm512_mask_blend_ps(0xFF00, a, b) + _mm512_shuffle_f32x4(a, b, 0x4E))
#define FOLD_4(a, b)                                                                   \
    (_mm512_mask_blend_ps(0xF0F0, a, b) +                                              \
     _mm512_shuffle_f32x4(_mm512_mask_blend_ps(0x0F0F, a, b),                          \
                          _mm512_mask_blend_ps(0x0F0F, a, b), 0xB1))
#define FOLD_2(a, b) (_mm512_mask_blend_ps(0xCCCC, a, b) + _mm512_shuffle_ps(a, b, 0x4E))
#define FOLD_1(a, b)                                                                   \
    (_mm512_mask_blend_ps(0xAAAA, a, b) +                                              \
     _mm512_permute_ps(_mm512_mask_blend_ps(0x5555, a, b), 0xB1))
#define ROW(j) FOLD_4(FOLD_8(v[0][j], v[2][j]), FOLD_8(v[1][j], v[3][j]))
    const __m512 row[3] = {ROW(0), ROW(1), ROW(2)};
    const __m512 even = FOLD_2(row[0], row[2]), odd = FOLD_2(row[1], row[1]);
    return FOLD_1(even, odd);
#undef FOLD_8
#undef FOLD_4
#undef FOLD_2
#undef FOLD_1
#undef ROW
}
#endif

/* The lower or upper halves of a and b, lane by lane in turns. */
#if SN_LANES == 16
#define SN_INTERLEAVE_LOW(a, b)                                                        \
    SN_SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define SN_INTERLEAVE_HIGH(a, b)                                                       \
    SN_SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#elif SN_LANES == 8
#define SN_INTERLEAVE_LOW(a, b) SN_SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define SN_INTERLEAVE_HIGH(a, b) SN_SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#else
#define SN_INTERLEAVE_LOW(a, b) SN_SHUFFLE(a, b, 0, 4, 1, 5)
#define SN_INTERLEAVE_HIGH(a, b) SN_SHUFFLE(a, b, 2, 6, 3, 7)
#endif

/* The same, two lanes at a time. */
#if SN_LANES == 16
#define SN_INTERLEAVE_PAIRS_LOW(a, b)                                                  \
    SN_SHUFFLE(a, b, 0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20, 21, 6, 7, 22, 23)
#define SN_INTERLEAVE_PAIRS_HIGH(a, b)                                                 \
    SN_SHUFFLE(a, b, 8, 9, 24, 25, 10, 11, 26, 27, 12, 13, 28, 29, 14, 15, 30, 31)
#elif SN_LANES == 8
#define SN_INTERLEAVE_PAIRS_LOW(a, b) SN_SHUFFLE(a, b, 0, 1, 8, 9, 2, 3, 10, 11)
#define SN_INTERLEAVE_PAIRS_HIGH(a, b) SN_SHUFFLE(a, b, 4, 5, 12, 13, 6, 7, 14, 15)
#else
#define SN_INTERLEAVE_PAIRS_LOW(a, b) SN_SHUFFLE(a, b, 0, 1, 4, 5)
#define SN_INTERLEAVE_PAIRS_HIGH(a, b) SN_SHUFFLE(a, b, 2, 3, 6, 7)
#endif

/* Bit i says how x[i] compares with y, for 16 floats. */
#if defined(__AVX512F__)
#define SN_COMPARE(PREDICATE, OP)                                                      \
    return _mm512_cmp_ps_mask(_mm512_loadu_ps(x), _mm512_set1_ps(y), PREDICATE);
#elif defined(__AVX2__)
#define SN_COMPARE(PREDICATE, OP)                                                      \
    const __m256 v = _mm256_set1_ps(y);                                                \
    const __m256 low = _mm256_cmp_ps(_mm256_loadu_ps(x), v, PREDICATE);                \
    const __m256 high = _mm256_cmp_ps(_mm256_loadu_ps(x + 8), v, PREDICATE);           \
    return (uint32_t)(_mm256_movemask_ps(low) | _mm256_movemask_ps(high) << 8);
#else
#define SN_COMPARE(PREDICATE, OP)                                                      \
    uint32_t bits = 0;                                                                 \
    for (uint32_t i = 0; i < 16; i++)                                                  \
        bits |= (uint32_t)(x[i] OP y) << i;                                            \
    return bits;
#endif

SN_INLINE uint32_t sn_above(const float *x, float y)
{
    SN_COMPARE(_CMP_GT_OQ, >)
}

SN_INLINE uint32_t sn_different(const float *x, float y)
{
    SN_COMPARE(_CMP_NEQ_UQ, !=)
}

#undef SN_COMPARE

/* OUT list: first + i for each of the 16 bits i that is set, ascending. Returns how many. */
SN_INLINE int32_t sn_list_bits(int32_t *list, int32_t first, uint32_t bits)
{
#if defined(__AVX512F__)
    /* without a branch for each bit, or for none: they are random */
    const __m512i index = _mm512_add_epi32(
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
        _mm512_set1_epi32(first));
    const int32_t count = __builtin_popcount(bits);
    _mm512_mask_storeu_epi32(list, (__mmask16)((1u << count) - 1u),
                             _mm512_maskz_compress_epi32((__mmask16)bits, index));
    return count;
#else
    int32_t count = 0;
    for (; bits != 0; bits &= bits - 1)
        list[count++] = first + __builtin_ctz(bits);
    return count;
#endif
}

#endif
