/* Elementary functions in float32, written so that a loop over them vectorises:
 * no branch, no call, no table. Relative errors, measured over their whole range by
 * tests/test_scalar.py: at most 3e-7 for exp, sigmoid, tanh, log; 1e-6 for softplus,
 * the normal density, distribution function and quantile. NaN stays NaN.
 */
#ifndef SN_SCALAR_H
#define SN_SCALAR_H

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline float sn_float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint32_t sn_bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* exp(x + y) for x + y <= 88.37, saturating at about 1.2e-38. Cody-Waite reduction to
   |r| <= ln(2)/2 and the Taylor series there. y, of a few units at most, is added
   after x was reduced, so that it is not rounded to the digits of a large x. */
static inline float sn_exp_of_sum(float x, float y)
{
    const int low = x + y < -87.33f;
    x = low ? -87.33f : x;
    y = low ? 0.0f : y;
    /* adding 1.5 * 2^23 rounds to an integer, left in the low bits */
    const float shifted = (x + y) * 1.44269504f + 12582912.0f;
    const float n = shifted - 12582912.0f;
    const float r = ((x - n * 0.693359375f) + y) - n * -2.12194440e-4f;
    float p = 1.0f / 5040.0f;
    p = p * r + 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * sn_float_of((sn_bits_of(shifted) - 0x4B400000u + 127u) << 23);
}

/* exp(x), saturating at about 1.2e-38 and 2.4e38 */
static inline float sn_exp(float x)
{
    return sn_exp_of_sum(x > 88.37f ? 88.37f : x, 0.0f);
}

/* exp(y - x^2 / 2): x^2 as the square of x's leading 12 bits, which is exact, and a
   rest, because exp makes an absolute error of x^2 a relative one. */
static inline float sn_exp_of_square(float x, float y)
{
    const float bounded = fabsf(x) > 14.0f ? 14.0f : fabsf(x);
    const float head = sn_float_of(sn_bits_of(bounded) & 0xFFFFF000u);
    const float rest = (bounded - head) * (bounded + head);
    return sn_exp_of_sum(-0.5f * head * head, y - 0.5f * rest);
}

/* log(x) for normal x > 0: x = 2^e m with m in [sqrt(1/2), sqrt(2)), then the series
   of 2 artanh(t), t = (m - 1) / (m + 1). */
static inline float sn_log(float x)
{
    const uint32_t offset = sn_bits_of(x) - 0x3F3504F3u;
    const float e = (float)((int32_t)offset >> 23);
    const float m = sn_float_of((offset & 0x007FFFFFu) + 0x3F3504F3u);
    const float t = (m - 1.0f) / (m + 1.0f);
    const float s = t * t;
    float p = 2.0f / 9.0f;
    p = p * s + 2.0f / 7.0f;
    p = p * s + 2.0f / 5.0f;
    p = p * s + 2.0f / 3.0f;
    const float series = 2.0f * t + t * s * p;
    return x > 0.0f ? e * 0.693359375f + (e * -2.12194440e-4f + series)
                    : (x == 0.0f ? -INFINITY : NAN);
}

/* log(u / (1 - u)) for u in [2^-24, 1 - 2^-24]: the logistic quantile */
static inline float sn_logit(float u)
{
    return sn_log(u / (1.0f - u));
}

static inline float sn_sigmoid(float x)
{
    return 1.0f / (1.0f + sn_exp(-x));
}

/* The same; OUT complement: 1 - sigm(x), without cancellation where that is near 0. */
static inline float sn_sigmoid_and(float *complement, float x)
{
    const float e = sn_exp(-x), p = 1.0f / (1.0f + e);
    *complement = p * e;
    return p;
}

static inline float sn_tanh(float x)
{
    const float magnitude = fabsf(x);
    const float e = sn_exp(2.0f * magnitude);
    const float large = copysignf(1.0f - 2.0f / (e + 1.0f), x);
    /* near 0 that subtraction cancels: odd Taylor series instead */
    const float s = x * x;
    float p = -1382.0f / 155925.0f;
    p = p * s + 62.0f / 2835.0f;
    p = p * s + -17.0f / 315.0f;
    p = p * s + 2.0f / 15.0f;
    p = p * s + -1.0f / 3.0f;
    const float small = x + x * s * p;
    return magnitude < 0.35f ? small : large;
}

/* log(1 + exp(x)) */
static inline float sn_softplus(float x)
{
    const float y = sn_exp(-fabsf(x));
    const float one_plus = 1.0f + y;
    /* log(1 + y) with the rounding of 1 + y taken back */
    const float log1p = one_plus == 1.0f
                            ? y
                            : sn_log(one_plus) * (y / (one_plus - 1.0f));
    return (x > 0.0f ? x : 0.0f) + log1p;
}

static inline float sn_normal_density(float x)
{
    return 0.398942280f * sn_exp_of_square(x, 0.0f);
}

/* Normal distribution function through the rational-exponential approximation of
   erfc with fractional error below 1.2e-7 (Numerical Recipes, Sec. 6.2). */
static inline float sn_normal_cdf(float x)
{
    const float z = fabsf(x) * 0.707106781f;
    const float t = 1.0f / (1.0f + 0.5f * z);
    float p = 0.17087277f;
    p = p * t - 0.82215223f;
    p = p * t + 1.48851587f;
    p = p * t - 1.13520398f;
    p = p * t + 0.27886807f;
    p = p * t - 0.18628806f;
    p = p * t + 0.09678418f;
    p = p * t + 0.37409196f;
    p = p * t + 1.00002368f;
    p = p * t - 1.26551223f;
    const float tail = 0.5f * t * sn_exp_of_square(x, p);
    return x < 0.0f ? tail : 1.0f - tail;
}

/* Normal quantile, algorithm AS 241 (PPND7) of Wichura (1988), for u in
   [2^-24, 1 - 2^-24]: its far-tail branch is never needed there. */
static inline float sn_normal_quantile(float u)
{
    const float q = u - 0.5f;
    const float r = 0.180625f - q * q;
    float num = 59.109374720f;
    num = num * r + 159.29113202f;
    num = num * r + 50.434271938f;
    num = num * r + 3.3871327179f;
    float den = 67.187563600f;
    den = den * r + 78.757757664f;
    den = den * r + 17.895169469f;
    den = den * r + 1.0f;
    const float central = q * num / den;

    const float s = sqrtf(-sn_log(u < 0.5f ? u : 1.0f - u)) - 1.6f;
    num = 0.17023821103f;
    num = num * s + 1.3067284816f;
    num = num * s + 2.7568153900f;
    num = num * s + 1.4234372777f;
    den = 0.12021132975f;
    den = den * s + 0.73700164250f;
    den = den * s + 1.0f;
    const float tail = copysignf(num / den, q);
    return fabsf(q) <= 0.425f ? central : tail;
}

#endif
