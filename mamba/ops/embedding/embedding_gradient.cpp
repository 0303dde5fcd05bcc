#include "mamba/ops/embedding/embedding_gradient.h"

#include <mlx/ops.h>

#include <memory>
#include <utility>
#include <vector>

#include "mamba/base/error.h"
#include "mamba/ops/cpu/node.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/embedding/gpu.h"
#include "mamba/ops/embedding/kernel.h"

namespace mamba::ops {

namespace mx = mlx::core;

namespace {

constexpr const char* kOp = "embedding_gradient";

struct Settings {
  int rows;
  bool operator==(const Settings&) const = default;
};

// Inputs: tokens, dy and, where there is one, the base.
class EmbeddingGradient : public cpu::CpuGradientNode<EmbeddingGradient, Settings> {
 public:
  static constexpr const char* kOp = "embedding_gradient";
  using CpuGradientNode::CpuGradientNode;

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    mx::cpu::CommandEncoder& encoder = mx::cpu::get_command_encoder(stream());
    mx::array& out = outputs[0];
    const mx::array tokens = row_contiguous(inputs[0], encoder);
    const mx::array dy = row_contiguous(inputs[1], encoder);
    encoder.set_input_array(tokens);
    encoder.set_input_array(dy);
    embedding_detail::Job job{};
    const bool has_base = inputs.size() == 3;
    if (has_base && inputs[2].dtype() == out.dtype() && take_over(inputs[2], out)) {
      job.base = cpu::numbers_of(out);
    } else {
      allocate(out);
      if (has_base) {
        const mx::array base = row_contiguous(inputs[2], encoder);
        encoder.set_input_array(base);
        job.base = cpu::numbers_of(base);
      }
    }
    encoder.set_output_array(out);
    job.tokens = tokens.data<int32_t>();
    job.count = static_cast<int64_t>(tokens.size());
    job.dy = cpu::numbers_of(dy);
    job.rows = out.shape(0);
    job.width = out.shape(1);
    job.out = out.data<void>();
    job.out_element = cpu::element_of(out);
    // As many numbers of 32 bits; what runs later allocates nothing.
    job.order = reinterpret_cast<int32_t*>(workspace(job.count, encoder));
    encoder.dispatch([job] { embedding_detail::gradient(job); });
  }

  const char* name() const override { return "EmbeddingGradient"; }
};

}  // namespace

mx::array embedding_gradient(const mx::array& tokens, const mx::array& dy, int rows, std::optional<mx::array> base,
                             mx::Dtype dtype, mx::StreamOrDevice s) {
  check(tokens.dtype() == mx::int32, "[{}] tokens must be int32 but are {}", kOp, shown(tokens.dtype()));
  check_float(kOp, "dy", dy);
  mx::Shape expected = tokens.shape();
  expected.push_back(dy.ndim() == 0 ? 0 : dy.shape(-1));
  check(dy.shape() == expected, "[{}] dy must be {} but got {}", kOp, shown(expected), shown(dy.shape()));
  check(mx::issubdtype(dtype, mx::floating) && dtype != mx::float64, "[{}] the result cannot be {}", kOp, shown(dtype));
  const mx::Shape shape = {rows, dy.shape(-1)};
  if (base) {
    check_float(kOp, "base", *base);
    check(base->shape() == shape, "[{}] base must be {} but got {}", kOp, shown(shape), shown(base->shape()));
  }
  const mx::Stream stream = mx::to_stream(s);
  if (!on_cpu(stream)) {
    return embedding_detail::gpu_gradient(tokens, dy, rows, base, dtype, stream);
  }
  std::vector<mx::array> inputs = {tokens, dy};
  if (base) {
    inputs.push_back(std::move(*base));
  }
  return mx::array(shape, dtype, std::make_shared<EmbeddingGradient>(stream, Settings{rows}), std::move(inputs));
}

mx::array embedding_gradient_reference(const mx::array& tokens, const mx::array& dy, int rows,
                                       const std::optional<mx::array>& base, mx::Dtype dtype, mx::StreamOrDevice s) {
  const int width = dy.shape(-1);
  const auto count = static_cast<int>(tokens.size());
  const mx::array start = base ? mx::astype(*base, mx::float32, s) : mx::zeros({rows, width}, mx::float32, s);
  const mx::array inside =
      mx::logical_and(mx::greater_equal(tokens, mx::array(0), s), mx::less(tokens, mx::array(rows), s), s);
  const mx::array index = mx::reshape(mx::where(inside, tokens, mx::array(0), s), {count}, s);
  const mx::array counted =
      mx::where(mx::expand_dims(inside, -1, s), mx::astype(dy, mx::float32, s), mx::array(0.0f), s);
  return mx::astype(mx::scatter_add(start, index, mx::reshape(counted, {count, 1, width}, s), 0, s), dtype, s);
}

}  // namespace mamba::ops
