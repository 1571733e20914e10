// What every kernel here begins with: vectors, and the ways in from JAX (jax.ffi).
//
// build.py puts its text where a kernel includes it, and defines REAL (float or double).

#include <algorithm>
#include <array>
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <limits>
#include <memory>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;

using Real = REAL;
using Int = std::conditional_t<sizeof(Real) == 4, int32_t, int64_t>;

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int VECTOR_BYTES = 16, REGISTERS = 32;
#else
constexpr int VECTOR_BYTES = 16, REGISTERS = 16;
#endif
constexpr int LANES = VECTOR_BYTES / sizeof(Real);

typedef Real Vec __attribute__((vector_size(VECTOR_BYTES)));
typedef Int VecInt __attribute__((vector_size(VECTOR_BYTES)));

#define INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

// Subtracting +0 changes no number, not even -0, so this compiles to a bare broadcast (adding 0 would not).
INLINE Vec splat(Real x) { return x - Vec{}; }

INLINE Vec root(Vec x) {
  for (int v = 0; v < LANES; ++v) x[v] = std::sqrt(x[v]);
  return x;
}

// The caller's thread may flush denormals to zero; the arithmetic here is IEEE's, whoever calls.
struct DefaultFloatingPoint {
  std::fenv_t caller;
  DefaultFloatingPoint() { std::fegetenv(&caller), std::fesetenv(FE_DFL_ENV); }
  ~DefaultFloatingPoint() { std::fesetenv(&caller); }
};

constexpr ffi::DataType TYPE = sizeof(Real) == 4 ? ffi::F32 : ffi::F64;

}  // namespace
