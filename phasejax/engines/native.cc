// SGD on an ensemble of tanh students, one student per vector lane; called from JAX through jax.ffi.
//
// Compiled behind lanes.h for one network shape by native.py, which defines
//   N1 (features), N2 (hidden units), BATCH (examples in one step).
//
// Every loop below works on a whole vector of students and nothing ever crosses lanes, so what a student does depends,
// to the bit, neither on its neighbours, nor on how many there are, nor on how its steps are cut into calls.

namespace {

// A tile of TILE_ROWS hidden units x TILE_BATCH examples stays in half of the vector registers.
constexpr int TILE_BATCH = 4, TILE_ROWS = REGISTERS / 2 / TILE_BATCH;
constexpr int SIZE = N2 * N1;  // weights of a student

// Minimax coefficients of (tanh(r) - r) / r^3 in powers of r^2, for |r| <= log(2) / 4.
constexpr std::array<float, 3> tanh_series(float) {
  return {-0.33333322692816370629f, 0.13331180199479381182f, -0.05272605150605757991f};
}
constexpr std::array<double, 6> tanh_series(double) {
  return {-0.33333333333332481014, 0.13333333332781568037,   -0.053968252778253976812,
          0.021869370435377273316, -0.0088572994475908511395, 0.0034447230012210976456};
}

// With u = n log(2)/2 + r and h = 2^n, tanh(u) = ((h - 1) + (h + 1) tanh r) / ((h + 1) + (h - 1) tanh r).
// No cancellation for any u, tanh r itself for n = 0, exactly odd (u -> -u only scales both sides by a power of two),
// and exactly +-1 once h +- 1 = h. A NaN fails both comparisons and goes through.
INLINE Vec tanh(Vec u) {
  constexpr bool SINGLE = sizeof(Real) == 4;
  constexpr int MANTISSA = SINGLE ? 23 : 52, BIAS = SINGLE ? 127 : 1023;
  constexpr Real LIMIT = SINGLE ? 10 : 20;
  constexpr Real TWO_OVER_LOG2 = Real(2.8853900817779268), HALF_LOG2 = Real(0.34657359027997265);
  // Adding 1.5 * 2^MANTISSA rounds to an integer, left in the low bits; with BIAS there too, a shift makes 2^n.
  constexpr Real ROUND = Real(Int(3) << (MANTISSA - 1)) + BIAS;
  constexpr auto SERIES = tanh_series(Real{});

  u = u > LIMIT ? splat(LIMIT) : u;
  u = u < -LIMIT ? splat(-LIMIT) : u;
  const Vec n = u * TWO_OVER_LOG2 + ROUND;
  const Vec h = (Vec)((VecInt)n << MANTISSA);
  const Vec r = u - (n - ROUND) * HALF_LOG2, r2 = r * r;
  Vec series = splat(SERIES.back());
  UNROLL for (int k = int(SERIES.size()) - 2; k >= 0; --k) series = series * r2 + SERIES[k];
  const Vec tanh_r = r + (r * r2) * series, minus = h - 1, plus = h + 1;
  return (minus + plus * tanh_r) / (plus + minus * tanh_r);
}

// LANES students of one seed; small enough to stay in the first-level cache throughout a call.
struct Block {
  Vec weights[N2][N1];
  Vec slope[N2][BATCH];  // d(output) / d(preactivation) at this step
  Vec error[BATCH];
};

// Calls work(offset, count) on tiles of 0 .. EXTENT - 1, with counts that the compiler knows.
template <int EXTENT, int TILE, class Work>
INLINE void tiles(Work work) {
  constexpr int WHOLE = EXTENT - EXTENT % TILE;
#pragma GCC unroll 1
  for (int i = 0; i < WHOLE; i += TILE) work(i, std::integral_constant<int, TILE>{});
  if constexpr (WHOLE < EXTENT) work(WHOLE, std::integral_constant<int, EXTENT - WHOLE>{});
}

// Adds to the error what hidden units i .. i+ROWS-1 send out for examples b .. b+COUNT-1. Several rows at once, so that
// every broadcast of a feature is used several times.
template <int ROWS, int COUNT>
INLINE void forward(Block& block, int i, int b, const Real* phi, const Real* readout) {
  Vec u[ROWS][COUNT] = {};
  for (int j = 0; j < N1; ++j) {
    UNROLL for (int k = 0; k < COUNT; ++k) {
      UNROLL for (int row = 0; row < ROWS; ++row) u[row][k] += block.weights[i + row][j] * phi[(b + k) * N1 + j];
    }
  }
  UNROLL for (int row = 0; row < ROWS; ++row) {
    UNROLL for (int k = 0; k < COUNT; ++k) {
      const Vec f = tanh(u[row][k]);
      block.error[b + k] += f * readout[i + row];
      block.slope[i + row][b + k] = (1 - f * f) * readout[i + row];
    }
  }
}

// Subtracts the gradient of the same tile; the error already carries the learning rate.
template <int ROWS, int COUNT>
INLINE void backward(Block& block, int i, int b, const Real* phi) {
  Vec delta[ROWS][COUNT];
  UNROLL for (int row = 0; row < ROWS; ++row) {
    UNROLL for (int k = 0; k < COUNT; ++k) delta[row][k] = block.slope[i + row][b + k] * block.error[b + k];
  }
  for (int j = 0; j < N1; ++j) {
    Vec w[ROWS];
    UNROLL for (int row = 0; row < ROWS; ++row) w[row] = block.weights[i + row][j];
    UNROLL for (int k = 0; k < COUNT; ++k) {
      UNROLL for (int row = 0; row < ROWS; ++row) w[row] -= delta[row][k] * phi[(b + k) * N1 + j];
    }
    UNROLL for (int row = 0; row < ROWS; ++row) block.weights[i + row][j] = w[row];
  }
}

// One SGD step of a block; returns the batch loss before it.
INLINE Vec sgd_step(Block& block, const Real* phi, const Real* targets, const Real* readout, Vec learning_rate) {
  for (int b = 0; b < BATCH; ++b) block.error[b] = splat(-targets[b]);
  tiles<N2, TILE_ROWS>([&](int i, auto rows) {
    tiles<BATCH, TILE_BATCH>([&](int b, auto count) { forward<rows(), count()>(block, i, b, phi, readout); });
  });
  Vec loss = {};
  for (int b = 0; b < BATCH; ++b) {
    loss += block.error[b] * block.error[b];
    block.error[b] *= learning_rate / BATCH;
  }
  tiles<N2, TILE_ROWS>([&](int i, auto rows) {
    tiles<BATCH, TILE_BATCH>([&](int b, auto count) { backward<rows(), count()>(block, i, b, phi); });
  });
  return loss * (Real(0.5) / BATCH);
}

template <int RANK>
using Reals = ffi::Buffer<TYPE, RANK>;
template <int RANK>
using Ints = ffi::Buffer<ffi::S32, RANK>;

template <class Buffer>
bool has_shape(const Buffer& buffer, std::initializer_list<int64_t> shape) {
  const auto actual = buffer.dimensions();
  return std::equal(actual.begin(), actual.end(), shape.begin(), shape.end());
}

ffi::Error advance(Reals<4> weights, Reals<2> loss_sum, Ints<2> diverged_step, Reals<4> features, Reals<3> targets,
                   Reals<2> readout, Reals<1> learning_rate, Ints<0> first_step, Ints<0> start, Ints<0> n_steps,
                   ffi::Result<Reals<4>> new_weights, ffi::Result<Reals<2>> new_loss_sum,
                   ffi::Result<Ints<2>> new_diverged_step) {
  const int64_t seeds = weights.dimensions()[0], cells = weights.dimensions()[1], batches = features.dimensions()[1];
  if (!has_shape(weights, {seeds, cells, N2, N1}) || !has_shape(loss_sum, {seeds, cells}) ||
      !has_shape(diverged_step, {seeds, cells}) || !has_shape(features, {seeds, batches, BATCH, N1}) ||
      !has_shape(targets, {seeds, batches, BATCH}) || !has_shape(readout, {seeds, N2}) ||
      !has_shape(learning_rate, {cells}) || !has_shape(*new_weights, {seeds, cells, N2, N1}) ||
      !has_shape(*new_loss_sum, {seeds, cells}) || !has_shape(*new_diverged_step, {seeds, cells}))
    return ffi::Error::InvalidArgument("phasejax: array shapes do not fit together or this build's network");
  const int64_t begin = *start.typed_data(), steps = *n_steps.typed_data();
  if (begin < 0 || steps < 0 || begin + steps > batches)
    return ffi::Error::InvalidArgument("phasejax: batches " + std::to_string(begin) + " .. + " + std::to_string(steps) +
                                       " are not among the " + std::to_string(batches) + " given");

  const DefaultFloatingPoint environment;
  const auto memory = std::make_unique<Block>();
  Block& block = *memory;
  Real* const packed = reinterpret_cast<Real*>(block.weights);  // [n2][n1][lane]
  for (int64_t seed = 0; seed < seeds; ++seed) {
    const Real* phi = features.typed_data() + (seed * batches + begin) * BATCH * N1;
    const Real* y = targets.typed_data() + (seed * batches + begin) * BATCH;
    const Real* w3 = readout.typed_data() + seed * N2;
    for (int64_t cell = 0; cell < cells; cell += LANES) {
      const int64_t at = seed * cells + cell, last = std::min<int64_t>(LANES, cells - cell) - 1;
      Vec rate = {}, losses = {};
      VecInt diverged = {};
      for (int64_t v = 0; v < LANES; ++v) {
        const int64_t from = std::min(v, last);  // idle lanes repeat the last student
        rate[v] = learning_rate.typed_data()[cell + from];
        losses[v] = loss_sum.typed_data()[at + from];
        diverged[v] = diverged_step.typed_data()[at + from];
        const Real* w = weights.typed_data() + (at + from) * SIZE;
        for (int ij = 0; ij < SIZE; ++ij) packed[ij * LANES + v] = w[ij];
      }
      for (int64_t step = 0; step < steps; ++step) {
        const Vec loss = sgd_step(block, phi + step * BATCH * N1, y + step * BATCH, w3, rate);
        losses += loss;
        const VecInt finite = loss - loss == 0, now = Int(*first_step.typed_data() + step) - VecInt{};
        diverged = (finite | (diverged >= 0)) ? diverged : now;
      }
      for (int64_t v = 0; v <= last; ++v) {
        new_loss_sum->typed_data()[at + v] = losses[v];
        new_diverged_step->typed_data()[at + v] = int32_t(diverged[v]);
        Real* w = new_weights->typed_data() + (at + v) * SIZE;
        for (int ij = 0; ij < SIZE; ++ij) w[ij] = packed[ij * LANES + v];
      }
    }
  }
  return ffi::Error::Success();
}

}  // namespace

// clang-format off
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    phasejax_kernel, advance,
    ffi::Ffi::Bind()
        .Arg<Reals<4>>().Arg<Reals<2>>().Arg<Ints<2>>()   // weights, loss_sum, diverged_step
        .Arg<Reals<4>>().Arg<Reals<3>>().Arg<Reals<2>>()  // features, targets, readout
        .Arg<Reals<1>>()                                  // learning_rate
        .Arg<Ints<0>>().Arg<Ints<0>>().Arg<Ints<0>>()     // first_step, start, n_steps
        .Ret<Reals<4>>().Ret<Reals<2>>().Ret<Ints<2>>()); // weights, loss_sum, diverged_step
