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

typedef float sn_vec
    __attribute__((vector_size(4 * SN_LANES), aligned(4), may_alias));

SN_INLINE sn_vec sn_load(const float *p)
{
    return *(const sn_vec *)p;
}

SN_INLINE void sn_store(float *p, sn_vec v)
{
    *(sn_vec *)p = v;
}

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
