// Training of an ensemble of students, and the gradient over all samples, one student per vector lane.
//
// Compiled for one kind of experiment by native.py, which defines
//   WIDTHS       nodes of every layer from the one that the data are given on to the output, n_l,
//   TRAINED      for every layer of weights W^(l) between them, whether it is trained (1) or a seed's own for ever (0),
//   ACTIVATIONS  those of the hidden layers, by the names of functions.h,
//   LOSS, RULE   by their names below,
//   DECAY        whether there is weight decay (1) or not (0),
//   SUMMED       whether the gradients of the steps are summed (1) or not (0),
//   BATCH        samples in one step.
// Whatever may differ from student to student is an argument.
//
// Every loop below works on a whole vector of students and nothing ever crosses lanes, so what a student does depends,
// to the bit, neither on its neighbours, nor on how many there are, nor on how its steps are cut into calls. For the same
// reason no sum's order depends on how work is cut into tiles.

#include "lanes.h"
#include "functions.h"

namespace {

constexpr int WIDTH[] = {WIDTHS};
constexpr bool IS_TRAINED[] = {TRAINED};
using Activations = std::tuple<ACTIVATIONS>;
constexpr int LAYERS = int(std::size(IS_TRAINED)), LAST = LAYERS - 1, OUTPUTS = WIDTH[LAYERS];
static_assert(std::size(WIDTH) == LAYERS + 1 && std::tuple_size_v<Activations> == LAST);

constexpr int first_trained() {
  int layer = 0;
  while (!IS_TRAINED[layer]) ++layer;
  return layer;
}
constexpr int FIRST = first_trained();

// -- what is learned, and how ------------------------------------------------------------------------------------------

// Half the squared error. The outputs' sums begin at minus the targets.
struct HalfSquares {
  template <class Number>
  using Target = Number;  // (sample, output)
  static constexpr int TARGETS = OUTPUTS;
  static constexpr bool BEGINS_AT_TARGETS = true;

  // Outputs less targets (output, sample) become what the sum of losses times `scale` has for gradient; returns the sum.
  template <class Number>
  static INLINE Vec apply(Vec (*errors)[BATCH], const Number*, Vec scale) {
    Vec loss = {};
    for (int b = 0; b < BATCH; ++b)
      for (int c = 0; c < OUTPUTS; ++c) loss += errors[c][b] * errors[c][b];
    for (int c = 0; c < OUTPUTS; ++c)
      for (int b = 0; b < BATCH; ++b) errors[c][b] *= scale;
    return loss * Real(0.5);
  }
};

// Minus the logarithm of the label's softmax probability.
struct CrossEntropy {
  template <class Number>
  using Target = std::conditional_t<std::is_same_v<Number, Vec>, VecInt, int32_t>;  // labels (sample)
  static constexpr int TARGETS = 1;
  static constexpr bool BEGINS_AT_TARGETS = false;

  template <class Label>
  static INLINE Vec apply(Vec (*logits)[BATCH], const Label* labels, Vec scale) {
    Vec loss = {};
    for (int b = 0; b < BATCH; ++b) {
      Vec largest = logits[0][b], sum = {}, chosen = splat(std::numeric_limits<Real>::quiet_NaN());
      for (int c = 1; c < OUTPUTS; ++c) largest = larger(largest, logits[c][b]);
      const VecInt label = labels[b] - VecInt{};
      for (int c = 0; c < OUTPUTS; ++c) {
        const Vec logit = logits[c][b] - largest;
        chosen = label == Int(c) ? logit : chosen;
        sum += logits[c][b] = exp(logit);
      }
      loss += log(sum) - chosen;
      const Vec factor = scale / sum;
      for (int c = 0; c < OUTPUTS; ++c) {
        const Vec part = logits[c][b] * factor;
        logits[c][b] = label == Int(c) ? part - scale : part;
      }
    }
    return loss;
  }
};

// Rules: what a weight w becomes, with the gradient g in every step. `numbers` are those of the lanes' cells, in this order,
// the learning rate's factor in the first and weight decay's behind the others; `step` is what they come to in one step.

struct Sgd {
  static constexpr int NUMBERS = 1, MOMENTS = 0;
  static constexpr bool COUNTS = false;
  struct Step {
    Step(const Vec*, const VecInt&) {}
  };
  static INLINE Vec direction(const Step&, const Vec*, Vec g, Vec* const*, int64_t) { return g; }
};

// A step is the gradient plus mu times the last.
struct Momentum {
  static constexpr int NUMBERS = 2, MOMENTS = 1;
  static constexpr bool COUNTS = false;
  struct Step {
    Step(const Vec*, const VecInt&) {}
  };
  static INLINE Vec direction(const Step&, const Vec* numbers, Vec g, Vec* const* moments, int64_t at) {
    return moments[0][at] = g + numbers[1] * moments[0][at];
  }
};

// Kingma and Ba's, as optax has it. Numbers: rate, b1, 1 - b1, b2, 1 - b2, eps.
struct Adam {
  static constexpr int NUMBERS = 6, MOMENTS = 2;
  static constexpr bool COUNTS = true;
  struct Step {
    Vec first, second;  // 1 / (1 - b^count)
    Step(const Vec* numbers, const VecInt& count) : first(unbias(numbers[1], count)), second(unbias(numbers[3], count)) {}
  };

