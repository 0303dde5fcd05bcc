#include "mamba/ops/negative_exp/negative_exp.h"

#include <mlx/ops.h>

#include <memory>

#include "mamba/base/error.h"
#include "mamba/ops/cpu/node.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/negative_exp/kernel.h"

namespace mamba::ops {

namespace mx = mlx::core;

namespace {

struct Settings {
  bool operator==(const Settings&) const = default;
};

class NegativeExp : public cpu::CpuNode<NegativeExp, Settings> {
 public:
  static constexpr const char* kOp = "negative_exp";
  using CpuNode::CpuNode;

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    mx::cpu::CommandEncoder& encoder = mx::cpu::get_command_encoder(stream());
    const mx::array x = row_contiguous(inputs[0], encoder);
    allocate(outputs[0]);
    encoder.set_input_array(x);
    encoder.set_output_array(outputs[0]);
    encoder.dispatch([from = x.data<float>(), count = static_cast<int64_t>(x.size()), to = outputs[0].data<float>()] {
      negative_exp_detail::apply(from, count, to);
    });
  }

  std::vector<mx::array> vjp(const std::vector<mx::array>&, const std::vector<mx::array>& cotangents,
                             const std::vector<int>&, const std::vector<mx::array>& outputs) override {
    return {mx::multiply(cotangents[0], outputs[0], stream())};
  }

  const char* name() const override { return "NegativeExp"; }
};

}  // namespace

mx::array negative_exp(const mx::array& x, mx::StreamOrDevice s) {
  check(x.dtype() == mx::float32, "[negative_exp] x must be float32 but is {}", shown(x.dtype()));
  const mx::Stream stream = mx::to_stream(s);
  if (!on_cpu(stream)) {
    return mx::negative(mx::exp(x, stream), stream);
  }
  return mx::array(x.shape(), mx::float32, std::make_shared<NegativeExp>(stream, Settings{}), {x});
}

}  // namespace mamba::ops
