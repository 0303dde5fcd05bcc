#include "mamba/ops/training_block/training_block.h"

#include <initializer_list>
#include <memory>
#include <utility>
#include <vector>

#include "mamba/base/error.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/linear/at_once.h"
#include "mamba/ops/selective_scan/kernel.h"
#include "mamba/ops/training_block/node.h"

namespace mamba::ops {

namespace mx = mlx::core;

namespace {

constexpr const char* kOp = "training_block";
constexpr int64_t kMostRows = 4096;

void check_inputs(const TrainingBlockInputs& in) {
  check(in.x.ndim() == 3 && in.A.ndim() == 2 && in.conv_weight.ndim() == 2 && in.dt_proj.ndim() == 2,
        "[{}] x must be (B, L, M), A (D, N), conv_weight (D, K) and dt_proj (D, R) but they are {}, {}, {} and {}", kOp,
        shown(in.x.shape()), shown(in.A.shape()), shown(in.conv_weight.shape()), shown(in.dt_proj.shape()));
  const int batch = in.x.shape(0), length = in.x.shape(1), width = in.x.shape(2);
  const int inner = in.A.shape(0), states = in.A.shape(1), rank = in.dt_proj.shape(1), taps = in.conv_weight.shape(1);
  check_shape(kOp, "norm", in.norm, {width});
  check_shape(kOp, "in_proj", in.in_proj, {2 * inner, width});
  check_shape(kOp, "conv_weight", in.conv_weight, {inner, taps});
  check_shape(kOp, "x_proj", in.x_proj, {rank + 2 * states, inner});
  check_shape(kOp, "dt_proj", in.dt_proj, {inner, rank});
  check_shape(kOp, "D", in.D, {inner});
  check_shape(kOp, "dt_bias", in.dt_bias, {inner});
  check_shape(kOp, "out_proj", in.out_proj, {width, inner});
  check_shape(kOp, "conv", in.conv, {batch, taps - 1, inner});
  check_shape(kOp, "ssm", in.ssm, {batch, inner, states});
  if (in.residual) {
    check_shape(kOp, "residual", *in.residual, {batch, length, width});
  }
  if (in.conv_bias) {
    check_shape(kOp, "conv_bias", *in.conv_bias, {inner});
  }
  if (in.resets) {
    check_shape(kOp, "resets", *in.resets, {batch, length});
  }
}

}  // namespace

bool can_train_block(const TrainingBlockInputs& in, mx::Dtype residual_dtype, mx::StreamOrDevice s) {
  const mx::Dtype dtype = in.x.dtype();
  if (!on_cpu(mx::to_stream(s)) || in.x.ndim() != 3 || in.x.size() == 0 || !mx::issubdtype(dtype, mx::floating) ||
      in.x.shape(1) < linear_detail::kFewestManyRows || int64_t{in.x.shape(0)} * in.x.shape(1) > kMostRows) {
    return false;
  }
  for (const mx::array* a : {&in.in_proj, &in.x_proj, &in.dt_proj, &in.out_proj, &in.conv}) {
    if (a->dtype() != dtype) {
      return false;
    }
  }
  for (const mx::array* a : {&in.A, &in.D, &in.dt_bias, &in.ssm}) {
    if (a->dtype() != mx::float32) {
      return false;
    }
  }
  // Where there is nothing to add and to widen, the sum is x itself.
  const bool has_sum = in.residual || residual_dtype != dtype;
  return has_sum && (residual_dtype == mx::float32 || residual_dtype == dtype) &&
         (!in.residual || in.residual->dtype() == mx::float32 || in.residual->dtype() == dtype) &&
         (!in.resets || in.resets->dtype() == mx::uint8);
}

TrainingBlockOutputs training_block(const TrainingBlockInputs& in, mx::Dtype residual_dtype, mx::StreamOrDevice s) {
  using training_block_detail::kOptional;
  check_inputs(in);
  check(can_train_block(in, residual_dtype, s), "[{}] x {} {} cannot be taken at once here", kOp, shown(in.x.shape()),
        shown(in.x.dtype()));
  training_block_detail::Settings settings{.eps = in.eps};
  std::vector<mx::array> inputs = {in.x,        in.norm, in.in_proj, in.conv_weight, in.x_proj, in.dt_proj,
                                   in.out_proj, in.A,    in.D,       in.dt_bias,     in.conv,   in.ssm};
  const auto append = [&](const std::optional<mx::array>& a, int& index) {
    if (a) {
      index = static_cast<int>(inputs.size());
      inputs.push_back(*a);
    }
  };
  append(in.residual, settings.residual);
  append(in.conv_bias, settings.conv_bias);
  append(in.resets, settings.resets);
  settings.inputs = static_cast<int>(inputs.size());

  const int batch = in.x.shape(0), length = in.x.shape(1);
  const int inner = in.A.shape(0), states = in.A.shape(1), rank = in.dt_proj.shape(1);
  const mx::Dtype dtype = in.x.dtype();
  const mx::Shape inner_shape = {batch, length, inner};
  std::vector<mx::array> out = mx::array::make_arrays(
      {in.x.shape(),
       in.x.shape(),
       in.conv.shape(),
       in.ssm.shape(),
       in.x.shape(),
       {batch, length, 2 * inner},
       inner_shape,
       {batch, length, rank + 2 * states},
       inner_shape,
       inner_shape,
       {batch, static_cast<int>(scan::num_kept(length)), static_cast<int>(scan::num_blocks(inner)), states,
        static_cast<int>(scan::kBlock)}},
      {dtype, residual_dtype, dtype, mx::float32, dtype, dtype, dtype, dtype, dtype, dtype, mx::float32},
      std::make_shared<training_block_detail::TrainingBlock>(mx::to_stream(s), settings), inputs);
  return {std::move(out[0]), std::move(out[1]), std::move(out[2]), std::move(out[3])};
}

}  // namespace mamba::ops
