#include "mamba/ops/global_norm/global_norm.h"

#include <mlx/ops.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "mamba/base/threads.h"
#include "mamba/ops/cpu/node.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/global_norm/gpu.h"
#include "mamba/ops/global_norm/kernel.h"

namespace mamba::ops {

namespace mx = mlx::core;

namespace {

constexpr const char* kOp = "global_norm";

struct Settings {
  bool operator==(const Settings&) const = default;
};

struct Block {
  cpu::Numbers numbers;
  int64_t count;
  double sum;
};

class GlobalNorm : public cpu::CpuGradientNode<GlobalNorm, Settings> {
 public:
  static constexpr const char* kOp = "global_norm";
  using CpuGradientNode::CpuGradientNode;

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    mx::cpu::CommandEncoder& encoder = mx::cpu::get_command_encoder(stream());
    const auto blocks = std::make_shared<std::vector<Block>>();
    for (const mx::array& input : inputs) {
      const mx::array in = row_contiguous(input, encoder);
      encoder.set_input_array(in);
      const auto count = static_cast<int64_t>(in.size());
      for (int64_t begin = 0; begin < count; begin += global_norm_detail::kBlock) {
        blocks->push_back({cpu::numbers_of(in).from(begin), std::min(global_norm_detail::kBlock, count - begin), 0.0});
      }
    }
    allocate(outputs[0]);
    encoder.set_output_array(outputs[0]);
    encoder.dispatch([blocks, out = outputs[0].data<float>()] {
      parallel_for(static_cast<int64_t>(blocks->size()), 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          Block& block = (*blocks)[static_cast<size_t>(i)];
          block.sum = global_norm_detail::sum_of_squares(block.numbers, block.count);
        }
      });
      double sum = 0;
      for (const Block& block : *blocks) {
        sum += block.sum;
      }
      *out = static_cast<float>(std::sqrt(sum));
    });
  }

  const char* name() const override { return "GlobalNorm"; }
};

}  // namespace

mx::array global_norm(const std::vector<mx::array>& arrays, mx::StreamOrDevice s) {
  for (const mx::array& a : arrays) {
    check_float(kOp, "each array", a);
  }
  if (arrays.empty()) {
    return mx::array(0.0f);
  }
  const mx::Stream stream = mx::to_stream(s);
  if (!on_cpu(stream)) {
    return global_norm_detail::gpu_norm(arrays, stream);
  }
  return mx::array({}, mx::float32, std::make_shared<GlobalNorm>(stream, Settings{}), arrays);
}

mx::array global_norm_reference(const std::vector<mx::array>& arrays, mx::StreamOrDevice s) {
  mx::array sum(0.0f);
  for (const mx::array& a : arrays) {
    sum = mx::add(sum, mx::sum(mx::square(mx::astype(a, mx::float32, s), s), s), s);
  }
  return mx::sqrt(sum, s);
}

}  // namespace mamba::ops
