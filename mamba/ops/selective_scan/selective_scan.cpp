#include "mamba/ops/selective_scan/selective_scan.h"

#include <mlx/ops.h>
#include <mlx/primitives.h>

#include <memory>
#include <vector>

#include "mamba/base/error.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/selective_scan/gpu.h"
#include "mamba/ops/selective_scan/kernel.h"
#include "mamba/ops/selective_scan/primitive.h"
#include "mamba/ops/selective_scan/reference.h"

namespace mamba::ops {

namespace mx = mlx::core;

namespace {

constexpr const char* kOp = "selective_scan";

void check_same_dtype(const char* name, const mx::array& a, const mx::array& u) {
  check(a.dtype() == u.dtype(), "[{}] {} must have u's dtype {} but has {}", kOp, name, shown(u.dtype()),
        shown(a.dtype()));
}

void check_dtype(const char* name, const mx::array& a, mx::Dtype dtype) {
  check(a.dtype() == dtype, "[{}] {} must be {} but is {}", kOp, name, shown(dtype), shown(a.dtype()));
}

void check_per_channel(const char* name, const std::optional<mx::array>& a, const mx::array& u, int channels) {
  if (a) {
    check_shape(kOp, name, *a, {channels});
    check(a->dtype() == mx::float32 || a->dtype() == u.dtype(),
          "[{}] {} must be float32 or have u's dtype {} but is {}", kOp, name, shown(u.dtype()), shown(a->dtype()));
  }
}

// `ndim` 3: whole sequences, 2: one token.
void check_inputs(const SelectiveScanInputs& in, size_t ndim) {
  const mx::array& u = in.u;
  check_float(kOp, "u", u);
  check(u.ndim() == ndim, "[{}] u must be {} but has shape {}", kOp, ndim == 3 ? "(B, L, D)" : "(B, D)",
        shown(u.shape()));
  check(in.A.ndim() == 2, "[{}] A must be (D, N) but has shape {}", kOp, shown(in.A.shape()));
  const int batch = u.shape(0);
  const int channels = u.shape(-1);
  const int states = in.A.shape(1);
  check(batch >= 1 && channels >= 1 && states >= 1, "[{}] B, D and N must be at least 1 but u is {} and A is {}", kOp,
        shown(u.shape()), shown(in.A.shape()));
  check_shape(kOp, "A", in.A, {channels, states});
  check_dtype("A", in.A, mx::float32);
  mx::Shape rows = u.shape();
  const auto check_rows = [&](const char* name, const mx::array& a, int columns) {
    rows.back() = columns;
    check(a.shape() == rows, "[{}] {} must be {} but got {}", kOp, name, shown(rows), shown(a.shape()));
    check_same_dtype(name, a, u);
  };
  check_rows("delta", in.delta, channels);
  check_rows("B", in.B, states);
  check_rows("C", in.C, states);
  if (in.z) {
    check_rows("z", *in.z, channels);
  }
  check_per_channel("D", in.D, u, channels);
  check_per_channel("delta_bias", in.delta_bias, u, channels);
  if (in.initial_state) {
    check_shape(kOp, "initial_state", *in.initial_state, {batch, channels, states});
    check_dtype("initial_state", *in.initial_state, mx::float32);
  }
  if (ndim == 2) {
    check(!in.spans && !in.resets, "[{}] a step of one token takes neither spans nor resets", kOp);
    return;
  }
  if (in.spans) {
    check_shape(kOp, "spans", *in.spans, {batch, 2});
    check_dtype("spans", *in.spans, mx::int32);
  }
  if (in.resets) {
    check_shape(kOp, "resets", *in.resets, {batch, u.shape(1)});
    check_dtype("resets", *in.resets, mx::uint8);
  }
}

SelectiveScanOutputs run(const SelectiveScanInputs& in, const mx::Stream& stream) {
  scan::Layout layout;
  layout.softplus = in.delta_softplus;
  std::vector<mx::array> inputs = {in.u, in.delta, in.A, in.B, in.C};
  const auto append = [&](const std::optional<mx::array>& a, scan::Layout::Slot slot) {
    if (a) {
      layout.slots[slot] = static_cast<int>(inputs.size());
      inputs.push_back(*a);
    }
  };
  append(in.D, scan::Layout::kD);
  append(in.z, scan::Layout::kZ);
  append(in.delta_bias, scan::Layout::kDeltaBias);
  append(in.initial_state, scan::Layout::kInitialState);
  append(in.spans, scan::Layout::kSpans);
  append(in.resets, scan::Layout::kResets);
  const int channels = in.u.shape(-1);
  const int states = in.A.shape(1);
  const int batch = in.u.shape(0);
  const int length = in.u.ndim() == 3 ? in.u.shape(1) : 1;
  std::vector<mx::array> outputs = mx::array::make_arrays(
      {in.u.shape(),
       {batch, channels, states},
       {batch, static_cast<int>(scan::num_kept(length)), static_cast<int>(scan::num_blocks(channels)), states,
        static_cast<int>(scan::kBlock)}},
      {in.u.dtype(), mx::float32, mx::float32}, std::make_shared<scan::SelectiveScan>(stream, layout), inputs);
  return {outputs[0], outputs[1]};
}

}  // namespace

SelectiveScanOutputs selective_scan(const SelectiveScanInputs& in, mx::StreamOrDevice s) {
  check_inputs(in, 3);
  const mx::Stream stream = mx::to_stream(s);
  if (!on_cpu(stream)) {
    if (in.A.shape(1) <= scan::kMaxGpuStates) {
      return scan::gpu_scan(in, stream);
    }
    report_missing_kernel(kOp, stream);
    return selective_scan_reference(in, stream);
  }
  return run(in, stream);
}

bool has_selective_scan_gradients(int states, mx::StreamOrDevice s) {
  return !on_cpu(mx::to_stream(s)) && states <= scan::kMaxGpuStates;
}

SelectiveScanKept selective_scan_kept(const SelectiveScanInputs& in, mx::StreamOrDevice s) {
  check_inputs(in, 3);
  return scan::gpu_scan_kept(in, mx::to_stream(s));
}

SelectiveScanGradients selective_scan_gradients(const SelectiveScanInputs& in, const mx::array& gy,
                                                const mx::array& kept, const mx::array& kept_done,
                                                mx::StreamOrDevice s) {
  check_inputs(in, 3);
  check(in.D && in.z && in.delta_bias, "[{}] gradients are written out for D, z and delta_bias only", kOp);
  return scan::gpu_scan_gradients(in, gy, kept, kept_done, mx::to_stream(s));
}

SelectiveScanOutputs selective_scan_step(const SelectiveScanInputs& in, mx::StreamOrDevice s) {
  check_inputs(in, 2);
  const mx::Stream stream = mx::to_stream(s);
  if (!on_cpu(stream)) {
    if (in.A.shape(1) <= scan::kMaxGpuStates) {
      return scan::gpu_step(in, stream);
    }
    report_missing_kernel(kOp, stream);
    SelectiveScanInputs row = in;
    for (mx::array* a : {&row.u, &row.delta, &row.B, &row.C}) {
      *a = mx::expand_dims(*a, 1, stream);
    }
    if (row.z) {
      row.z = mx::expand_dims(*row.z, 1, stream);
    }
    SelectiveScanOutputs out = selective_scan_reference(row, stream);
    out.y = mx::squeeze(out.y, 1, stream);
    return out;
  }
  return run(in, stream);
}

}  // namespace mamba::ops
