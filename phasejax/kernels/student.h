// A step of LANES students: where their weights lie, and how they change.
//
// No sum's order depends on how work is cut into tiles.

#include "rules.h"

namespace {

// Rows of weights that are also read by columns are an odd number of vectors apart, so that a column is not all in a few
// sets of the cache.
constexpr int stride_of(int layer) { return IS_TRAINED[layer] && layer > FIRST ? WIDTH[layer] | 1 : WIDTH[layer]; }
constexpr int64_t size_of(int layer) { return IS_TRAINED[layer] ? int64_t(WIDTH[layer + 1]) * stride_of(layer) : 0; }

constexpr int64_t offset_of(int layer, int slot) {
  int64_t offset = 0;
  for (int l = 0; l < layer; ++l) offset += SLOTS * size_of(l);
  return slot ? offset + slot * size_of(layer) : offset;
}
constexpr int64_t signals_of(int layer) {
  int64_t offset = offset_of(LAYERS, 0);
  for (int l = 0; l < layer; ++l) offset += 2 * WIDTH[l + 1] * BATCH;
  return offset;
}
constexpr int64_t WORK = signals_of(LAYERS), VECTORS = WORK + *std::max_element(std::begin(WIDTH), std::end(WIDTH)) * BATCH;

// LANES students, whose weights stay where they are throughout a call.
struct Block {
  std::unique_ptr<Vec[]> memory{new Vec[VECTORS]};
  Vec numbers[NUMBERS];

