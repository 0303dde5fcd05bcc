#include "mamba/ops/training_block/arrays.h"

#include <algorithm>
#include <cstddef>

#include "mamba/ops/linear/sequences.h"

namespace mamba::ops::training_block_detail {

namespace mx = mlx::core;

Arrays::Arrays(const std::vector<mx::array>& inputs, const Settings& settings, mx::cpu::CommandEncoder& encoder) {
  const auto read = [&](int i) {
    const mx::array array = row_contiguous(inputs[static_cast<size_t>(i)], encoder);
    encoder.set_input_array(array);
    return array;
  };
  const mx::array& in = inputs[kX];
  batch = in.shape(0);
  length = in.shape(1);
  width = in.shape(2);
  inner = inputs[kA].shape(0);
  states = inputs[kA].shape(1);
  rank = inputs[kDtProj].shape(1);
  taps = inputs[kConvWeight].shape(1);
  eps = settings.eps;
  element = cpu::element_of(in);
  type = linear_detail::float_type(in.dtype());
  x = cpu::rows_of(read(kX));
  residual_element = element;
  if (settings.residual >= 0) {
    const mx::array sum = read(settings.residual);
    residual = cpu::rows_of(sum);
    residual_element = cpu::element_of(sum);
  }
  norm = cpu::numbers_of(read(kNorm));
  wide_norm = workspace(width, encoder);
  in_proj = linear_detail::matrix_of(read(kInProj));
  x_proj = linear_detail::matrix_of(read(kXProj));
  dt_proj = linear_detail::matrix_of(read(kDtProj));
  out_proj = linear_detail::matrix_of(read(kOutProj));
  const uint8_t* const resets = settings.resets < 0 ? nullptr : read(settings.resets).data<uint8_t>();
  conv = {.batch = batch,
          .length = length,
          .channels = inner,
          .taps = taps,
          .element = element,
          .silu = true,
          .x = {},
          .weight = cpu::numbers_of(read(kConvWeight)),
          .bias = settings.conv_bias < 0 ? cpu::Numbers{} : cpu::numbers_of(read(settings.conv_bias)),
          .initial_state = read(kConvState).data<void>(),
          .spans = nullptr,
          .resets = resets,
          .packed = workspace(conv::packed_floats(inner, taps), encoder)};
  scan = {.batch = batch,
          .length = length,
          .channels = inner,
          .states = states,
          .element = element,
          .softplus = true,
          .u = {},
          .delta = {},
          .B = {},
          .C = {},
          .z = {},
          .A = read(kA).data<float>(),
          .D = cpu::numbers_of(read(kD)),
          .delta_bias = cpu::numbers_of(read(kDtBias)),
          .initial_state = read(kSsmState).data<float>(),
          .spans = nullptr,
          .resets = resets};
}

int64_t Arrays::workspace_floats(const linear_detail::ProductsAtOnce& products) const {
  return std::max({products.workspace(2 * inner, width, type), products.workspace(projected(), inner, type),
                   products.workspace(inner, rank, type), products.workspace(width, inner, type)});
}

void Arrays::place(const Between& places) {
  between = places;
  conv.x = rows(places.xz, 2 * inner);
  scan.u = rows(places.conv, inner);
  scan.delta = rows(places.delta, inner);
  scan.B = rows(places.dt_B_C, projected(), rank);
  scan.C = rows(places.dt_B_C, projected(), rank + states);
  scan.z = rows(places.xz, 2 * inner, inner);
}

void* Arrays::at(void* data, int64_t index) const {
  return static_cast<std::byte*>(data) + index * linear_detail::size_of(type);
}

Matrix Arrays::matrix(const void* data, int64_t stride, int64_t first) const {
  const auto* const from = static_cast<const std::byte*>(data) + first * linear_detail::size_of(type);
  return {.data = from, .stride = stride, .type = type};
}

MatrixPlace Arrays::place_of(void* data, int64_t stride, int64_t first) const {
  return {.data = at(data, first), .stride = stride, .type = type};
}

cpu::Rows Arrays::rows(const void* data, int64_t stride, int64_t first) const {
  return {matrix(data, stride, first).data, length * stride, stride};
}

}  // namespace mamba::ops::training_block_detail
