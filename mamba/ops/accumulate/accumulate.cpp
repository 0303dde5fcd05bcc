#include "mamba/ops/accumulate/accumulate.h"

#include <mlx/ops.h>

#include <memory>
#include <utility>

#include "mamba/base/error.h"
#include "mamba/ops/accumulate/gpu.h"
#include "mamba/ops/accumulate/kernel.h"
#include "mamba/ops/cpu/node.h"
#include "mamba/ops/dispatch.h"

namespace mamba::ops {

namespace mx = mlx::core;

namespace {

constexpr const char* kOp = "accumulate";

struct Settings {
  bool operator==(const Settings&) const = default;
};

class Accumulate : public cpu::CpuGradientNode<Accumulate, Settings> {
 public:
  static constexpr const char* kOp = "accumulate";
  using CpuGradientNode::CpuGradientNode;

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    mx::cpu::CommandEncoder& encoder = mx::cpu::get_command_encoder(stream());
    mx::array& out = outputs[0];
    const mx::array value = row_contiguous(inputs[1], encoder);
    encoder.set_input_array(value);
    accumulate_detail::Job job{};
    if (take_over(inputs[0], out)) {
      job.sum = cpu::numbers_of(out);
    } else {
      const mx::array sum = row_contiguous(inputs[0], encoder);
      encoder.set_input_array(sum);
      allocate(out);
      job.sum = cpu::numbers_of(sum);
    }
    encoder.set_output_array(out);
    job.count = static_cast<int64_t>(out.size());
    job.value = cpu::numbers_of(value);
    job.out = out.data<void>();
    encoder.dispatch([job] { accumulate_detail::add(job); });
  }

  const char* name() const override { return "Accumulate"; }
};

}  // namespace

mx::array accumulate(mx::array sum, const mx::array& value, mx::StreamOrDevice s) {
  check_float(kOp, "sum", sum);
  check_float(kOp, "value", value);
  check(value.shape() == sum.shape(), "[{}] value must be {} but got {}", kOp, shown(sum.shape()),
        shown(value.shape()));
  const mx::Stream stream = mx::to_stream(s);
  if (!on_cpu(stream)) {
    const mx::Dtype dtype = sum.dtype();
    return mx::astype(accumulate_detail::gpu_add(sum, value, stream), dtype, stream);
  }
  const mx::Shape shape = sum.shape();
  const mx::Dtype dtype = sum.dtype();
  std::vector<mx::array> inputs = {std::move(sum), value};
  return mx::array(shape, dtype, std::make_shared<Accumulate>(stream, Settings{}), std::move(inputs));
}

}  // namespace mamba::ops
