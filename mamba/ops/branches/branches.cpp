#include "mamba/ops/branches/branches.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>

#include "mamba/base/error.h"
#include "mamba/base/threads.h"
#include "mamba/ops/accumulate/accumulate.h"
#include "mamba/ops/cpu/node.h"
#include "mamba/ops/dispatch.h"

namespace mamba::ops {

namespace mx = mlx::core;

namespace {

constexpr const char* kOp = "column_branches";

struct Settings {
  bool operator==(const Settings&) const = default;
};

struct Part {
  const std::byte* data;
  size_t stride;  // bytes from one row to the next
  size_t bytes;   // of a row
};

// Inputs: matrices with as many rows. Output: they side by side.
class JoinColumns : public cpu::CpuGradientNode<JoinColumns, Settings> {
 public:
  static constexpr const char* kOp = "column_branches";
  using CpuGradientNode::CpuGradientNode;

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    mx::cpu::CommandEncoder& encoder = mx::cpu::get_command_encoder(stream());
    mx::array& out = outputs[0];
    allocate(out);
    encoder.set_output_array(out);
    std::vector<Part> parts;
    for (const mx::array& input : inputs) {
      const mx::array in = readable_rows(input, encoder);
      encoder.set_input_array(in);
      parts.push_back({in.data<std::byte>(), static_cast<size_t>(in.strides(0)) * in.itemsize(),
                       static_cast<size_t>(in.shape(1)) * in.itemsize()});
    }
    const size_t row_bytes = static_cast<size_t>(out.shape(1)) * out.itemsize();
    constexpr size_t kBytesAtOnce = 1 << 16;
    const auto grain = static_cast<int64_t>(std::max<size_t>(1, kBytesAtOnce / std::max<size_t>(1, row_bytes)));
    encoder.dispatch([parts = std::move(parts), rows = out.shape(0), row_bytes, grain, to = out.data<std::byte>()] {
      parallel_for(rows, grain, [&](int64_t begin, int64_t end) {
        std::byte* at = to + static_cast<size_t>(begin) * row_bytes;
        for (auto row = static_cast<size_t>(begin); row < static_cast<size_t>(end); ++row) {
          for (const Part& part : parts) {
            std::memcpy(at, part.data + row * part.stride, part.bytes);
            at += part.bytes;
          }
        }
      });
    });
  }

  const char* name() const override { return "JoinColumns"; }
};

mx::array join_columns(const std::vector<mx::array>& parts, const mx::Shape& shape, const mx::Stream& stream) {
  int rows = 1;
  for (size_t axis = 0; axis + 1 < shape.size(); ++axis) {
    rows *= shape[axis];
  }
  std::vector<mx::array> matrices;
  for (const mx::array& part : parts) {
    matrices.push_back(mx::reshape(part, {rows, part.shape(-1)}, stream));
  }
  const mx::array joined({rows, shape.back()}, parts[0].dtype(), std::make_shared<JoinColumns>(stream, Settings{}),
                         matrices);
  return mx::reshape(joined, shape, stream);
}

}  // namespace

std::vector<mx::array> column_branches(const mx::array& x, const std::vector<int>& widths, mx::StreamOrDevice s) {
  check(x.ndim() > 0 && !widths.empty(), "[{}] x must have columns and widths must name some", kOp);
  check_float(kOp, "x", x);
  mx::Shape ends;
  int64_t sum = 0;
  for (const int width : widths) {
    check(width >= 0, "[{}] a width must not be negative but is {}", kOp, width);
    sum += width;
    ends.push_back(static_cast<int>(std::min<int64_t>(sum, x.shape(-1))));
  }
  check(sum == x.shape(-1), "[{}] the widths are {} columns but x has {}", kOp, sum, x.shape(-1));
  ends.pop_back();
  const mx::Stream stream = mx::to_stream(s);
  const auto split = [ends, stream](const std::vector<mx::array>& in) { return mx::split(in[0], ends, -1, stream); };
  if (!x.is_tracer() || !on_cpu(stream)) {
    return split({x});
  }
  return mx::custom_vjp(split, [stream](const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                                        const std::vector<mx::array>&) {
    return std::vector{join_columns(cotangents, primals[0].shape(), stream)};
  })({x});
}

std::pair<mx::array, mx::array> two_branches(const mx::array& x, mx::StreamOrDevice s) {
  check_float("two_branches", "x", x);
  const mx::Stream stream = mx::to_stream(s);
  if (!x.is_tracer() || !on_cpu(stream)) {
    return {x, x};
  }
  const auto twice = [](const std::vector<mx::array>& in) { return std::vector{in[0], in[0]}; };
  const std::vector<mx::array> out = mx::custom_vjp(
      twice,
      [stream](const std::vector<mx::array>&, const std::vector<mx::array>& cotangents, const std::vector<mx::array>&) {
        return std::vector{accumulate(cotangents[0], cotangents[1], stream)};
      })({x});
  return {out[0], out[1]};
}

}  // namespace mamba::ops
