#include "mamba/ops/causal_conv1d/gpu.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <vector>

#include "mamba/ops/gpu/kernel.h"

namespace mamba::embedded {
std::string_view gpu_conv_forward();
std::string_view gpu_conv_backward();
std::string_view gpu_conv_step();
}  // namespace mamba::embedded

namespace mamba::ops::conv {

namespace mx = mlx::core;
using gpu::Constants;
using gpu::Grid;
using gpu::Kernel;

namespace {

constexpr int kThreads = 128;
constexpr int kRun = 16;  // positions of a thread
constexpr int kTile = 4;  // backwards, at a time
constexpr int kTiles = 16;

int divide_up(int a, int b) {
  return (a + b - 1) / b;
}

// All inputs there are, others as stand-ins that no kernel reads.
enum Inputs { kX, kWeight, kBias, kState, kSpans, kResets, kInputs };

const Kernel& forward_kernel() {
  static const Kernel kernel("mamba_conv_forward", embedded::gpu_conv_forward(),
                             {"x", "weight", "bias", "first", "spans", "resets"}, {"y", "state"});
  return kernel;
}

const Kernel& backward_kernel() {
  static const Kernel kernel("mamba_conv_backward", embedded::gpu_conv_backward(),
                             {"x", "weight", "bias", "first", "spans", "resets", "gy", "gstate"},
                             {"gx", "gfirst", "part_weight", "part_bias"});
  return kernel;
}

const Kernel& step_kernel() {
  static const Kernel kernel("mamba_conv_step", embedded::gpu_conv_step(), {"x", "weight", "bias", "first"},
                             {"y", "state"});
  return kernel;
}

struct Plan {
  bool has_bias, has_state, has_spans, has_resets, silu;
  mx::Stream stream;

  Constants constants(const std::vector<mx::array>& in) const {
    return {{"T", in[kX].dtype()},  {"kTaps", in[kWeight].shape(1)}, {"kThreads", kThreads},
            {"kHasBias", has_bias}, {"kHasState", has_state},        {"kSilu", silu}};
  }

