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
// to the bit, neither on its neighbours, nor on how many there are, nor on how its steps are cut into calls.

#include "student.h"

namespace {

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
    std::copy_n(static_cast<const RealTarget*>(targets.untyped_data()) + task * samples * TARGETS, samples * TARGETS,
                y.begin());
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
