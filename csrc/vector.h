/* Vectors of the width that the instruction set in use has, with the compiler's own
 * vector extension. Loads are unaligned: on aligned rows they cost the same.
 */
#ifndef SN_VECTOR_H
#define SN_VECTOR_H

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

/* Repetition for kernels that keep several accumulators. They must be variables: GCC
   leaves an array of vectors in memory, even when every loop over it is unrolled. */
#define SN_EACH_1(F) F(0)
#define SN_EACH_2(F) SN_EACH_1(F) F(1)
#define SN_EACH_3(F) SN_EACH_2(F) F(2)
#define SN_EACH_4(F) SN_EACH_3(F) F(3)
#define SN_EACH_5(F) SN_EACH_4(F) F(4)
#define SN_EACH_8(F) SN_EACH_5(F) F(5) F(6) F(7)

/* The same with a first argument handed on, for tiles. */
#define SN_WITH_1(F, i) F(i, 0)
#define SN_WITH_3(F, i) F(i, 0) F(i, 1) F(i, 2)
#define SN_WITH_4(F, i) SN_WITH_3(F, i) F(i, 3)
#define SN_WITH_5(F, i) SN_WITH_4(F, i) F(i, 4)

/* Sum of the lanes: halves are added until one lane is left, in fixed order. */
SN_INLINE float sn_sum(sn_vec v)
{
    typedef float four __attribute__((vector_size(16)));
    union {
        sn_vec whole;
        four part[SN_LANES / 4];
    } u = {.whole = v};
#if SN_LANES == 16
    u.part[0] = (u.part[0] + u.part[2]) + (u.part[1] + u.part[3]);
#elif SN_LANES == 8
    u.part[0] += u.part[1];
#endif
    return (u.part[0][0] + u.part[0][2]) + (u.part[0][1] + u.part[0][3]);
}

#endif