  Constants walk_constants(const std::vector<mx::array>& in) const {
    Constants all = constants(in);
    all.insert(all.end(), {{"kHasSpans", has_spans}, {"kHasResets", has_resets}});
    return all;
  }
};

mx::Shape state_shape(const std::vector<mx::array>& in) {
  return {in[kX].shape(0), in[kWeight].shape(1) - 1, in[kX].shape(-1)};
}

std::vector<mx::array> forward(const Plan& plan, const std::vector<mx::array>& in) {
  const mx::array& x = in[kX];
  const int each = x.itemsize() == 2 ? 2 : 1;  // a word of a row to a thread
  const int groups = divide_up(x.shape(2), kThreads * each) * (divide_up(x.shape(1), kRun) + 1);
  Constants constants = plan.walk_constants(in);
  constants.insert(constants.end(), {{"kRun", kRun}, {"kEach", each}});
  return forward_kernel()(in, {x.shape(), state_shape(in)}, {x.dtype(), x.dtype()}, {{groups, x.shape(0), 1}, kThreads},
                          constants, plan.stream);
}

std::vector<mx::array> backward(const Plan& plan, const std::vector<mx::array>& in, const mx::array& gy,
                                const std::optional<mx::array>& gstate) {
  const mx::Stream& s = plan.stream;
  const mx::array& x = in[kX];
  const int taps = in[kWeight].shape(1);
  const int channels = x.shape(2);
  const int ranges = divide_up(x.shape(1), kTiles * kTile - (taps - 1));
  const int rows = x.shape(0) * ranges;
  Constants constants = plan.walk_constants(in);
  constants.insert(constants.end(), {{"kTile", kTile}, {"kTiles", kTiles}, {"kHasLast", gstate.has_value()}});
  std::vector<mx::array> inputs = in;
  inputs.insert(inputs.end(), {gy, gstate ? gpu::contiguous(*gstate, s) : in[kWeight]});
  const std::vector<mx::array> out =
      backward_kernel()(inputs, {x.shape(), state_shape(in), {rows, channels, taps}, {rows, channels}},
                        {x.dtype(), x.dtype(), mx::float32, mx::float32},
                        {{divide_up(channels, kThreads) * (ranges + 1), x.shape(0), 1}, kThreads}, constants, s);
  const auto absent = [&](int i) { return mx::zeros_like(in[i], s); };
  return {out[0],
          mx::astype(mx::sum(out[2], 0, false, s), in[kWeight].dtype(), s),
          plan.has_bias ? mx::astype(mx::sum(out[3], 0, false, s), in[kBias].dtype(), s) : absent(kBias),
          plan.has_state ? out[1] : absent(kState),
          absent(kSpans),
          absent(kResets)};
}

bool is_traced(const CausalConv1dInputs& in) {
  return in.x.is_tracer() || in.weight.is_tracer() || (in.bias && in.bias->is_tracer()) ||
         (in.initial_state && in.initial_state->is_tracer());
}

Plan plan_of(const CausalConv1dInputs& in, const mx::Stream& stream) {
  return {.has_bias = in.bias.has_value(),
          .has_state = in.initial_state.has_value(),
          .has_spans = in.spans.has_value(),
          .has_resets = in.resets.has_value(),
          .silu = in.silu,
          .stream = stream};
}

std::vector<mx::array> all_inputs(const CausalConv1dInputs& in, const mx::Stream& stream) {
  const mx::array weight = gpu::contiguous(in.weight, stream);
  const auto whole = [&](const std::optional<mx::array>& a) { return a ? gpu::contiguous(*a, stream) : weight; };
  return {in.x, weight, whole(in.bias), whole(in.initial_state), whole(in.spans), whole(in.resets)};
}

}  // namespace

CausalConv1dOutputs gpu_conv(const CausalConv1dInputs& in, const mx::Stream& stream) {
  const std::vector<mx::array> inputs = all_inputs(in, stream);
  if (in.x.shape(1) == 0) {
    return {mx::zeros(in.x.shape(), in.x.dtype(), stream),
            in.initial_state ? *in.initial_state : mx::zeros(state_shape(inputs), in.x.dtype(), stream)};
  }
  if (in.x.shape(1) == 1 && !is_traced(in) && !in.spans && !in.resets) {
    CausalConv1dInputs one = in;
    one.x = mx::squeeze(in.x, 1, stream);
    CausalConv1dOutputs out = gpu_step(one, stream);
    out.y = mx::expand_dims(out.y, 1, stream);
    return out;
  }
  const Plan plan = plan_of(in, stream);
  if (!is_traced(in)) {
    const std::vector<mx::array> out = forward(plan, inputs);
    return {out[0], out[1]};
  }
  const auto run = mx::custom_vjp(
      [plan](const std::vector<mx::array>& primals) { return forward(plan, primals); },
      [plan](const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
             const std::vector<mx::array>&) { return backward(plan, primals, cotangents[0], cotangents[1]); });
  const std::vector<mx::array> out = run(inputs);
  return {out[0], out[1]};
}

CausalConv1dOutputs gpu_conv_alone(const CausalConv1dInputs& in, const mx::Stream& stream) {
  const std::vector<mx::array> out = forward(plan_of(in, stream), all_inputs(in, stream));
  return {out[0], out[1]};
}

CausalConv1dGradients gpu_conv_gradients(const CausalConv1dInputs& in, const mx::array& gy, const mx::Stream& stream) {
  const std::vector<mx::array> out = backward(plan_of(in, stream), all_inputs(in, stream), gy, std::nullopt);
  return {.x = out[0], .weight = out[1], .bias = out[2]};
}

CausalConv1dOutputs gpu_step(const CausalConv1dInputs& in, const mx::Stream& stream) {
  if (is_traced(in)) {
    CausalConv1dInputs row = in;
    row.x = mx::expand_dims(in.x, 1, stream);
    CausalConv1dOutputs out = gpu_conv(row, stream);
    out.y = mx::squeeze(out.y, 1, stream);
    return out;
  }
  const Plan plan = plan_of(in, stream);
  const std::vector<mx::array> all = all_inputs(in, stream);
  const std::vector<mx::array> out = step_kernel()(
      {all.begin(), all.begin() + kState + 1}, {in.x.shape(), state_shape(all)}, {in.x.dtype(), in.x.dtype()},
      {{divide_up(in.x.shape(1), kThreads), in.x.shape(0), 1}, kThreads}, plan.constants(all), stream);
  return {out[0], out[1]};
}

}  // namespace mamba::ops::conv
