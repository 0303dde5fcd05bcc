#include "mamba/ops/causal_conv1d/causal_conv1d.h"

#include <mlx/ops.h>

#include <memory>
#include <vector>

#include "mamba/base/error.h"
#include "mamba/ops/causal_conv1d/gpu.h"
#include "mamba/ops/causal_conv1d/primitive.h"
#include "mamba/ops/causal_conv1d/reference.h"
#include "mamba/ops/dispatch.h"

namespace mamba::ops {

namespace mx = mlx::core;

namespace {

constexpr const char* kOp = "causal_conv1d";

void check_parameter(const char* name, const mx::array& a, const mx::array& x) {
  check(a.dtype() == mx::float32 || a.dtype() == x.dtype(), "[{}] {} must be float32 or have x's dtype {} but is {}",
        kOp, name, shown(x.dtype()), shown(a.dtype()));
}

// `ndim` 3: whole sequences, 2: one token.
void check_inputs(const CausalConv1dInputs& in, size_t ndim) {
  const mx::array& x = in.x;
  check_float(kOp, "x", x);
  check(x.ndim() == ndim, "[{}] x must be {} but has shape {}", kOp, ndim == 3 ? "(B, L, D)" : "(B, D)",
        shown(x.shape()));
  check(in.weight.ndim() == 2, "[{}] weight must be (D, K) but has shape {}", kOp, shown(in.weight.shape()));
  const int batch = x.shape(0);
  const int channels = x.shape(-1);
  const int taps = in.weight.shape(1);
  check(batch >= 1 && channels >= 1 && taps >= 1, "[{}] B, D and K must be at least 1 but x is {} and weight is {}",
        kOp, shown(x.shape()), shown(in.weight.shape()));
  check_shape(kOp, "weight", in.weight, {channels, taps});
  check_parameter("weight", in.weight, x);
  if (in.bias) {
    check_shape(kOp, "bias", *in.bias, {channels});
    check_parameter("bias", *in.bias, x);
  }
  if (in.initial_state) {
    check_shape(kOp, "initial_state", *in.initial_state, {batch, taps - 1, channels});
    check(in.initial_state->dtype() == x.dtype(), "[{}] initial_state must have x's dtype {} but has {}", kOp,
          shown(x.dtype()), shown(in.initial_state->dtype()));
  }
  if (ndim == 2) {
    check(!in.spans && !in.resets, "[{}] a step of one token takes neither spans nor resets", kOp);
    return;
  }
  if (in.spans) {
    check_shape(kOp, "spans", *in.spans, {batch, 2});
    check(in.spans->dtype() == mx::int32, "[{}] spans must be int32 but is {}", kOp, shown(in.spans->dtype()));
  }
  if (in.resets) {
    check_shape(kOp, "resets", *in.resets, {batch, x.shape(1)});
    check(in.resets->dtype() == mx::uint8, "[{}] resets must be uint8 but is {}", kOp, shown(in.resets->dtype()));
  }
}

CausalConv1dOutputs run(const CausalConv1dInputs& in, const mx::Stream& stream) {
  conv::Layout layout;
  layout.silu = in.silu;
  std::vector<mx::array> inputs = {in.x, in.weight};
  const auto append = [&](const std::optional<mx::array>& a, conv::Layout::Slot slot) {
    if (a) {
      layout.slots[slot] = static_cast<int>(inputs.size());
      inputs.push_back(*a);
    }
  };
  append(in.bias, conv::Layout::kBias);
  append(in.initial_state, conv::Layout::kInitialState);
  append(in.spans, conv::Layout::kSpans);
  append(in.resets, conv::Layout::kResets);
  const mx::Shape state = {in.x.shape(0), in.weight.shape(1) - 1, in.x.shape(-1)};
  std::vector<mx::array> outputs = mx::array::make_arrays({in.x.shape(), state}, {in.x.dtype(), in.x.dtype()},
                                                          std::make_shared<conv::CausalConv1d>(stream, layout), inputs);
  return {outputs[0], outputs[1]};
}

}  // namespace

CausalConv1dOutputs causal_conv1d(const CausalConv1dInputs& in, mx::StreamOrDevice s) {
  check_inputs(in, 3);
  const mx::Stream stream = mx::to_stream(s);
  if (!on_cpu(stream)) {
    if (in.weight.shape(1) <= conv::kMaxGpuTaps) {
      return conv::gpu_conv(in, stream);
    }
    report_missing_kernel(kOp, stream);
    return causal_conv1d_reference(in, stream);
  }
  return run(in, stream);
}

bool has_causal_conv1d_gradients(int taps, mx::StreamOrDevice s) {
  return !on_cpu(mx::to_stream(s)) && taps <= conv::kMaxGpuTaps;
}

CausalConv1dOutputs causal_conv1d_alone(const CausalConv1dInputs& in, mx::StreamOrDevice s) {
  check_inputs(in, 3);
  return conv::gpu_conv_alone(in, mx::to_stream(s));
}

CausalConv1dGradients causal_conv1d_gradients(const CausalConv1dInputs& in, const mx::array& gy, mx::StreamOrDevice s) {
  check_inputs(in, 3);
  return conv::gpu_conv_gradients(in, gy, mx::to_stream(s));
}

CausalConv1dOutputs causal_conv1d_step(const CausalConv1dInputs& in, mx::StreamOrDevice s) {
  check_inputs(in, 2);
  const mx::Stream stream = mx::to_stream(s);
  if (!on_cpu(stream)) {
    if (in.weight.shape(1) <= conv::kMaxGpuTaps) {
      return conv::gpu_step(in, stream);
    }
    report_missing_kernel(kOp, stream);
    CausalConv1dInputs row = in;
    row.x = mx::expand_dims(in.x, 1, stream);
    CausalConv1dOutputs out = causal_conv1d_reference(row, stream);
    out.y = mx::squeeze(out.y, 1, stream);
    return out;
  }
  return run(in, stream);
}

}  // namespace mamba::ops
