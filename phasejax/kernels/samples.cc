// Sums over samples of products of their vectors u_a and g_a, a student after the other; called from JAX by samples.py.
//
// Compiled for N, the length of the vectors. A lane is a component here; components behind N are zero.
// u and g come with samples running fastest, (N, samples).

#include "lanes.h"

namespace {

constexpr int VECTORS = (N + LANES - 1) / LANES, WIDTH = VECTORS * LANES;

using Array = ffi::Buffer<TYPE>;

struct Shape {
  int64_t students, samples;
};

// Of u and g, equal and (..., N, samples).
Shape shape_of(const Array& u, const Array& g) {
  const auto shape = u.dimensions();
  const auto other = g.dimensions();
  const bool fits = shape.size() >= 2 && shape[shape.size() - 2] == N && shape.back() > 0 &&
                    std::equal(shape.begin(), shape.end(), other.begin(), other.end());
  return fits ? Shape{int64_t(u.element_count()) / (N * shape.back()), shape.back()} : Shape{-1, 0};
}

ffi::Error misfit() {
  return ffi::Error::InvalidArgument("phasejax: array shapes do not fit together or this build's vectors");
}

// result_ij = mean_a left_ai right_aj, for a few rows i at a time, as many as fill half of the vector registers.
void mean_product(const Vec (*left)[VECTORS], const Vec (*right)[VECTORS], int64_t samples, Real* result) {
  constexpr int ROWS = std::clamp(REGISTERS / 2 / VECTORS, 1, N);
  for (int first = 0; first < N; first += ROWS) {
    const int from = std::min(first, N - ROWS);  // the last tile may overlap the one before
    const Real* row = reinterpret_cast<const Real*>(left) + from;
    Vec sums[ROWS][VECTORS] = {};
    for (int64_t a = 0; a < samples; ++a, row += WIDTH) {
      UNROLL for (int i = 0; i < ROWS; ++i) {
        UNROLL for (int v = 0; v < VECTORS; ++v) sums[i][v] += right[a][v] * row[i];
      }
    }
    for (int i = 0; i < ROWS; ++i) {
      for (int j = 0; j < N; ++j) result[(from + i) * N + j] = sums[i][j / LANES][j % LANES] / Real(samples);
    }
  }
}

ffi::Error products(Array u, Array g, ffi::Result<Array> means) {
  const auto [students, samples] = shape_of(u, g);
  if (students < 0 || int64_t(means->element_count()) != students * 3 * N * N) return misfit();
  const DefaultFloatingPoint environment;
  const std::unique_ptr<Vec[][VECTORS]> us(new Vec[samples][VECTORS]()), gs(new Vec[samples][VECTORS]()),
      both(new Vec[samples][VECTORS]);
  for (int64_t student = 0; student < students; ++student) {
    const Real *from_u = u.typed_data() + student * N * samples, *from_g = g.typed_data() + student * N * samples;
    Real* const result = means->typed_data() + student * 3 * N * N;
    for (int64_t a = 0; a < samples; ++a) {
      Real *const to_u = reinterpret_cast<Real*>(us[a]), *const to_g = reinterpret_cast<Real*>(gs[a]);
      for (int i = 0; i < N; ++i) to_u[i] = from_u[i * samples + a], to_g[i] = from_g[i * samples + a];
    }
    mean_product(us.get(), gs.get(), samples, result);
    for (int64_t a = 0; a < samples; ++a) {
      for (int v = 0; v < VECTORS; ++v)
        both[a][v] = us[a][v] * gs[a][v], us[a][v] *= us[a][v], gs[a][v] *= gs[a][v];
    }
    mean_product(us.get(), gs.get(), samples, result + N * N);
    mean_product(both.get(), both.get(), samples, result + 2 * N * N);
  }
  return ffi::Error::Success();
}

// Sums over samples of the first and the last row of the matrices, and of their elements' squares.
struct Rows {
  Vec sums[2][VECTORS], squares[2][VECTORS];
};

// Adds COUNT samples from u and g on.
template <int COUNT>
INLINE void add(Rows& rows, const Vec (*basis)[VECTORS], const Real* u, const Real* g, int64_t samples) {
  Vec us[COUNT][VECTORS] = {}, gs[COUNT][VECTORS] = {};
  for (int i = 0; i < N; ++i) {
    UNROLL for (int v = 0; v < VECTORS; ++v) {
      UNROLL for (int a = 0; a < COUNT; ++a) {
        us[a][v] += basis[i][v] * u[i * samples + a];
        gs[a][v] += basis[i][v] * g[i * samples + a];
      }
    }
  }
  UNROLL for (int a = 0; a < COUNT; ++a) {
    UNROLL for (int end = 0; end < 2; ++end) {
      constexpr int LAST = N - 1;
      const Vec own_u = splat(end ? us[a][LAST / LANES][LAST % LANES] : us[a][0][0]);
      const Vec own_g = splat(end ? gs[a][LAST / LANES][LAST % LANES] : gs[a][0][0]);
      UNROLL for (int v = 0; v < VECTORS; ++v) {
        const Vec elements = own_u * gs[a][v] + own_g * us[a][v];
        rows.sums[end][v] += elements;
        rows.squares[end][v] += elements * elements;
      }
    }
  }
}

ffi::Error end_rows(Array bases, Array u, Array g, ffi::Result<Array> means, ffi::Result<Array> squares) {
  const auto [students, samples] = shape_of(u, g);
  if (students < 0 || int64_t(bases.element_count()) != students * N * N ||
      int64_t(means->element_count()) != students * 2 * N || int64_t(squares->element_count()) != students * 2 * N)
    return misfit();
  const DefaultFloatingPoint environment;
  constexpr int TOGETHER = std::max(1, REGISTERS / 4 / VECTORS);
  for (int64_t student = 0; student < students; ++student) {
    const Real* const columns = bases.typed_data() + student * N * N;
    Vec basis[N][VECTORS] = {};
    for (int i = 0; i < N; ++i) std::copy_n(columns + i * N, N, reinterpret_cast<Real*>(basis[i]));
    const Real *from_u = u.typed_data() + student * N * samples, *from_g = g.typed_data() + student * N * samples;
    Rows rows = {};
    int64_t a = 0;
    for (; a + TOGETHER <= samples; a += TOGETHER) add<TOGETHER>(rows, basis, from_u + a, from_g + a, samples);
    for (; a < samples; ++a) add<1>(rows, basis, from_u + a, from_g + a, samples);
    for (int end = 0; end < 2; ++end) {
      for (int k = 0; k < N; ++k) {
        const int64_t at = (student * 2 + end) * N + k;
        means->typed_data()[at] = rows.sums[end][k / LANES][k % LANES] / Real(samples);
        squares->typed_data()[at] = rows.squares[end][k / LANES][k % LANES] / Real(samples);
      }
    }
  }
  return ffi::Error::Success();
}

}  // namespace

// clang-format off
XLA_FFI_DEFINE_HANDLER_SYMBOL(phasejax_products, products, ffi::Ffi::Bind()
    .Arg<Array>().Arg<Array>()                // u, g
    .Ret<Array>());                           // (..., 3, N, N)
XLA_FFI_DEFINE_HANDLER_SYMBOL(phasejax_end_rows, end_rows, ffi::Ffi::Bind()
    .Arg<Array>().Arg<Array>().Arg<Array>()   // basis (..., N, N), u, g
    .Ret<Array>().Ret<Array>());              // means and mean squares (..., 2, N)
