// Elementary functions of whole vectors, to a few units in the last place. A NaN goes through all of them.
//
// Coefficients are those of Chebyshev interpolants, and of a rational least-squares fit for erf in single precision, of
// what stands beside them; none is divided by where it could vanish.

#include "lanes.h"

namespace {

constexpr bool SINGLE = sizeof(Real) == 4;
constexpr int MANTISSA = SINGLE ? 23 : 52, BIAS = SINGLE ? 127 : 1023;
// Adding 1.5 * 2^MANTISSA rounds to an integer, left in the low bits; with BIAS there too, a shift makes 2^n.
constexpr Real ROUND = Real(Int(3) << (MANTISSA - 1)), ROUND_TO_POWER = ROUND + BIAS;

INLINE Vec power_of_two(Vec n_and_round) { return (Vec)((VecInt)n_and_round << MANTISSA); }

// The smaller and the larger of a number and of x, which is also what comes out if x is NaN.
#if defined(__AVX__)
#define PICK(NAME, SUFFIX)                                                \
  INLINE Vec NAME(Vec bound, Vec x) {                                     \
    Vec found;                                                            \
    if constexpr (SINGLE)                                                 \
      asm("v" #SUFFIX "ps %2, %1, %0" : "=v"(found) : "v"(bound), "v"(x)); \
    else                                                                  \
      asm("v" #SUFFIX "pd %2, %1, %0" : "=v"(found) : "v"(bound), "v"(x)); \
    return found;                                                         \
  }
PICK(smaller, min)
PICK(larger, max)
#undef PICK
#else
INLINE Vec smaller(Vec bound, Vec x) { return bound < x ? bound : x; }
INLINE Vec larger(Vec bound, Vec x) { return bound > x ? bound : x; }
#endif

INLINE Vec clamp(Vec x, Real limit) { return larger(splat(-limit), smaller(splat(limit), x)); }

// The sum of c_k x^k.
template <size_t COUNT>
INLINE Vec series(const std::array<Real, COUNT>& c, Vec x) {
  Vec sum = splat(c[COUNT - 1]);
  UNROLL for (int k = int(COUNT) - 2; k >= 0; --k) sum = sum * x + c[k];
  return sum;
}

// Coefficients for either precision.
#define CHOOSE(NAME, ...) constexpr auto NAME = choose(__VA_ARGS__)
template <size_t FEW, size_t MANY>
constexpr auto choose(const float (&single)[FEW], const double (&fine)[MANY]) {
  std::array<Real, SINGLE ? FEW : MANY> found{};
  for (size_t k = 0; k < found.size(); ++k) found[k] = SINGLE ? Real(single[k]) : Real(fine[k]);
  return found;
}

// (tanh(r) - r) / r^3 in powers of r^2, minimax for |r| <= log(2) / 4.
CHOOSE(TANH, {-0.33333322692816370629f, 0.13331180199479381182f, -0.05272605150605757991f},
       {-0.33333333333332481014, 0.13333333332781568037, -0.053968252778253976812, 0.021869370435377273316,
        -0.0088572994475908511395, 0.0034447230012210976456});
// (exp(r) - 1 - r) / r^2, |r| <= log(2) / 2.
CHOOSE(EXP, {0.5f, 0.16666577f, 0.0416665546f, 0.00836317905f, 0.00139261836f},
       {0.500000000000000102, 0.166666666666666675, 0.0416666666666241279, 0.00833333333333006183, 0.00138888889172137169,
        0.000198412698630536169, 0.0000248015212959543751, 2.75572684599950648e-6, 2.76200884454097482e-7,
        2.51003854955103191e-8});
// (2 artanh(s) - 2 s) / s^3 in powers of s^2, |s| <= (sqrt(2) - 1) / (sqrt(2) + 1).
CHOOSE(LOG, {0.666666851f, 0.399887577f, 0.295809859f},
       {0.666666666666666971, 0.399999999998988905, 0.285714286262538376, 0.222222110893794962, 0.181828924325368712,
        0.153316117220550079, 0.14617807153417325});
// (sin(r) - r) / r^3 and (cos(r) - 1 + r^2 / 2) / r^4 in powers of r^2, |r| <= pi / 4.
CHOOSE(SIN, {-0.166666647f, 0.0083327471f, -0.000195876391f},
       {-0.166666666666666646, 0.00833333333333093655, -0.000198412698367405321, 2.75573160931984052e-6,
        -2.50511298964501863e-8, 1.59179889793974333e-10});
CHOOSE(COS, {0.0416666647f, -0.00138883019f, 2.45476898e-5f},
       {0.0416666666666666654, -0.00138888888888873898, 0.0000248015872987544012, -2.755731726587808e-7,
        2.08761450494131791e-9, -1.13825446453492504e-11});

// With u = n log(2)/2 + r and h = 2^n: numerator and denominator of tanh(u), and those of (1 + tanh(u)) / 2.
struct Ratio {
  Vec tanh, sigmoid, denominator;
};
INLINE Ratio ratio(Vec u, Real limit) {
  constexpr Real TWO_OVER_LOG2 = Real(2.8853900817779268), HALF_LOG2 = Real(0.34657359027997265);
  u = clamp(u, limit);
  const Vec n = u * TWO_OVER_LOG2 + ROUND_TO_POWER, h = power_of_two(n);
  const Vec r = u - (n - ROUND_TO_POWER) * HALF_LOG2, r2 = r * r;
  const Vec tanh_r = r + (r * r2) * series(TANH, r2), minus = h - 1, plus = h + 1;
  return {minus + plus * tanh_r, h + h * tanh_r, plus + minus * tanh_r};
}

// No cancellation for any u, tanh r itself for n = 0, exactly odd (u -> -u only scales both sides by a power of two),
// and exactly +-1 once h +- 1 = h.
INLINE Vec tanh(Vec u) {
  const Ratio parts = ratio(u, SINGLE ? 10 : 20);
  return parts.tanh / parts.denominator;
}

// Of u <= 0, down to the smallest normal number.
INLINE Vec exp(Vec u) {
  constexpr Real LOWEST = SINGLE ? -87 : -708, HIGH = SINGLE ? 0.693145751953125 : 0.6931471803691238;
  constexpr Real LOW = Real(SINGLE ? 1.4286068203094172e-6 : 1.9082149292705877e-10);  // log 2 is their sum
  u = larger(splat(LOWEST), u);
  const Vec n = u * Real(1.4426950408889634) + ROUND_TO_POWER, whole = n - ROUND_TO_POWER;
  const Vec r = (u - whole * HIGH) - whole * LOW;
  return power_of_two(n) * (1 + (r + (r * r) * series(EXP, r)));
}

// Of normal numbers.
INLINE Vec log(Vec x) {
  const VecInt root_half = (VecInt)splat(Real(0.70710678118654752));
  const VecInt exponent = ((VecInt)x - root_half) >> MANTISSA;
  const Vec m = (Vec)((VecInt)x - (exponent << MANTISSA)), s = (m - 1) / (m + 1), s2 = s * s;
  Vec n;
  for (int v = 0; v < LANES; ++v) n[v] = Real(exponent[v]);
  const Vec found = n * Real(0.69314718055994531) + (2 * s + (s * s2) * series(LOG, s2));
  return x - x == 0 ? found : x;
}

struct SinCos {
  Vec sin, cos;
};
INLINE SinCos sin_cos(Vec u) {
  constexpr Real LIMIT = SINGLE ? 1e5 : 1e9;  // up to which pi / 2 in three parts is good enough
  constexpr Real FIRST = Real(1.5707963267948966), SECOND = Real(SINGLE ? -4.371139000186e-8 : 6.123233995736766e-17),
                 THIRD = Real(SINGLE ? -1.7151245100059e-15 : -1.4973849048591833e-33);
  const Vec n = u * Real(0.63661977236758134) + ROUND, whole = n - ROUND;
  const Vec r = ((u - whole * FIRST) - whole * SECOND) - whole * THIRD, r2 = r * r;
  const Vec sin_r = r + (r * r2) * series(SIN, r2), cos_r = (1 - r2 / 2) + (r2 * r2) * series(COS, r2);
  const VecInt odd = ((VecInt)n & 1) != 0, sin_flips = ((VecInt)n & 2) != 0, cos_flips = ((VecInt)(n + 1) & 2) != 0;
  Vec sin = odd ? cos_r : sin_r, cos = odd ? sin_r : cos_r;
  sin = sin_flips ? -sin : sin, cos = cos_flips ? -cos : cos;
  for (int v = 0; v < LANES; ++v) {
    if (std::abs(u[v]) > LIMIT) sin[v] = std::sin(u[v]), cos[v] = std::cos(u[v]);
  }
  return {sin, cos};
}

// erf(x) and exp(-x^2).
struct Gauss {
  Vec erf, exp;
};
INLINE Gauss gauss(Vec x) {
  const Vec exp_square = exp(-(x * x));
  if constexpr (SINGLE) {
    // x P(x^2) / Q(x^2), beyond which it is 1 to rounding.
    constexpr std::array<Real, 6> P = {Real(1.128379148), Real(0.1902788157), Real(0.05273044095),
                                       Real(0.003759808517), Real(0.0002846934482), Real(2.050254673e-6)};
    constexpr std::array<Real, 6> Q = {Real(1), Real(0.5019629828), Real(0.1140550808),
                                       Real(0.01495757335), Real(0.001161021878), Real(3.808366416e-5)};
    x = clamp(x, Real(3.92));
    const Vec z = x * x;
    return {x * series(P, z) / series(Q, z), exp_square};
  } else {
    // x P(x^2) below 1; above, 1 - exp(-x^2) Q(t) / (1 + 2 x) with t = (x - 4) / (x + 4), up to 6.
    constexpr std::array<Real, 13> P = {
        Real(1.12837916709551257), Real(-0.376126389031837481), Real(0.112837916709548787), Real(-0.0268661706450767932),
        Real(0.00522397762481801447), Real(-0.000854832698083378991), Real(0.000120553311116427109),
        Real(-0.0000149255952668311816), Real(1.6461000484121368e-6), Real(-1.6350312701054695e-7),
        Real(1.46597752740474358e-8), Real(-1.13728488567916737e-9), Real(5.9571761477489114e-11)};
    constexpr std::array<Real, 16> Q = {
        Real(1.23299511862555256), Real(-0.139621116840560778), Real(0.0153796521025733131), Real(0.0680970542540354285),
        Real(-0.101039066029931312), Real(0.0937328350773481916), Real(-0.0663303660168246608), Real(0.0371675115673114664),
        Real(-0.016197738571060382), Real(0.00503204726653651542), Real(-0.000757476150437954668),
        Real(-0.000199357977312909098), Real(0.000147575360269336133), Real(-0.000032767524622374964),
        Real(-0.0000218444223794473269), Real(-3.36889780355386215e-7)};
    x = clamp(x, 6);
    const Vec a = x < 0 ? -x : x, small = clamp(x, 1);
    const Vec tail = 1 - exp(-(a * a)) * series(Q, (a - 4) / (a + 4)) / (1 + 2 * a);
    const Vec erf = a < 1 ? small * series(P, small * small) : (x < 0 ? -tail : tail);
    return {x - x == 0 ? erf : x, exp_square};
  }
}

// Activations: their value, and their slope as jax.grad has it.

struct Tanh {
  static INLINE Vec apply(Vec u, Vec& slope) {
    const Vec f = tanh(u);
    slope = 1 - f * f;
    return f;
  }
};

struct Sigmoid {
  static INLINE Vec apply(Vec u, Vec& slope) {
    const Ratio parts = ratio(u / 2, SINGLE ? 43 : 353);
    const Vec f = parts.sigmoid / parts.denominator;
    slope = f * (1 - f);
    return f;
  }
};

struct Relu {
  static INLINE Vec apply(Vec u, Vec& slope) {
    slope = u > 0 ? splat(1) : Vec{};
    return larger(Vec{}, u);
  }
};

struct Erf {
  static INLINE Vec apply(Vec u, Vec& slope) {
    const Gauss at = gauss(u);
    slope = Real(1.1283791670955126) * at.exp;
    return at.erf;
  }
};

struct Gelu {
  static INLINE Vec apply(Vec u, Vec& slope) {
    const Gauss at = gauss(u * Real(0.70710678118654752));
    const Vec below = Real(0.5) + Real(0.5) * at.erf;
    slope = below + u * (Real(0.39894228040143268) * at.exp);
    return u * below;
  }
};

struct Sin {
  static INLINE Vec apply(Vec u, Vec& slope) {
    const SinCos at = sin_cos(u);
    slope = at.cos;
    return at.sin;
  }
};

struct Identity {
  static INLINE Vec apply(Vec u, Vec& slope) {
    slope = splat(1);
    return u;
  }
};

}  // namespace
