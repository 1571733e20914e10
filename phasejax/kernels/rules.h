// What is learned, and how: the network's shape, losses, and rules by which weights change.

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

}  // namespace
