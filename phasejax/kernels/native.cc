// SGD on an ensemble of tanh students, and the gradient over all samples, one student per vector lane.
//
// Compiled behind lanes.h for one network shape by native.py and samples.py, which define
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

// LANES students; small enough to stay in the first-level cache throughout a call.
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

// Features, targets and readout are a Real each where all lanes share a seed, and a Vec where they do not.

// Adds to the error what hidden units i .. i+ROWS-1 send out for examples b .. b+COUNT-1. Several rows at once, so that
// every broadcast of a feature is used several times.
template <int ROWS, int COUNT, class Number>
INLINE void forward(Block& block, int i, int b, const Number* phi, const Number* readout) {
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

// Subtracts the gradient of the same tile from `from`; the error already carries what multiplies it.
template <int ROWS, int COUNT, class Number>
INLINE void backward(const Block& block, Vec (*from)[N1], int i, int b, const Number* phi) {
  Vec delta[ROWS][COUNT];
  UNROLL for (int row = 0; row < ROWS; ++row) {
    UNROLL for (int k = 0; k < COUNT; ++k) delta[row][k] = block.slope[i + row][b + k] * block.error[b + k];
  }
  for (int j = 0; j < N1; ++j) {
    Vec w[ROWS];
    UNROLL for (int row = 0; row < ROWS; ++row) w[row] = from[i + row][j];
    UNROLL for (int k = 0; k < COUNT; ++k) {
      UNROLL for (int row = 0; row < ROWS; ++row) w[row] -= delta[row][k] * phi[(b + k) * N1 + j];
    }
    UNROLL for (int row = 0; row < ROWS; ++row) from[i + row][j] = w[row];
  }
}

// Leaves the errors of a batch and the slopes in the block, for `descend` to make use of.
template <class Number>
INLINE void evaluate(Block& block, const Number* phi, const Number* targets, const Number* readout) {
  for (int b = 0; b < BATCH; ++b) block.error[b] = -targets[b] - Vec{};
  tiles<N2, TILE_ROWS>([&](int i, auto rows) {
    tiles<BATCH, TILE_BATCH>([&](int b, auto count) { forward<rows(), count()>(block, i, b, phi, readout); });
  });
}

// Subtracts the gradient of half the squared errors' sum, times `factor`, from `from`.
template <class Number>
INLINE void descend(Block& block, Vec (*from)[N1], const Number* phi, Vec factor) {
  for (int b = 0; b < BATCH; ++b) block.error[b] *= factor;
  tiles<N2, TILE_ROWS>([&](int i, auto rows) {
    tiles<BATCH, TILE_BATCH>([&](int b, auto count) { backward<rows(), count()>(block, from, i, b, phi); });
  });
}

// One SGD step of a block; returns the batch loss before it.
template <class Number>
INLINE Vec sgd_step(Block& block, const Number* phi, const Number* targets, const Number* readout, Vec learning_rate) {
  evaluate(block, phi, targets, readout);
  Vec loss = {};
  for (int b = 0; b < BATCH; ++b) loss += block.error[b] * block.error[b];
  descend(block, block.weights, phi, learning_rate / BATCH);
  return loss * (Real(0.5) / BATCH);
}

// The student of each lane, by number; the first `count` lanes are in use, the others repeat the last of them.
struct Lanes {
  std::array<int64_t, LANES> student;
  int64_t count;
};

Lanes consecutive(int64_t first, int64_t count) {
  Lanes lanes{{}, std::min<int64_t>(LANES, count)};
  for (int64_t v = 0; v < LANES; ++v) lanes.student[v] = first + std::min(v, lanes.count - 1);
  return lanes;
}

void pack(Vec (*vectors)[N1], const Real* weights, const Lanes& lanes) {
  Real* const packed = reinterpret_cast<Real*>(vectors);  // [n2][n1][lane]
  for (int64_t v = 0; v < LANES; ++v) {
    const Real* w = weights + lanes.student[v] * SIZE;
    for (int ij = 0; ij < SIZE; ++ij) packed[ij * LANES + v] = w[ij];
  }
}

void unpack(const Vec (*vectors)[N1], Real* weights, const Lanes& lanes) {
  const Real* const packed = reinterpret_cast<const Real*>(vectors);
  for (int64_t v = 0; v < lanes.count; ++v) {
    Real* w = weights + lanes.student[v] * SIZE;
    for (int ij = 0; ij < SIZE; ++ij) w[ij] = packed[ij * LANES + v];
  }
}

// Sets vectors to numbers of several seeds, `offset` behind their pointers, each in the lanes of its mask.
INLINE void mix(Vec* vectors, int64_t size, const std::vector<const Real*>& seeds, int64_t offset,
                const std::vector<VecInt>& masks) {
  for (int64_t k = 0; k < size; ++k) vectors[k] = splat(seeds[0][offset + k]);
  for (size_t seed = 1; seed < seeds.size(); ++seed) {
    for (int64_t k = 0; k < size; ++k) vectors[k] = masks[seed] ? splat(seeds[seed][offset + k]) : vectors[k];
  }
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
  const auto phi = [&](int64_t seed) { return features.typed_data() + (seed * batches + begin) * BATCH * N1; };
  const auto y = [&](int64_t seed) { return targets.typed_data() + (seed * batches + begin) * BATCH; };
  const auto w3 = [&](int64_t seed) { return readout.typed_data() + seed * N2; };

  // All the steps of a vector of students; `step_with` does one with its number and the learning rates.
  const auto train = [&](const Lanes& lanes, const auto& step_with) {
    pack(block.weights, weights.typed_data(), lanes);
    Vec rate = {}, losses = {};
    VecInt diverged = {};
    for (int64_t v = 0; v < LANES; ++v) {
      rate[v] = learning_rate.typed_data()[lanes.student[v] % cells];
      losses[v] = loss_sum.typed_data()[lanes.student[v]];
      diverged[v] = diverged_step.typed_data()[lanes.student[v]];
    }
    for (int64_t step = 0; step < steps; ++step) {
      const Vec loss = step_with(step, rate);
      losses += loss;
      const VecInt finite = loss - loss == 0, now = Int(*first_step.typed_data() + step) - VecInt{};
      diverged = (finite | (diverged >= 0)) ? diverged : now;
    }
    for (int64_t v = 0; v < lanes.count; ++v) {
      new_loss_sum->typed_data()[lanes.student[v]] = losses[v];
      new_diverged_step->typed_data()[lanes.student[v]] = int32_t(diverged[v]);
    }
    unpack(block.weights, new_weights->typed_data(), lanes);
  };

  // What is left of a seed's cells behind whole vectors shares one with what is left of other seeds.
  const int64_t left = cells % LANES, whole = cells - left, together = left ? std::min(LANES / left, seeds) : 1;
  for (int64_t seed = 0; seed < seeds; ++seed) {
    for (int64_t cell = 0; cell < (together > 1 ? whole : cells); cell += LANES) {
      train(consecutive(seed * cells + cell, cells - cell), [&](int64_t step, Vec rate) {
        return sgd_step(block, phi(seed) + step * BATCH * N1, y(seed) + step * BATCH, w3(seed), rate);
      });
    }
  }
  if (together == 1) return ffi::Error::Success();
  const std::unique_ptr<Vec[]> mixed(new Vec[BATCH * N1 + BATCH + N2]);
  Vec *const mixed_phi = mixed.get(), *const mixed_y = mixed_phi + BATCH * N1, *const mixed_w3 = mixed_y + BATCH;
  for (int64_t first = 0; first < seeds; first += together) {
    const int64_t members = std::min(together, seeds - first);
    Lanes lanes{{}, members * left};
    std::vector<VecInt> masks(members, VecInt{});
    for (int64_t v = 0; v < LANES; ++v) {
      const int64_t used = std::min(v, lanes.count - 1), member = used / left;
      lanes.student[v] = (first + member) * cells + whole + used % left;
      masks[member][v] = -1;
    }
    std::vector<const Real*> phis, ys, w3s;
    for (int64_t seed = first; seed < first + members; ++seed)
      phis.push_back(phi(seed)), ys.push_back(y(seed)), w3s.push_back(w3(seed));
    mix(mixed_w3, N2, w3s, 0, masks);
    train(lanes, [&](int64_t step, Vec rate) {
      mix(mixed_phi, BATCH * N1, phis, step * BATCH * N1, masks);
      mix(mixed_y, BATCH, ys, step * BATCH, masks);
      return sgd_step(block, mixed_phi, mixed_y, mixed_w3, rate);
    });
  }
  return ffi::Error::Success();
}

using Array = ffi::Buffer<TYPE>;

// Mean gradient of the loss over a task's samples at fixed weights, of students that share tasks along leading axes.
ffi::Error mean_gradient(Array weights, Array features, Array targets, Array readout, ffi::Result<Array> gradients) {
  const auto shape = weights.dimensions(), shared = features.dimensions();
  const int64_t axes = int64_t(shape.size()) - 2, samples = shared.size() < 2 ? 0 : shared[shared.size() - 2];
  bool fits = axes >= 0 && shape[axes] == N2 && shape[axes + 1] == N1 && shared.size() == shape.size() && samples > 0 &&
              shared.back() == N1 && gradients->element_count() == weights.element_count();
  const auto like_features = [&](const Array& other, int64_t rank, int64_t size) {
    const auto found = other.dimensions();
    return int64_t(found.size()) == rank && found.back() == size &&
           std::equal(found.begin(), found.begin() + axes, shared.begin());
  };
  fits = fits && like_features(targets, axes + 1, samples) && like_features(readout, axes + 1, N2);
  int64_t tasks = 1, students = 1;  // students of a task
  for (int64_t axis = 0; fits && axis < axes; ++axis) {
    if (shared[axis] == shape[axis] && students == 1)
      tasks *= shape[axis];
    else
      students *= shape[axis], fits = shared[axis] == 1;
  }
  if (!fits)
    return ffi::Error::InvalidArgument("phasejax: array shapes do not fit together or this build's network");

  const DefaultFloatingPoint environment;
  struct Work {
    Block block;
    Vec gradient[N2][N1];
  };
  const auto memory = std::make_unique<Work>();
  auto& [block, gradient] = *memory;
  // Samples that only fill up the last batch are zero: so are their features, error and gradient.
  const int64_t batches = (samples + BATCH - 1) / BATCH;
  std::vector<Real> phi(batches * BATCH * N1), y(batches * BATCH);
  for (int64_t task = 0; task < tasks; ++task) {
    std::copy_n(features.typed_data() + task * samples * N1, samples * N1, phi.begin());
    std::copy_n(targets.typed_data() + task * samples, samples, y.begin());
    for (int64_t student = 0; student < students; student += LANES) {
      const Lanes lanes = consecutive(task * students + student, students - student);
      pack(block.weights, weights.typed_data(), lanes);
      std::fill_n(&gradient[0][0], SIZE, Vec{});
      for (int64_t batch = 0; batch < batches; ++batch) {
        const Real* const own = phi.data() + batch * BATCH * N1;
        evaluate(block, own, y.data() + batch * BATCH, readout.typed_data() + task * N2);
        descend(block, gradient, own, splat(-1 / Real(samples)));
      }
      unpack(gradient, gradients->typed_data(), lanes);
    }
  }
  return ffi::Error::Success();
}

}  // namespace

// clang-format off
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    phasejax_advance, advance,
    ffi::Ffi::Bind()
        .Arg<Reals<4>>().Arg<Reals<2>>().Arg<Ints<2>>()   // weights, loss_sum, diverged_step
        .Arg<Reals<4>>().Arg<Reals<3>>().Arg<Reals<2>>()  // features, targets, readout
        .Arg<Reals<1>>()                                  // learning_rate
        .Arg<Ints<0>>().Arg<Ints<0>>().Arg<Ints<0>>()     // first_step, start, n_steps
        .Ret<Reals<4>>().Ret<Reals<2>>().Ret<Ints<2>>()); // weights, loss_sum, diverged_step
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    phasejax_mean_gradient, mean_gradient,
    ffi::Ffi::Bind()
        .Arg<Array>()                                     // weights (..., N2, N1)
        .Arg<Array>().Arg<Array>().Arg<Array>()           // features (..., D, N1), targets (..., D), readout (..., N2)
        .Ret<Array>());                                   // gradients (..., N2, N1)
