// For tests of the dialect: bodies that stand in the test itself.
#pragma once

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include "mamba/ops/gpu/dialect_host.h"
#include "mamba/ops/gpu/kernel.h"

namespace mamba::ops::gpu::dialect {

// out[group, thread] = what `body` computes from in[group, thread].
inline mlx::core::array run(void (*body)(const host::Launch&), const mlx::core::array& in, bool in_pairs = false) {
  set_host_body("probe", [](const host::Launch&) {});
  mlx::core::array out = mlx::core::zeros(in.shape());
  mlx::core::eval(out);
  host::Launch launch{{{"in", &in}}, {{"out", &out}}, {}, {in.shape(0), 1, 1}, in.shape(1)};
  launch.in_pairs = in_pairs;
  host::run(body, launch);
  return out;
}

}  // namespace mamba::ops::gpu::dialect
