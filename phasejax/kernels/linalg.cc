// Singular values and left singular vectors of small matrices, one student per vector lane; called from JAX by linalg.py.
//
// Householder reflections take W^T to R, upper triangular, with W W^T = R^T R. Then one-sided Jacobi (Hestenes): plane
// rotations of the rows of R, until they are orthogonal. Their norms are then the singular values of W, and the rows,
// normalised, its left singular vectors. Rows are turned two and two, all disjoint pairs of a round at once, every pair
// meets once a sweep, and of a pair the shorter row goes first, so that they come out in order.
//
// A pair is left alone once the cosine of its rows is below sqrt(n) roundoffs, or one row is zero to rounding; in place of
// such rows the others are completed to a basis. A student is done with a sweep that leaves all its pairs alone, and then
// stays as it is, to the bit, while its neighbours in the vector go on; nothing crosses lanes.

#include "lanes.h"

namespace {

constexpr int SWEEPS = 40;

INLINE Vec magnitude(Vec x) { return x < 0 ? -x : x; }

INLINE bool any(VecInt mask) {
  Int found = 0;
  for (int v = 0; v < LANES; ++v) found |= mask[v];
  return found != 0;
}

INLINE Vec dot(const Vec* x, const Vec* y, int64_t size) {
  Vec sums[4] = {};
  int64_t k = 0;
  for (; k + 4 <= size; k += 4)
    UNROLL for (int part = 0; part < 4; ++part) sums[part] += x[k + part] * y[k + part];
  for (; k < size; ++k) sums[0] += x[k] * y[k];
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// Two rows p < q, and the rotation (p, q) <- (c p + s q, c q - s p) that makes them orthogonal and in order.
struct Pair {
  int64_t p, q;
  Vec c, s;
  bool turns;  // in any lane
};

INLINE void find_rotation(Pair& pair, Vec product, Vec& p_square, Vec& q_square, Vec negligible, Real tolerance) {
  const Vec a = p_square, b = q_square, smaller = a < b ? a : b;
  const VecInt skew = (product * product > (tolerance * a) * (tolerance * b)) & (smaller > negligible);
  const VecInt disordered = a > b;
  pair.turns = any(skew | disordered);
  if (!pair.turns) return;
  // The rotation by the smaller angle leaves the longer row the longer one.
  const Vec zeta = (b - a) / (2 * product), size = magnitude(zeta);
  Vec t = 1 / (size + root(1 + zeta * zeta));  // an overflow makes it 0, as it should be
  t = skew ? (zeta < 0 ? -t : t) : splat(0);
  const Vec c = 1 / root(1 + t * t), s = t * c, gain = skew ? t * product : splat(0);
  // p' = c p - s q, q' = s p + c q; in case of disorder they change places, and one its sign.
  pair.c = disordered ? s : c;
  pair.s = disordered ? c : -s;
  p_square = disordered ? b + gain : a - gain;
  q_square = disordered ? a - gain : b + gain;
}

INLINE void turn(const Pair& pair, Vec* rows, int64_t n, int64_t width) {
  Vec* const __restrict__ p = rows + pair.p * width;
  Vec* const __restrict__ q = rows + pair.q * width;
  const Vec c = pair.c, s = pair.s;
#pragma GCC unroll 4
  for (int64_t k = 0; k < n; ++k) {
    const Vec x = p[k], y = q[k];
    p[k] = c * x + s * y;
    q[k] = c * y - s * x;
  }
}

// Takes the largest element of each matrix to [1/2, 1) by a power of two, so that squares neither overflow nor all vanish;
// returns what undoes it.
Vec normalise(Vec* elements, int64_t size) {
  constexpr int LIMIT = std::numeric_limits<Real>::max_exponent - 2;
  Vec largest = {}, scale, inverse;
  for (int64_t k = 0; k < size; ++k) {
    const Vec magnitude_k = magnitude(elements[k]);
    largest = magnitude_k > largest ? magnitude_k : largest;
  }
  for (int v = 0; v < LANES; ++v) {
    int exponent = 0;
    std::frexp(largest[v], &exponent);
    exponent = std::clamp(exponent, -LIMIT, LIMIT);
    scale[v] = std::ldexp(Real(1), exponent);
    inverse[v] = std::ldexp(Real(1), -exponent);
  }
  for (int64_t k = 0; k < size; ++k) elements[k] *= inverse;
  return scale;
}

// Rows of W, (n, columns), become columns of R, whose rows go to the (n, width) `rows` in reverse order: short ones first.
void triangularise(Vec* w, Vec* rows, int64_t n, int64_t columns, int64_t width) {
  std::fill_n(rows, n * width, Vec{});
  for (int64_t k = 0; k < std::min(n, columns); ++k) {
    // The reflection that takes the rest of column k to its first component: x -> x - v (v.x) / (v.v / 2).
    Vec* const v = w + k * columns + k;
    const int64_t size = columns - k;
    Vec* const row = rows + (n - 1 - k) * width;
    const Vec length = root(dot(v, v, size)), head = v[0], image = head < 0 ? length : -length;
    const Vec half_square = length * (length + magnitude(head));
    const Vec factor = half_square > 0 ? 1 / half_square : splat(0);
    row[k] = image;
    v[0] = head - image;
    for (int64_t i = k + 1; i < n; ++i) {
      Vec* const x = w + i * columns + k;
      const Vec along = dot(v, x, size) * factor;
      for (int64_t j = 0; j < size; ++j) x[j] -= along * v[j];
      row[i] = x[0];
    }
  }
}

// Makes the n rows orthogonal, and unit vectors; returns their norms, ascending.
void orthogonalise(Vec* rows, Vec* values, Pair* pairs, int64_t n, int64_t width) {
  constexpr Real ROUNDOFF = std::numeric_limits<Real>::epsilon() / 2;
  const Real tolerance = std::sqrt(Real(n)) * ROUNDOFF;
  const int64_t circle = n + n % 2;
  Vec negligible;
  for (int sweep = 0; sweep < SWEEPS; ++sweep) {
    Vec total = {};
    for (int64_t i = 0; i < n; ++i) total += values[i] = dot(rows + i * width, rows + i * width, n);
    negligible = total * (ROUNDOFF * ROUNDOFF);
    bool turned = false;
    for (int64_t round = 0; round < circle - 1; ++round) {
      // As in a tournament: the last stays, the others move round a circle; with odd n one sits out.
      int64_t count = 0;
      for (int64_t k = 0; k < circle / 2; ++k) {
        const int64_t ahead = round + k, behind = round - k;
        const int64_t one = k ? (ahead < circle - 1 ? ahead : ahead - (circle - 1)) : circle - 1;
        const int64_t other = behind < 0 ? behind + circle - 1 : behind;
        if (std::max(one, other) < n) std::tie(pairs[count].p, pairs[count].q) = std::minmax(one, other), ++count;
      }
      for (int64_t k = 0; k < count; ++k) pairs[k].c = dot(rows + pairs[k].p * width, rows + pairs[k].q * width, n);
      for (int64_t k = 0; k < count; ++k)
        find_rotation(pairs[k], pairs[k].c, values[pairs[k].p], values[pairs[k].q], negligible, tolerance);
      for (int64_t k = 0; k < count; ++k) {
        if (pairs[k].turns) turn(pairs[k], rows, n, width), turned = true;
      }
    }
    if (!turned) break;
  }
  for (int64_t i = 0; i < n; ++i) {
    const VecInt null = values[i] <= negligible;
    values[i] = root(values[i]);
    for (int64_t k = 0; k < n; ++k) rows[i * width + k] = null ? splat(0) : rows[i * width + k] / values[i];
  }
}

// Puts unit vectors orthogonal to all others in place of the rows that are zero; `x` has room for one.
void complete(Vec* rows, Vec* x, int64_t n, int64_t width) {
  for (int64_t i = 0; i < n; ++i) {
    const VecInt null = dot(rows + i * width, rows + i * width, n) == 0;
    if (!any(null)) continue;
    // From the axis that the others cover least; what lies along them is taken away twice, for rounding.
    Vec least = splat(2);
    VecInt axis = {};
    for (int64_t k = 0; k < n; ++k) {
      Vec covered = {};
      for (int64_t j = 0; j < n; ++j) covered += rows[j * width + k] * rows[j * width + k];
      axis = covered < least ? Int(k) - VecInt{} : axis;
      least = covered < least ? covered : least;
    }
    for (int64_t k = 0; k < n; ++k) x[k] = axis == Int(k) ? splat(1) : splat(0);
    for (int again = 0; again < 2; ++again) {
      for (int64_t j = 0; j < n; ++j) {
        const Vec along = dot(x, rows + j * width, n);
        for (int64_t k = 0; k < n; ++k) x[k] -= along * rows[j * width + k];
      }
    }
    const Vec length = root(dot(x, x, n));
    for (int64_t k = 0; k < n; ++k) rows[i * width + k] = null ? x[k] / length : rows[i * width + k];
  }
}

ffi::Error decompose(ffi::Buffer<TYPE> matrices, ffi::Result<ffi::Buffer<TYPE>> values,
                     ffi::Result<ffi::Buffer<TYPE>> vectors) {
  const auto shape = matrices.dimensions();
  if (shape.size() < 2) return ffi::Error::InvalidArgument("phasejax: matrices are needed");
  const int64_t n = shape[shape.size() - 2], columns = shape[shape.size() - 1], width = n | 1;
  if (n * columns == 0) return ffi::Error::InvalidArgument("phasejax: the matrices are empty");
  const int64_t size = n * columns, count = int64_t(matrices.element_count()) / size;
  if (int64_t(values->element_count()) != count * n || int64_t(vectors->element_count()) != count * n * n)
    return ffi::Error::InvalidArgument("phasejax: the results have other shapes than the matrices");

  const DefaultFloatingPoint environment;
  const std::unique_ptr<Vec[]> matrix(new Vec[size]), rows(new Vec[n * width]), norms(new Vec[n]);
  const std::unique_ptr<Pair[]> pairs(new Pair[n / 2 + 1]);
  for (int64_t first = 0; first < count; first += LANES) {
    const int64_t last = std::min<int64_t>(LANES, count - first) - 1;
    for (int64_t v = 0; v < LANES; ++v) {
      const Real* w = matrices.typed_data() + (first + std::min(v, last)) * size;  // idle lanes repeat the last
      for (int64_t ij = 0; ij < size; ++ij) matrix[ij][v] = w[ij];
    }
    const Vec scale = normalise(matrix.get(), size);
    triangularise(matrix.get(), rows.get(), n, columns, width);
    orthogonalise(rows.get(), norms.get(), pairs.get(), n, width);
    complete(rows.get(), matrix.get(), n, width);
    for (int64_t v = 0; v <= last; ++v) {
      Real* const value = values->typed_data() + (first + v) * n;
      Real* const vector = vectors->typed_data() + (first + v) * n * n;
      for (int64_t k = 0; k < n; ++k) {
        value[k] = norms[k][v] * scale[v];
        for (int64_t i = 0; i < n; ++i) vector[i * n + k] = rows[k * width + i][v];
      }
    }
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(phasejax_left_singular, decompose,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::Buffer<TYPE>>()    // (..., n, columns)
                                  .Ret<ffi::Buffer<TYPE>>()    // singular values (..., n), ascending
                                  .Ret<ffi::Buffer<TYPE>>());  // left singular vectors in columns (..., n, n)
