// The launches of selective_scan's kernels on GPUs. Private to this folder.
#pragma once

#include <mlx/array.h>
#include <mlx/stream.h>

#include <optional>
#include <vector>

#include "mamba/ops/gpu/kernel.h"
#include "mamba/ops/selective_scan/gpu_plan.h"
#include "mamba/ops/selective_scan/selective_scan.h"

namespace mamba::ops::scan {

// All inputs there are, in this order, others as stand-ins that no kernel reads.
enum InputOfKernels { kU, kDelta, kA, kB, kC, kD, kZ, kDeltaBias, kState, kSpans, kResets, kInputs };

// How one call is dealt out, and what it is given.
struct Plan {
  Shape shape;          // of the backward pass
  Shape forward_shape;  // of the passes that need no sums over channels: forward,
  Shape local_shape;    // and what chunks add to a state
  int chunks;           // of the forward pass
  int backward_chunks;
  int batch, length, channels, states;
  bool has_D, has_z, has_bias, has_state, has_spans, has_resets, softplus;
  mlx::core::Stream stream;

  int segments() const { return divide_up(length, shape.segment); }
  // States of a group's channels are kept in a cell: `count` of them for each sequence.
  mlx::core::Shape cells(int count) const { return {batch, count, shape.blocks(channels), states, shape.channels()}; }
  gpu::Grid grid(const Shape& of, int depth) const { return {{of.blocks(channels), batch, depth}, of.threads}; }
  gpu::Constants constants(const Shape& of, mlx::core::Dtype dtype, gpu::Constants more) const;
};

Plan plan_of(const SelectiveScanInputs& in, Dealing dealing, const mlx::core::Stream& stream);

// What the forward pass leaves for the backward pass.
struct Kept {
  mlx::core::array cells;  // the states before all segments
  mlx::core::array done;   // depends on all that is written to them
};

struct Forward {
  mlx::core::array y, state;
  Kept kept;  // stand-ins where nothing was to be kept
};
Forward forward(const Plan& plan, const std::vector<mlx::core::array>& in, bool keep);

// Sums over groups are made, dtypes are those of the kernel.
struct Backward {
  mlx::core::array u, delta, z;  // (B, L, D), T
  mlx::core::array BC;           // (B, L, 2 N), T
  mlx::core::array A;            // (D, N) float32
  mlx::core::array D, bias;      // (D)
  mlx::core::array first;        // (B, D, N) float32, where there is an initial state
  mlx::core::array y;            // (B, L, D), T, where it was asked for
};

// `kept` is used up: shares of gradients come in its place.
Backward backward(const Plan& plan, const std::vector<mlx::core::array>& in, const mlx::core::array& gy,
                  const std::optional<mlx::core::array>& gstate, const Kept& kept, bool of_y);

}  // namespace mamba::ops::scan