  template <int L>
  INLINE Vec* weights(int slot = 0) { return memory.get() + offset_of(L, slot); }
  using Signal = Vec (*)[BATCH];
  // What comes out of layer L, (node, sample).
  template <int L>
  INLINE Signal features() { return reinterpret_cast<Signal>(memory.get() + signals_of(L)); }
  // d feature / d u, and in the course of a step d loss / d u, of layer L.
  template <int L>
  INLINE Signal slopes() { return reinterpret_cast<Signal>(memory.get() + signals_of(L)) + WIDTH[L + 1]; }
  INLINE Signal work() { return reinterpret_cast<Signal>(memory.get() + WORK); }
};

template <class Number>
using TargetOf = Loss::Target<Number>;

// What enters the layers from without: a Real each where all lanes share a seed, and a Vec where they do not.
template <class Number>
struct Given {
  using Target = TargetOf<Number>;
  std::array<const Number*, LAYERS> frozen;
  const Number* features;  // (sample, f)
  const Target* targets;
};

// Calls work(offset, count) on tiles of 0 .. EXTENT - 1, as even as can be, with counts that the compiler knows.
template <int EXTENT, int TILE, class Work>
INLINE void tiles(Work work) {
  constexpr int COUNT = (EXTENT + TILE - 1) / TILE, SIZE = (EXTENT + COUNT - 1) / COUNT, LESS = COUNT * SIZE - EXTENT;
  constexpr int WHOLE = (COUNT - LESS) * SIZE;
#pragma GCC unroll 1
  for (int i = 0; i < WHOLE; i += SIZE) work(i, std::integral_constant<int, SIZE>{});
  if constexpr (LESS > 0) {
#pragma GCC unroll 1
    for (int i = WHOLE; i < EXTENT; i += SIZE - 1) work(i, std::integral_constant<int, SIZE - 1>{});
  }
}

// A tile of rows x samples stays in half of the vector registers, or a little more.
constexpr int SAMPLES = std::min(BATCH, 4);
constexpr int rows_of(int extent) {
  return REGISTERS == 32 && SAMPLES == 4 && extent % 5 == 0 ? 5 : std::min(REGISTERS / 2 / SAMPLES, 8);
}

// A single output of weights that stay is summed while its features are made, and multiplies the slopes where they are
// read: neither features nor what goes back need be put down.
constexpr bool DIRECT = LAST == FIRST + 1 && OUTPUTS == 1 && !IS_TRAINED[LAST] && (PLAIN || BATCH <= 4);

INLINE Vec widened(Vec x) { return x; }
INLINE Vec widened(Real x) { return splat(x); }

INLINE void add_product(Vec& sum, Vec a, Vec b) { sum += a * b; }
INLINE void add_product(Vec& sum, Vec a, Real b) { sum += a * b; }
INLINE void add_product(Vec& sum, Real a, Vec b) { sum += a * b; }
INLINE void add_product(Vec& sum, Real a, Real b) { sum += splat(a) * b; }

// What enters layer L: component j of sample b.
template <int L, class Number>
struct Entering {
  const Vec (*features)[BATCH];
  INLINE Vec operator()(int j, int b) const { return features[j][b]; }
};
template <class Number>
struct Entering<0, Number> {
  const Number* features;
  INLINE Number operator()(int j, int b) const { return features[b * WIDTH[0] + j]; }
};
template <int L, class Number>
INLINE Entering<L, Number> entering(Block& block, const Given<Number>& given) {
  if constexpr (L > 0)
    return {block.features<L - 1>()};
  else
    return {given.features};
}

template <int L, class Number>
INLINE auto weights_of(Block& block, const Given<Number>& given) {
  if constexpr (IS_TRAINED[L])
    return static_cast<const Vec*>(block.weights<L>());
  else
    return given.frozen[L];
}

template <int L, int ROWS, int COUNT, class Number>
INLINE void begin(Vec (&u)[ROWS][COUNT], int i, int b, const Given<Number>& given) {
  UNROLL for (int row = 0; row < ROWS; ++row) {
    UNROLL for (int k = 0; k < COUNT; ++k) {
      u[row][k] = Vec{};
      if constexpr (L == LAST && Loss::BEGINS_AT_TARGETS) u[row][k] = -widened(given.targets[(b + k) * OUTPUTS + i + row]);
    }
  }
}

// Puts down what u, rows i .. and samples b .. of layer L, comes to.
template <int L, int ROWS, int COUNT, class Number>
INLINE void settle(Block& block, const Vec (&u)[ROWS][COUNT], int i, int b, const Given<Number>& given) {
  UNROLL for (int row = 0; row < ROWS; ++row) {
    UNROLL for (int k = 0; k < COUNT; ++k) {
      if constexpr (L == LAST) {
        block.slopes<L>()[i + row][b + k] = u[row][k];
      } else {
        Vec slope;
        const Vec feature = std::tuple_element_t<L, Activations>::apply(u[row][k], slope);
        if constexpr (DIRECT && L + 1 == LAST) {
          const Number w = given.frozen[LAST][i + row];
          add_product(block.slopes<LAST>()[0][b + k], w, feature);
          block.slopes<L>()[i + row][b + k] = slope * w;
        } else {
          block.features<L>()[i + row][b + k] = feature;
          if constexpr (L >= FIRST) block.slopes<L>()[i + row][b + k] = slope;
        }
      }
    }
  }
}

// From what enters layer L to what comes out of it.
template <int L, class Number>
INLINE void forward(Block& block, const Given<Number>& given) {
  constexpr int IN = WIDTH[L], STRIDE = stride_of(L);
  const auto x = entering<L>(block, given);
  const auto* const weights = weights_of<L>(block, given);
  tiles<WIDTH[L + 1], rows_of(WIDTH[L + 1])>([&](int i, auto rows) {
    tiles<BATCH, SAMPLES>([&](int b, auto count) {
      constexpr int ROWS = rows(), COUNT = count();
      Vec u[ROWS][COUNT];
      begin<L>(u, i, b, given);
      const auto* const w = weights + int64_t(i) * STRIDE;
      for (int j = 0; j < IN; ++j) {
        UNROLL for (int k = 0; k < COUNT; ++k) {
          UNROLL for (int row = 0; row < ROWS; ++row) add_product(u[row][k], w[row * STRIDE + j], x(j, b + k));
        }
      }
      settle<L>(block, u, i, b, given);
    });
  });
}

template <int L, class Number>
INLINE void forward_from(Block& block, const Given<Number>& given) {
  if constexpr (DIRECT && L + 1 == LAST) {
    for (int b = 0; b < BATCH; ++b) {
      Vec u[1][1];
      begin<LAST>(u, 0, b, given);
      block.slopes<LAST>()[0][b] = u[0][0];
    }
    forward<L>(block, given);
  } else if constexpr (L < LAYERS) {
    forward<L>(block, given);
    forward_from<L + 1>(block, given);
  }
}

// d loss / d u behind layer L becomes that before it.
template <int L, class Number>
INLINE void back(Block& block, const Given<Number>& given) {
  constexpr int IN = WIDTH[L], OUT = WIDTH[L + 1], STRIDE = stride_of(L);
  const auto* const weights = weights_of<L>(block, given);
  const auto behind = block.slopes<L>();
  const auto before = block.slopes<L - 1>();
  if constexpr (OUT == 1) {
    for (int j = 0; j < IN; ++j)
      UNROLL for (int b = 0; b < BATCH; ++b) before[j][b] = before[j][b] * weights[j] * behind[0][b];
  } else {
    tiles<IN, rows_of(IN)>([&](int j, auto columns) {
      tiles<BATCH, SAMPLES>([&](int b, auto count) {
        constexpr int COLUMNS = columns(), COUNT = count();
        Vec sums[COLUMNS][COUNT] = {};
        for (int i = 0; i < OUT; ++i) {
          UNROLL for (int k = 0; k < COUNT; ++k) {
            UNROLL for (int column = 0; column < COLUMNS; ++column)
              add_product(sums[column][k], weights[int64_t(i) * STRIDE + j + column], behind[i][b + k]);
          }
        }
        UNROLL for (int column = 0; column < COLUMNS; ++column)
          UNROLL for (int k = 0; k < COUNT; ++k) before[j + column][b + k] *= sums[column][k];
      });
    });
  }
}

// What the rule makes of a weight of layer L, given its gradient.
template <int L>
struct Apply {
  const typename Rule::Step& step;
  const Vec* numbers;
  Vec rate;
  Vec *weights, *sums;
  std::array<Vec*, Rule::MOMENTS + 1> moments;

