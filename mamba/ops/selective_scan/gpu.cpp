#include "mamba/ops/selective_scan/gpu.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <vector>

#include "mamba/ops/dispatch.h"
#include "mamba/ops/gpu/kernel.h"

namespace mamba::embedded {
std::string_view gpu_scan_forward();
std::string_view gpu_scan_local();
std::string_view gpu_scan_carry();
std::string_view gpu_scan_backward();
std::string_view gpu_scan_step();
std::string_view gpu_scan_sum();
}  // namespace mamba::embedded

namespace mamba::ops::scan {

namespace mx = mlx::core;
using gpu::Constants;
using gpu::Grid;
using gpu::Kernel;

namespace {

struct Plan {
  Shape shape;          // of the backward pass
  Shape forward_shape;  // of the passes that need no sums over channels: forward,
  Shape local_shape;    // and what chunks add to a state
  int chunks;           // of the forward pass
  int backward_chunks;
  int batch, length, channels, states;
  bool has_D, has_z, has_bias, has_state, has_spans, has_resets, softplus;
  mx::Stream stream;

  int segments() const { return divide_up(length, shape.segment); }
  Grid grid(const Shape& of, int depth) const { return {{of.blocks(channels), batch, depth}, of.threads}; }

  Constants constants(const Shape& of, mx::Dtype dtype, Constants more) const {
    more.insert(more.end(), {{"T", dtype},
                             {"kLanes", of.lanes},
                             {"kM", of.per_lane},
                             {"kThreads", of.threads},
                             {"kSegment", of.segment},
                             {"kSoftplus", softplus},
                             {"kHasBias", has_bias},
                             {"kHasZ", has_z},
                             {"kHasSpans", has_spans},
                             {"kHasResets", has_resets}});
    return more;
  }
};

// All inputs there are, in the order of Inputs, others as stand-ins that no kernel reads.
enum Inputs { kU, kDelta, kA, kB, kC, kD, kZ, kDeltaBias, kState, kSpans, kResets, kInputs };

// Registers of a thread, where the compiler's own choice leaves room for fewer groups than are faster, or is too small;
// 0 is its own choice.
int forward_registers(const Shape& shape) {
  if (shape == kWhole) return 160;
  if (shape == kPairs) return 144;
  if (shape == kTwoLanes) return 128;
  return shape == kFourLanes ? 96 : 0;
}

int local_registers(const Shape& shape) {
  if (shape == kPairs) return 144;
  if (shape == kTwoLanes) return 96;
  return shape == kFourLanes ? 80 : 0;
}

// With four lanes to a channel or short tiles, three groups of 128 threads to a multiprocessor; the compiler alone
// takes 255 registers, for two. Two lanes to a channel need those.
int backward_registers(const Shape& shape) {
  return shape == kFourLanes || shape == kShortTiles ? 168 : 0;
}

// Groups that a large GPU has room for at once.
int room_of(const Shape& shape, int registers) {
  constexpr int kMultiprocessors = 132;
  constexpr int kRegisters = 65536;  // of each
  constexpr int kMost = 255;
  return kMultiprocessors * (kRegisters / (shape.threads * (registers > 0 ? registers : kMost)));
}

const Kernel& forward_kernel(const Shape& shape) {
  const auto make = [](int registers) {
    return Kernel("mamba_scan_forward", embedded::gpu_scan_forward(),
                  {"u", "delta", "A", "B", "C", "D", "z", "delta_bias", "first", "spans", "resets"},
                  {"y", "state", "kept"}, registers);
  };
  static const Kernel whole = make(forward_registers(kWhole));
  static const Kernel pair = make(forward_registers(kPairs));
  static const Kernel two = make(forward_registers(kTwoLanes));
  static const Kernel four = make(forward_registers(kFourLanes));
  static const Kernel others = make(0);
  if (shape == kWhole) return whole;
  if (shape == kPairs) return pair;
  if (shape == kTwoLanes) return two;
  return shape == kFourLanes ? four : others;
}

const Kernel& local_kernel(const Shape& shape) {
  const auto make = [](int registers) {
    return Kernel("mamba_scan_local", embedded::gpu_scan_local(),
                  {"x", "delta", "A", "W", "z", "delta_bias", "spans", "resets"}, {"local", "total"}, registers);
  };
  static const Kernel pair = make(local_registers(kPairs));
  static const Kernel two = make(local_registers(kTwoLanes));
  static const Kernel four = make(local_registers(kFourLanes));
  static const Kernel others = make(0);
  if (shape == kPairs) return pair;
  if (shape == kTwoLanes) return two;
  return shape == kFourLanes ? four : others;
}

const Kernel& carry_kernel() {
  static const Kernel kernel("mamba_scan_carry", embedded::gpu_scan_carry(), {"local", "total", "A", "first"},
                             {"carry"});
  return kernel;
}

const Kernel& backward_kernel(const Shape& shape) {
  const auto make = [](int registers) {
    return Kernel("mamba_scan_backward", embedded::gpu_scan_backward(),
                  {"u", "delta", "A", "B", "C", "D", "z", "delta_bias", "spans", "resets", "gy", "kept", "last"},
                  {"gu", "gdelta", "gz", "part_BC", "part_A", "part_D", "gfirst", "y"}, registers);
  };
  static const Kernel three = make(backward_registers(kFourLanes));
  static const Kernel others = make(0);
  return backward_registers(shape) > 0 ? three : others;
}

const Kernel& sum_kernel() {
  static const Kernel kernel("mamba_scan_sum", embedded::gpu_scan_sum(), {"part_A", "part_D", "part_BC"},
                             {"sum_A", "sum_D", "sum_bias", "sum_BC"});
  return kernel;
}

const Kernel& step_kernel() {
  static const Kernel kernel("mamba_scan_step", embedded::gpu_scan_step(),
                             {"u", "delta", "A", "B", "C", "D", "z", "delta_bias", "first"}, {"y", "state"});
  return kernel;
}

// The states that enter the chunks or, backwards, the gradients of those that leave them: (B, chunks, N, D).
mx::array carries(const Plan& plan, const std::vector<mx::array>& in, const mx::array& x, const mx::array& first,
                  bool has_first, bool reverse) {
  const Shape& shape = plan.local_shape;
  const int chunks = reverse ? plan.backward_chunks : plan.chunks;
  const int others = chunks - 1;
  const std::vector<mx::array> local = local_kernel(shape)(
      {x, in[kDelta], in[kA], in[reverse ? kC : kB], in[kZ], in[kDeltaBias], in[kSpans], in[kResets]},
      {{plan.batch, others, plan.states, plan.channels}, {plan.batch, others, plan.channels}},
      {mx::float32, mx::float32}, plan.grid(shape, others),
      plan.constants(shape, x.dtype(), {{"kEach", shape.each}, {"kSteps", shape.steps}, {"kReverse", reverse}}),
      plan.stream);
  constexpr int kThreads = 128;
  return carry_kernel()({local[0], local[1], in[kA], first}, {{plan.batch, chunks, plan.states, plan.channels}},
                        {mx::float32}, {{divide_up(plan.states * plan.channels, kThreads), plan.batch, 1}, kThreads},
                        {{"kThreads", kThreads}, {"kHasState", has_first}, {"kReverse", reverse}}, plan.stream)[0];
}

// y, the final state and, where they are to be kept, the states before all segments.
std::vector<mx::array> forward(const Plan& plan, const std::vector<mx::array>& in, bool keep) {
  std::vector<mx::array> inputs = in;
  if (plan.chunks > 1) {
    inputs[kState] = carries(plan, in, in[kU], in[kState], plan.has_state, false);
  }
  const Shape& shape = plan.forward_shape;
  const mx::Shape kept = keep ? mx::Shape{plan.batch, plan.segments(), plan.states, plan.channels} : mx::Shape{1};
  return forward_kernel(shape)(inputs, {in[kU].shape(), {plan.batch, plan.channels, plan.states}, kept},
                               {in[kU].dtype(), mx::float32, mx::float32}, plan.grid(shape, plan.chunks),
                               plan.constants(shape, in[kU].dtype(),
                                              {{"kEach", shape.each},
                                               {"kSteps", shape.steps},
                                               {"kHasD", plan.has_D},
                                               {"kHasState", plan.has_state},
                                               {"kChunked", plan.chunks > 1},
                                               {"kKeep", keep}}),
                               plan.stream);
}

// Sums over groups are made, dtypes are those of the kernel.
struct Backward {
  mx::array u, delta, z;  // (B, L, D), T
  mx::array BC;           // (B, L, 2 N), T
  mx::array A;            // (D, N) float32
  mx::array D, bias;      // (D)
  mx::array first;        // (B, D, N) float32
  mx::array y;            // (B, L, D), T, where it was asked for
};

Backward backward(const Plan& plan, const std::vector<mx::array>& in, const mx::array& gy,
                  const std::optional<mx::array>& gstate, const mx::array& kept, bool of_y) {
  const mx::Stream& s = plan.stream;
  const mx::array& end = gstate ? *gstate : in[kA];  // a stand-in
  const mx::array last = plan.backward_chunks > 1 ? carries(plan, in, gy, end, gstate.has_value(), true) : end;
  const mx::Dtype dtype = in[kU].dtype();
  const int rows = plan.batch * plan.backward_chunks;
  const std::vector<mx::array> out =
      backward_kernel(plan.shape)({in[kU], in[kDelta], in[kA], in[kB], in[kC], in[kD], in[kZ], in[kDeltaBias],
                                   in[kSpans], in[kResets], gy, kept, last},
                                  {in[kU].shape(),
                                   in[kU].shape(),
                                   plan.has_z ? in[kU].shape() : mx::Shape{1},
                                   {plan.batch, plan.shape.blocks(plan.channels), plan.length, 2 * plan.states},
                                   {rows, plan.channels, plan.states},
                                   {rows, 2, plan.channels},
                                   {plan.batch, plan.channels, plan.states},
                                   of_y ? in[kU].shape() : mx::Shape{1}},
                                  {dtype, dtype, dtype, mx::float32, mx::float32, mx::float32, mx::float32, dtype},
                                  plan.grid(plan.shape, plan.backward_chunks),
                                  plan.constants(plan.shape, dtype,
                                                 {{"kHasD", plan.has_D},
                                                  {"kSteps", plan.shape.steps},
                                                  {"kChunked", plan.backward_chunks > 1},
                                                  {"kHasLast", plan.backward_chunks > 1 || gstate},
                                                  {"kGiveY", of_y}}),
                                  s);
  constexpr int kThreads = 256;
  const int columns = 2 * plan.states;
  const int groups = divide_up(plan.channels * plan.states, kThreads) + divide_up(2 * plan.channels, kThreads) +
                     static_cast<int>((int64_t{plan.batch} * plan.length * columns + kThreads - 1) / kThreads);
  const mx::Dtype D_dtype = in[kD].dtype();
  const mx::Dtype bias_dtype = in[kDeltaBias].dtype();
  const std::vector<mx::array> sums = sum_kernel()(
      {out[4], out[5], out[3]}, {in[kA].shape(), {plan.channels}, {plan.channels}, {plan.batch, plan.length, columns}},
      {mx::float32, D_dtype, bias_dtype, dtype}, {{groups, 1, 1}, kThreads},
      {{"T", dtype}, {"OfD", D_dtype}, {"OfBias", bias_dtype}, {"kThreads", kThreads}}, s);
  return {.u = out[0],
          .delta = out[1],
          .z = out[2],
          .BC = sums[3],
          .A = sums[0],
          .D = sums[1],
          .bias = sums[2],
          .first = out[6],
          .y = out[7]};
}

// The gradients of all inputs, in the order of Inputs; spans and resets have none.
std::vector<mx::array> gradients(const Plan& plan, const std::vector<mx::array>& in, const mx::array& gy,
                                 const std::optional<mx::array>& gstate, const mx::array& kept) {
  const mx::Stream& s = plan.stream;
  const Backward g = backward(plan, in, gy, gstate, kept, false);
  const auto columns = [&](int from) {
    return mx::slice(g.BC, {0, 0, from}, {plan.batch, plan.length, from + plan.states}, s);
  };
  return {g.u, g.delta, g.A, columns(0), columns(plan.states), g.D, g.z, g.bias, g.first};
}

bool is_traced(const std::optional<mx::array>& a) {
  return a && a->is_tracer();
}

bool is_traced(const SelectiveScanInputs& in) {
  return in.u.is_tracer() || in.delta.is_tracer() || in.A.is_tracer() || in.B.is_tracer() || in.C.is_tracer() ||
         is_traced(in.D) || is_traced(in.z) || is_traced(in.delta_bias) || is_traced(in.initial_state);
}

std::vector<mx::array> all_inputs(const SelectiveScanInputs& in, const mx::Stream& stream) {
  const mx::array A = gpu::contiguous(in.A, stream);
  const auto whole = [&](const std::optional<mx::array>& a) { return a ? gpu::contiguous(*a, stream) : A; };
  return {in.u,
          in.delta,
          A,
          in.B,
          in.C,
          whole(in.D),
          in.z ? *in.z : in.u,
          whole(in.delta_bias),
          whole(in.initial_state),
          whole(in.spans),
          whole(in.resets)};
}

Plan plan_of(const SelectiveScanInputs& in, Dealing dealing, const mx::Stream& stream) {
  const int batch = in.u.shape(0);
  const int length = in.u.ndim() == 3 ? in.u.shape(1) : 1;
  const int channels = in.u.shape(-1);
  const int states = in.A.shape(1);
  const Shape shape = shape_of(batch, length, channels, states, dealing);
  const int chunks = chunks_of(batch, length, channels, shape);
  const int bytes = static_cast<int>(in.u.itemsize());
  const Shape forward_shape = forward_shape_of(shape, batch, channels, chunks, bytes, dealing);
  const Shape backward_shape = shape == kTwoLanes && chunks > 1 ? kShortTiles : shape;
  const auto even = [&](const Shape& of, int registers) {
    return even_chunks(length, of, chunks, batch * of.blocks(channels), room_of(of, registers));
  };
  return {.shape = backward_shape,
          .forward_shape = forward_shape,
          .local_shape = local_shape_of(forward_shape),
          .chunks = even(forward_shape, forward_registers(forward_shape)),
          .backward_chunks = even(backward_shape, backward_registers(backward_shape)),
          .batch = batch,
          .length = length,
          .channels = channels,
          .states = states,
          .has_D = in.D.has_value(),
          .has_z = in.z.has_value(),
          .has_bias = in.delta_bias.has_value(),
          .has_state = in.initial_state.has_value(),
          .has_spans = in.spans.has_value(),
          .has_resets = in.resets.has_value(),
          .softplus = in.delta_softplus,
          .stream = stream};
}

}  // namespace

SelectiveScanOutputs gpu_scan(const SelectiveScanInputs& in, const mx::Stream& stream, Dealing dealing) {
  const Plan plan = plan_of(in, dealing, stream);
  if (plan.length == 0) {
    return {mx::zeros(in.u.shape(), in.u.dtype(), stream),
            in.initial_state ? *in.initial_state
                             : mx::zeros({plan.batch, plan.channels, plan.states}, mx::float32, stream)};
  }
  if (plan.length == 1 && !is_traced(in) && !in.spans && !in.resets) {
    SelectiveScanInputs one = in;
    for (mx::array* a : {&one.u, &one.delta, &one.B, &one.C}) {
      *a = mx::squeeze(*a, 1, stream);
    }
    if (one.z) {
      one.z = mx::squeeze(*one.z, 1, stream);
    }
    SelectiveScanOutputs out = gpu_step(one, stream);
    out.y = mx::expand_dims(out.y, 1, stream);
    return out;
  }
  const std::vector<mx::array> inputs = all_inputs(in, stream);
  if (!is_traced(in)) {
    const std::vector<mx::array> out = forward(plan, inputs, false);
    return {out[0], out[1]};
  }
  // Only what is there is differentiated: stand-ins for the rest are one of the others, to whose gradient zeros would
  // be added for each.
  const std::vector<bool> is_there = {true,       true,       true,          true,          true,
                                      plan.has_D, plan.has_z, plan.has_bias, plan.has_state};
  std::vector<mx::array> given;
  std::vector<size_t> places;  // among those given
  for (size_t i = 0; i < is_there.size(); ++i) {
    places.push_back(is_there[i] ? given.size() : size_t{i == kZ ? kU : kA});
    if (is_there[i]) {
      given.push_back(inputs[i]);
    }
  }
  const mx::array spans = plan.has_spans ? mx::stop_gradient(inputs[kSpans], stream) : inputs[kSpans];
  const mx::array resets = plan.has_resets ? mx::stop_gradient(inputs[kResets], stream) : inputs[kResets];
  const auto all_of = [=](const std::vector<mx::array>& primals) {
    std::vector<mx::array> all;
    for (const size_t place : places) {
      all.push_back(primals[place]);
    }
    all.push_back(plan.has_spans ? spans : primals[kA]);
    all.push_back(plan.has_resets ? resets : primals[kA]);
    return all;
  };
  const auto values = [=](const std::vector<mx::array>& primals) { return forward(plan, all_of(primals), true); };
  const auto vjp = [=](const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                       const std::vector<mx::array>& outputs) {
    const auto gstate =
        gpu::known_zero(cotangents[1]) ? std::nullopt : std::optional(gpu::contiguous(cotangents[1], plan.stream));
    const std::vector<mx::array> all = gradients(plan, all_of(primals), cotangents[0], gstate, outputs[2]);
    std::vector<mx::array> of_given = primals;
    for (size_t i = 0; i < places.size(); ++i) {
      if (is_there[i]) {
        of_given[places[i]] = all[i];
      }
    }
    return of_given;
  };
  const auto run = mx::custom_vjp(values, vjp);
  const std::vector<mx::array> out = run(given);
  return {out[0], out[1]};
}

SelectiveScanKept gpu_scan_kept(const SelectiveScanInputs& in, const mx::Stream& stream) {
  const std::vector<mx::array> out = forward(plan_of(in, Dealing::kBySize, stream), all_inputs(in, stream), true);
  return {out[0], out[1], out[2]};
}

SelectiveScanGradients gpu_scan_gradients(const SelectiveScanInputs& in, const mx::array& gy, const mx::array& kept,
                                          const mx::Stream& s) {
  const Backward g = backward(plan_of(in, Dealing::kBySize, s), all_inputs(in, s), gy, std::nullopt, kept, true);
  return {.u = g.u, .delta = g.delta, .A = g.A, .BC = g.BC, .D = g.D, .z = g.z, .delta_bias = g.bias, .y = g.y};
}

SelectiveScanOutputs gpu_step(const SelectiveScanInputs& in, const mx::Stream& stream) {
  if (is_traced(in)) {
    SelectiveScanInputs row = in;
    for (mx::array* a : {&row.u, &row.delta, &row.B, &row.C}) {
      *a = mx::expand_dims(*a, 1, stream);
    }
    if (row.z) {
      row.z = mx::expand_dims(*row.z, 1, stream);
    }
    SelectiveScanOutputs out = gpu_scan(row, stream);
    out.y = mx::squeeze(out.y, 1, stream);
    return out;
  }
  const std::vector<mx::array> all = all_inputs(in, stream);
  const int batch = in.u.shape(0);
  const int channels = in.u.shape(1);
  const int states = in.A.shape(1);
  const int lanes = states <= 16 ? 4 : 16;
  constexpr int kThreads = 128;
  const std::vector<mx::array> out =
      step_kernel()({all.begin(), all.begin() + kState + 1}, {in.u.shape(), {batch, channels, states}},
                    {in.u.dtype(), mx::float32}, {{divide_up(channels * lanes, kThreads), batch, 1}, kThreads},
                    {{"T", in.u.dtype()},
                     {"kLanes", lanes},
                     {"kThreads", kThreads},
                     {"kSoftplus", in.delta_softplus},
                     {"kHasD", in.D.has_value()},
                     {"kHasZ", in.z.has_value()},
                     {"kHasBias", in.delta_bias.has_value()},
                     {"kHasState", in.initial_state.has_value()}},
                    stream);
  return {out[0], out[1]};
}

}  // namespace mamba::ops::scan