  // By squaring in double precision: the same however the steps are cut.
  static Vec unbias(Vec b, VecInt count) {
    std::array<double, LANES> power, square;
    std::array<int32_t, LANES> bits;
    int32_t left = 0;
    for (int v = 0; v < LANES; ++v) power[v] = 1, square[v] = b[v], left |= bits[v] = int32_t(count[v]);
    for (; left; left >>= 1) {
      for (int v = 0; v < LANES; ++v) {
        power[v] *= bits[v] & 1 ? square[v] : 1.0;
        square[v] *= square[v];
        bits[v] >>= 1;
      }
    }
    Vec found;
    for (int v = 0; v < LANES; ++v) found[v] = Real(1 / (1 - power[v]));
    return found;
  }

  static INLINE Vec direction(const Step& step, const Vec* numbers, Vec g, Vec* const* moments, int64_t at) {
    const Vec mean = moments[0][at] = numbers[1] * moments[0][at] + numbers[2] * g;
    const Vec square = moments[1][at] = numbers[3] * moments[1][at] + numbers[4] * (g * g);
    return (mean * step.first) / (root(square * step.second) + numbers[5]);
  }
};

// Nothing: gradients are summed, and weights stay.
struct Total : Sgd {};

using Loss = LOSS;
using Rule = RULE;
constexpr bool APPLIES = !std::is_same_v<Rule, Total>;
// Minus the gradient times one number is all that is ever added, so that this number goes into the errors.
constexpr bool PLAIN = !APPLIES || (std::is_same_v<Rule, Sgd> && !DECAY && !SUMMED);
constexpr int NUMBERS = Rule::NUMBERS + DECAY;
// Arrays of a trained layer: weights, moments, sum of gradients.
constexpr int SUM = 1 + Rule::MOMENTS, SLOTS = SUM + (SUMMED || !APPLIES), DESCENDING = APPLIES ? 0 : SUM;

// -- memory ------------------------------------------------------------------------------------------------------------

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

// -- a step ------------------------------------------------------------------------------------------------------------

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
template <int L, int ROWS, int COUNT>
INLINE void settle(Block& block, const Vec (&u)[ROWS][COUNT], int i, int b) {
  UNROLL for (int row = 0; row < ROWS; ++row) {
    UNROLL for (int k = 0; k < COUNT; ++k) {
      if constexpr (L == LAST) {
        block.slopes<L>()[i + row][b + k] = u[row][k];
      } else {
        Vec slope;
        block.features<L>()[i + row][b + k] = std::tuple_element_t<L, Activations>::apply(u[row][k], slope);
        if constexpr (L >= FIRST) block.slopes<L>()[i + row][b + k] = slope;
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
      settle<L>(block, u, i, b);
    });
  });
}