  Apply(Block& block, Vec rate, const typename Rule::Step& step)
      : step(step), numbers(block.numbers), rate(rate), weights(block.weights<L>()), sums(block.weights<L>(SUM)) {
    for (int moment = 0; moment < Rule::MOMENTS; ++moment) moments[moment] = block.weights<L>(1 + moment);
  }

  INLINE void operator()(int64_t at, Vec gradient) const {
    if constexpr (SUMMED) sums[at] += gradient;
    const Vec w = weights[at];
    if constexpr (DECAY) gradient += numbers[NUMBERS - 1] * w;
    weights[at] = w - rate * Rule::direction(step, numbers, gradient, moments.data(), at);
  }
};

template <int L, class Number>
INLINE void update(Block& block, const Given<Number>& given, Vec rate, const typename Rule::Step& step) {
  constexpr int IN = WIDTH[L], OUT = WIDTH[L + 1], STRIDE = stride_of(L);
  const auto x = entering<L>(block, given);
  const auto delta = block.slopes<L>();
  if constexpr (PLAIN || BATCH <= 4) {
    // Factors of a few rows and samples stay in registers, while weights stream.
    const Apply<L> apply(block, rate, step);
    Vec* const weights = block.weights<L>(DESCENDING);
    tiles<OUT, rows_of(OUT)>([&](int i, auto rows) {
      constexpr int ROWS = rows();
      const int64_t at = int64_t(i) * STRIDE;
      tiles<BATCH, SAMPLES>([&](int b, auto count) {
        constexpr int COUNT = count();
        Vec factors[ROWS][COUNT];
        UNROLL for (int row = 0; row < ROWS; ++row)
          UNROLL for (int k = 0; k < COUNT; ++k)
            factors[row][k] = DIRECT ? delta[i + row][b + k] * block.slopes<LAST>()[0][b + k] : delta[i + row][b + k];
        for (int j = 0; j < IN; ++j) {
          Vec w[ROWS] = {};
          if constexpr (PLAIN) UNROLL for (int row = 0; row < ROWS; ++row) w[row] = weights[at + row * STRIDE + j];
          UNROLL for (int k = 0; k < COUNT; ++k) {
            UNROLL for (int row = 0; row < ROWS; ++row) {
              if constexpr (PLAIN)
                w[row] -= factors[row][k] * x(j, b + k);
              else
                w[row] += factors[row][k] * x(j, b + k);
            }
          }
          UNROLL for (int row = 0; row < ROWS; ++row) {
            if constexpr (PLAIN)
              weights[at + row * STRIDE + j] = w[row];
            else
              apply(at + row * STRIDE + j, w[row]);
          }
        }
      });
    });
  } else {
    // A tile of the gradient stays in registers, while samples stream.
    const Apply<L> apply(block, rate, step);
    tiles<OUT, 4>([&](int i, auto rows) {
      tiles<IN, 4>([&](int j, auto columns) {
        constexpr int ROWS = rows(), COLUMNS = columns();
        Vec g[ROWS][COLUMNS] = {};
        for (int b = 0; b < BATCH; ++b) {
          UNROLL for (int row = 0; row < ROWS; ++row)
            UNROLL for (int column = 0; column < COLUMNS; ++column) g[row][column] += delta[i + row][b] * x(j + column, b);
        }
        UNROLL for (int row = 0; row < ROWS; ++row)
          UNROLL for (int column = 0; column < COLUMNS; ++column)
            apply(int64_t(i + row) * STRIDE + j + column, g[row][column]);
      });
    });
  }
}

// `back` and `update` in one pass over the weights, where the rule is plain and a few rows' factors fill the registers.
template <int L, class Number>
INLINE void back_and_update(Block& block, const Given<Number>& given) {
  constexpr int IN = WIDTH[L], OUT = WIDTH[L + 1], STRIDE = stride_of(L);
  const auto x = entering<L>(block, given);
  const auto behind = block.slopes<L>(), before = block.slopes<L - 1>(), sums = block.work();
  Vec* const weights = block.weights<L>();
  std::fill_n(&sums[0][0], IN * BATCH, Vec{});
  tiles<OUT, REGISTERS / 2 / BATCH>([&](int i, auto rows) {
    constexpr int ROWS = rows();
    Vec factors[ROWS][BATCH];
    UNROLL for (int row = 0; row < ROWS; ++row)
      UNROLL for (int b = 0; b < BATCH; ++b) factors[row][b] = behind[i + row][b];
    Vec* const from = weights + int64_t(i) * STRIDE;
    for (int j = 0; j < IN; ++j) {
      Vec w[ROWS];
      UNROLL for (int row = 0; row < ROWS; ++row) w[row] = from[row * STRIDE + j];
      UNROLL for (int b = 0; b < BATCH; ++b) {
        Vec sum = sums[j][b];
        UNROLL for (int row = 0; row < ROWS; ++row) sum += w[row] * factors[row][b];
        sums[j][b] = sum;
      }
      UNROLL for (int b = 0; b < BATCH; ++b)
        UNROLL for (int row = 0; row < ROWS; ++row) w[row] -= factors[row][b] * x(j, b);
      UNROLL for (int row = 0; row < ROWS; ++row) from[row * STRIDE + j] = w[row];
    }
  });
  for (int j = 0; j < IN; ++j)
    UNROLL for (int b = 0; b < BATCH; ++b) before[j][b] *= sums[j][b];
}

template <int L, class Number>
INLINE void backward_from(Block& block, const Given<Number>& given, Vec rate, const typename Rule::Step& step) {
  if constexpr (L > FIRST && IS_TRAINED[L] && PLAIN && APPLIES && WIDTH[L + 1] > 1 && BATCH <= REGISTERS / 4) {
    back_and_update<L>(block, given);
  } else {
    if constexpr (L > FIRST && !DIRECT) back<L>(block, given);
    if constexpr (IS_TRAINED[L]) update<L>(block, given, rate, step);
  }
  if constexpr (L > FIRST) backward_from<L - 1>(block, given, rate, step);
}

// One step of a block; returns the batch loss before it.
template <class Number>
Vec train_step(Block& block, const Given<Number>& given, Vec factor, VecInt count) {
  const Vec rate = block.numbers[0] * factor;
  forward_from<0>(block, given);
  const Vec loss = Loss::apply(block.slopes<LAST>(), given.targets, PLAIN ? rate / BATCH : splat(Real(1) / BATCH));
  backward_from<LAST>(block, given, rate, typename Rule::Step(block.numbers, count));
  return loss * (Real(1) / BATCH);
}

}  // namespace