template <int L, class Number>
INLINE void forward_from(Block& block, const Given<Number>& given) {
  if constexpr (L < LAYERS) {
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
          UNROLL for (int k = 0; k < COUNT; ++k) factors[row][k] = delta[i + row][b + k];
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
    if constexpr (L > FIRST) back<L>(block, given);
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

// -- all the students --------------------------------------------------------------------------------------------------

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

// Between an array (student, out, in) and vectors, (out, stride).
template <int L>
void pack(Vec* vectors, const Real* array, const Lanes& lanes) {
  Real* const packed = reinterpret_cast<Real*>(vectors);
  for (int64_t v = 0; v < LANES; ++v) {
    const Real* w = array + lanes.student[v] * WIDTH[L + 1] * WIDTH[L];
    for (int64_t i = 0; i < WIDTH[L + 1]; ++i)
      for (int64_t j = 0; j < WIDTH[L]; ++j) packed[(i * stride_of(L) + j) * LANES + v] = *w++;
  }
}

template <int L>
void unpack(const Vec* vectors, Real* array, const Lanes& lanes) {
  const Real* const packed = reinterpret_cast<const Real*>(vectors);
  for (int64_t v = 0; v < lanes.count; ++v) {
    Real* w = array + lanes.student[v] * WIDTH[L + 1] * WIDTH[L];
    for (int64_t i = 0; i < WIDTH[L + 1]; ++i)
      for (int64_t j = 0; j < WIDTH[L]; ++j) *w++ = packed[(i * stride_of(L) + j) * LANES + v];
  }
}

// Calls work(layer) for every layer, with numbers that the compiler knows.
template <class Work, int... L>
void each_layer(Work work, std::integer_sequence<int, L...>) {
  (work(std::integral_constant<int, L>{}), ...);
}
template <class Work>
void each_layer(Work work) {
  each_layer(work, std::make_integer_sequence<int, LAYERS>{});
}

// Sets vectors to numbers of several seeds, each in the lanes of its mask.
template <class Vector, class Number>
INLINE void mix(Vector* vectors, int64_t size, const std::vector<const Number*>& seeds, const std::vector<VecInt>& masks) {
  for (int64_t k = 0; k < size; ++k) vectors[k] = seeds[0][k] - Vector{};
  for (size_t seed = 1; seed < seeds.size(); ++seed) {
    for (int64_t k = 0; k < size; ++k) vectors[k] = masks[seed] ? seeds[seed][k] - Vector{} : vectors[k];
  }
}

using Array = ffi::AnyBuffer;
template <size_t RANK>
using Reals = ffi::Buffer<TYPE, RANK>;
template <size_t RANK>
using Ints = ffi::Buffer<ffi::S32, RANK>;

constexpr ffi::DataType TARGET_TYPE = Loss::BEGINS_AT_TARGETS ? TYPE : ffi::S32;

Array as_buffer(const Array& buffer) { return buffer; }
Array as_buffer(ffi::Result<Array> buffer) { return *buffer; }

// Buffers one after another, each of the type and shape it must have, or else `fits` becomes false.
template <class Buffers>
struct Reader {
  const Buffers& buffers;
  size_t next = 0;
  bool fits = true;

  template <class T = Real>
  T* take(std::initializer_list<int64_t> shape, ffi::DataType type = TYPE) {
    const auto found = buffers.template get<Array>(next++);
    fits = fits && found.has_value();
    if (!fits) return nullptr;
    const Array buffer = as_buffer(*found);
    const auto actual = buffer.dimensions();
    fits = buffer.element_type() == type && std::equal(actual.begin(), actual.end(), shape.begin(), shape.end());
    return static_cast<T*>(buffer.untyped_data());
  }
};

template <size_t RANK>
bool has_shape(const Reals<RANK>& buffer, std::initializer_list<int64_t> shape) {
  const auto actual = buffer.dimensions();
  return std::equal(actual.begin(), actual.end(), shape.begin(), shape.end());
}

ffi::Error misfit() {
  return ffi::Error::InvalidArgument("phasejax: array shapes do not fit together or this build's network");
}

using RealTarget = TargetOf<Real>;
using VecTarget = TargetOf<Vec>;
constexpr int F = WIDTH[0], TARGETS = Loss::TARGETS;

ffi::Error advance(Reals<2> loss_sum, Ints<2> diverged_step, Reals<2> numbers, Reals<1> factors, Array features,
                   Array targets, Ints<3> indices, Ints<0> first_step, Ints<0> start, Ints<0> n_steps,
                   ffi::RemainingArgs rest, ffi::Result<Reals<2>> new_loss_sum, ffi::Result<Ints<2>> new_diverged_step,
                   ffi::RemainingRets new_rest) {
  const int64_t seeds = loss_sum.dimensions()[0], cells = loss_sum.dimensions()[1];
  const bool shared = features.dimensions().size() == 2;  // samples of all seeds, of which a batch has indices
  const int64_t batches = shared ? indices.dimensions()[1] : features.dimensions().size() == 4 ? features.dimensions()[1] : 0;
  const int64_t samples = shared ? features.dimensions()[0] : seeds * batches * BATCH;

  Reader<ffi::RemainingArgs> given{rest};
  Reader<ffi::RemainingRets> results{new_rest};
  std::array<std::array<const Real*, SLOTS>, LAYERS> from{};
  std::array<std::array<Real*, SLOTS>, LAYERS> to{};
  std::array<const Real*, LAYERS> frozen{};
  each_layer([&](auto layer) {
    constexpr int L = layer;
    if constexpr (!IS_TRAINED[L]) {
      frozen[L] = given.take({seeds, WIDTH[L + 1], WIDTH[L]});
    } else {
      for (int slot = 0; slot < SLOTS; ++slot) {
        from[L][slot] = given.take({seeds, cells, WIDTH[L + 1], WIDTH[L]});
        to[L][slot] = results.take({seeds, cells, WIDTH[L + 1], WIDTH[L]});
      }
    }
  });
  const int32_t* const counts = Rule::COUNTS ? given.template take<int32_t>({seeds, cells}, ffi::S32) : nullptr;
  if (!given.fits || !results.fits || !has_shape(numbers, {NUMBERS, cells}) || !has_shape(*new_loss_sum, {seeds, cells}) ||
      features.element_type() != TYPE || targets.element_type() != TARGET_TYPE ||
      int64_t(features.element_count()) != samples * F || int64_t(targets.element_count()) != samples * TARGETS ||
      int64_t(diverged_step.element_count()) != seeds * cells ||
      int64_t(new_diverged_step->element_count()) != seeds * cells ||
      (shared && int64_t(indices.element_count()) != seeds * batches * BATCH))
    return misfit();
  const int64_t begin = *start.typed_data(), steps = *n_steps.typed_data(), known = factors.element_count();
  if (begin < 0 || steps < 0 || begin + steps > batches || (known != 1 && known < batches))
    return ffi::Error::InvalidArgument("phasejax: batches " + std::to_string(begin) + " .. + " + std::to_string(steps) +
                                       " are not among the " + std::to_string(batches) + " given");

  const DefaultFloatingPoint environment;
  Block block;
  const Real* const all_features = reinterpret_cast<const Real*>(features.untyped_data());
  const RealTarget* const all_targets = reinterpret_cast<const RealTarget*>(targets.untyped_data());
  const auto sample = [&](int64_t seed, int64_t step, int64_t b) {
    const int64_t at = (seed * batches + begin + step) * BATCH + b;
    return shared ? int64_t(indices.typed_data()[at]) : at;
  };
  const auto frozen_of = [&](int64_t seed) {
    std::array<const Real*, LAYERS> own{};
    for (int L = 0; L < LAYERS; ++L) own[L] = frozen[L] ? frozen[L] + seed * WIDTH[L + 1] * WIDTH[L] : nullptr;
    return own;
  };

  // All the steps of a vector of students; `batch_of` gives what enters in a step.
  const auto train = [&](const Lanes& lanes, const auto& batch_of) {
    each_layer([&](auto layer) {
      constexpr int L = layer;
      if constexpr (IS_TRAINED[L])
        for (int slot = 0; slot < SLOTS; ++slot) pack<L>(block.weights<L>(slot), from[L][slot], lanes);
    });
    Vec losses = {};
    VecInt diverged = {}, count = {};
    for (int64_t v = 0; v < LANES; ++v) {
      const int64_t student = lanes.student[v];
      for (int k = 0; k < NUMBERS; ++k) block.numbers[k][v] = numbers.typed_data()[k * cells + student % cells];
      losses[v] = loss_sum.typed_data()[student];
      diverged[v] = diverged_step.typed_data()[student];
      if (counts) count[v] = counts[student];
    }
    for (int64_t step = 0; step < steps; ++step) {
      const Vec factor = splat(factors.typed_data()[known == 1 ? 0 : begin + step]);
      count += 1;
      const Vec loss = train_step(block, batch_of(step), factor, count);
      losses += loss;
      const VecInt finite = loss - loss == 0, now = Int(*first_step.typed_data() + step) - VecInt{};
      diverged = (finite | (diverged >= 0)) ? diverged : now;
    }
    for (int64_t v = 0; v < lanes.count; ++v) {
      new_loss_sum->typed_data()[lanes.student[v]] = losses[v];
      new_diverged_step->typed_data()[lanes.student[v]] = int32_t(diverged[v]);
    }
    each_layer([&](auto layer) {
      constexpr int L = layer;
      if constexpr (IS_TRAINED[L])
        for (int slot = 0; slot < SLOTS; ++slot) unpack<L>(block.weights<L>(slot), to[L][slot], lanes);
    });
  };

  // What is left of a seed's cells behind whole vectors shares one with what is left of other seeds.
  const int64_t left = cells % LANES, whole = cells - left, together = left ? std::min(LANES / left, seeds) : 1;
  std::vector<Real> x(shared ? BATCH * F : 0);
  std::vector<RealTarget> y(shared ? BATCH * TARGETS : 0);
  for (int64_t seed = 0; seed < seeds; ++seed) {
    const auto batch_of = [&, own = frozen_of(seed)](int64_t step) {
      if (!shared) {
        const int64_t at = sample(seed, step, 0);
        return Given<Real>{own, all_features + at * F, all_targets + at * TARGETS};
      }
      for (int64_t b = 0; b < BATCH; ++b) {
        const int64_t at = sample(seed, step, b);
        std::copy_n(all_features + at * F, F, x.data() + b * F);
        std::copy_n(all_targets + at * TARGETS, TARGETS, y.data() + b * TARGETS);
      }
      return Given<Real>{own, x.data(), y.data()};
    };
    for (int64_t cell = 0; cell < (together > 1 ? whole : cells); cell += LANES)
      train(consecutive(seed * cells + cell, cells - cell), batch_of);
  }
  if (together == 1) return ffi::Error::Success();

  const std::unique_ptr<Vec[]> mixed_x(new Vec[BATCH * F]);
  const std::unique_ptr<VecTarget[]> mixed_y(new VecTarget[BATCH * TARGETS]);
  std::array<std::unique_ptr<Vec[]>, LAYERS> mixed_frozen;
  for (int64_t first = 0; first < seeds; first += together) {
    const int64_t members = std::min(together, seeds - first);
    Lanes lanes{{}, members * left};
    std::vector<VecInt> masks(members, VecInt{});
    for (int64_t v = 0; v < LANES; ++v) {
      const int64_t used = std::min(v, lanes.count - 1), member = used / left;
      lanes.student[v] = (first + member) * cells + whole + used % left;
      masks[member][v] = -1;
    }
    std::array<const Vec*, LAYERS> own{};
    std::vector<const Real*> reals(members);
    std::vector<const RealTarget*> target(members);
    for (int L = 0; L < LAYERS; ++L) {
      if (IS_TRAINED[L]) continue;
      const int64_t size = WIDTH[L + 1] * WIDTH[L];
      for (int64_t m = 0; m < members; ++m) reals[m] = frozen[L] + (first + m) * size;
      mixed_frozen[L].reset(new Vec[size]);
      mix(mixed_frozen[L].get(), size, reals, masks);
      own[L] = mixed_frozen[L].get();
    }
    train(lanes, [&](int64_t step) {
      for (int64_t b = 0; b < BATCH; ++b) {
        for (int64_t m = 0; m < members; ++m) {
          const int64_t at = sample(first + m, step, b);
          reals[m] = all_features + at * F, target[m] = all_targets + at * TARGETS;
        }
        mix(mixed_x.get() + b * F, F, reals, masks);
        mix(mixed_y.get() + b * TARGETS, TARGETS, target, masks);
      }
      return Given<Vec>{own, mixed_x.get(), mixed_y.get()};
    });
  }
  return ffi::Error::Success();
}

// Mean gradient of the loss over a task's samples at fixed weights, of students that share tasks along leading axes.
ffi::Error mean_gradient(Array features, Array targets, ffi::RemainingArgs rest, ffi::RemainingRets gradients) {
  const auto trained = rest.get<Array>(FIRST);
  if (!trained.has_value()) return misfit();
  const auto shape = trained->dimensions(), shared = features.dimensions();
  const int64_t axes = int64_t(shape.size()) - 2, samples = shared.size() < 2 ? 0 : shared[shared.size() - 2];
  bool fits = axes >= 0 && shared.size() == shape.size() && samples > 0 && shared.back() == F &&
              features.element_type() == TYPE && targets.element_type() == TARGET_TYPE;
  const auto leads = [&](const auto& dimensions, const auto& leading) {
    return int64_t(dimensions.size()) >= axes && std::equal(leading.begin(), leading.begin() + axes, dimensions.begin());
  };
  int64_t tasks = 1, students = 1;  // students of a task
  for (int64_t axis = 0; fits && axis < axes; ++axis) {
    if (shared[axis] == shape[axis] && students == 1)
      tasks *= shape[axis];
    else
      students *= shape[axis], fits = shared[axis] == 1;
  }
  fits = fits && leads(targets.dimensions(), shared) && int64_t(targets.element_count()) == tasks * samples * TARGETS;
  std::array<const Real*, LAYERS> weights{};
  std::array<Real*, LAYERS> to{};
  size_t next = 0;
  each_layer([&](auto layer) {
    constexpr int L = layer;
    constexpr int64_t size = int64_t(WIDTH[L + 1]) * WIDTH[L];
    const auto found = rest.get<Array>(L);
    fits = fits && found.has_value() && found->element_type() == TYPE &&
           leads(found->dimensions(), IS_TRAINED[L] ? shape : shared) &&
           int64_t(found->element_count()) == (IS_TRAINED[L] ? tasks * students : tasks) * size;
    if (fits) weights[L] = static_cast<const Real*>(found->untyped_data());
    if constexpr (IS_TRAINED[L]) {
      const auto gradient = gradients.get<Array>(next++);
      fits = fits && gradient.has_value() && as_buffer(*gradient).element_count() == found->element_count();
      if (fits) to[L] = static_cast<Real*>(as_buffer(*gradient).untyped_data());
    }
  });
  if (!fits) return misfit();

  const DefaultFloatingPoint environment;
  Block block;
  const int64_t batches = (samples + BATCH - 1) / BATCH;
  std::vector<Real> x(batches * BATCH * F);
  std::vector<RealTarget> y(batches * BATCH * TARGETS);
  for (int64_t task = 0; task < tasks; ++task) {
    std::copy_n(static_cast<const Real*>(features.untyped_data()) + task * samples * F, samples * F, x.begin());
    std::copy_n(static_cast<const RealTarget*>(targets.untyped_data()) + task * samples * TARGETS, samples * TARGETS, y.begin());
    Given<Real> given{};
    for (int L = 0; L < LAYERS; ++L) given.frozen[L] = weights[L] + task * WIDTH[L + 1] * WIDTH[L];
    for (int64_t student = 0; student < students; student += LANES) {
      const Lanes lanes = consecutive(task * students + student, students - student);
      each_layer([&](auto layer) {
        constexpr int L = layer;
        if constexpr (IS_TRAINED[L]) {
          pack<L>(block.weights<L>(), weights[L], lanes);
          std::fill_n(block.weights<L>(SUM), size_of(L), Vec{});
        }
      });
      for (int64_t batch = 0; batch < batches; ++batch) {
        given.features = x.data() + batch * BATCH * F, given.targets = y.data() + batch * BATCH * TARGETS;
        forward_from<0>(block, given);
        const auto errors = block.slopes<LAST>();
        Loss::apply(errors, given.targets, splat(-1 / Real(samples)));
        // What only fills up the last batch counts for nothing.
        for (int64_t b = samples - batch * BATCH; b < BATCH; ++b)
          for (int c = 0; c < OUTPUTS; ++c) errors[c][b] = Vec{};
        backward_from<LAST>(block, given, Vec{}, typename Rule::Step(block.numbers, VecInt{}));
      }
      each_layer([&](auto layer) {
        constexpr int L = layer;
        if constexpr (IS_TRAINED[L]) unpack<L>(block.weights<L>(SUM), to[L], lanes);
      });
    }
  }
  return ffi::Error::Success();
}

}  // namespace

// clang-format off
#if MEAN_GRADIENT
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    phasejax_mean_gradient, mean_gradient,
    ffi::Ffi::Bind()
        .Arg<Array>().Arg<Array>()                        // features (..., D, f), targets (..., D) or (..., D, n_L)
        .RemainingArgs()                                  // W^(l) (..., n_l, n_(l-1)), one after another
        .RemainingRets());                                // gradients of those that are trained
#else
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    phasejax_advance, advance,
    ffi::Ffi::Bind()
        .Arg<Reals<2>>().Arg<Ints<2>>()                   // loss_sum, diverged_step
        .Arg<Reals<2>>().Arg<Reals<1>>()                  // the rule's numbers (number, cell), the rate's factors
        .Arg<Array>().Arg<Array>().Arg<Ints<3>>()         // features, targets, indices if all seeds share the former
        .Arg<Ints<0>>().Arg<Ints<0>>().Arg<Ints<0>>()     // first_step, start, n_steps
        .RemainingArgs()                                  // of each layer W, or W, moments and sum; counts if there are
        .Ret<Reals<2>>().Ret<Ints<2>>()                   // loss_sum, diverged_step
        .RemainingRets());                                // of each trained layer W, moments and sum
#endif
