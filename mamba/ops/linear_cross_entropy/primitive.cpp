#include "mamba/ops/linear_cross_entropy/primitive.h"

#include <mlx/primitives.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

#include "mamba/base/error.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/linear_cross_entropy/logits.h"

namespace mamba::ops::linear_cross_entropy_detail {

namespace mx = mlx::core;
using linear_detail::Workspace;

namespace {

// All that runs later, gathered before it is dispatched: what runs allocates nothing.
struct ForwardJob {
  Logits logits;
  int32_t ignore_index = 0;
  float* log_probabilities = nullptr;
  std::vector<int64_t> counted;  // tokens that have a target

  void reserve() {
    counted.reserve(logits.x.rows.size());
    logits.reserve();
    const int64_t tokens = std::min(logits.x.count(), kBlockTokens);
    Workspace::instance().reserve(logits.streamed_floats() + linear_detail::multiply_workspace(tokens, 1, logits.width,
                                                                                               logits.x.type,
                                                                                               logits.weight.type));
  }

  void run() {
    for (int64_t token = 0; token < logits.x.count(); ++token) {
      const int32_t target = logits.targets[token];
      if (target != ignore_index && target >= 0 && target < logits.words) {
        counted.push_back(token);
        continue;
      }
      log_probabilities[token] = target == ignore_index ? 0.0f : std::numeric_limits<float>::quiet_NaN();
    }
    const std::unique_lock<std::mutex> locked = Workspace::instance().lock();
    float* memory = Workspace::instance().data();
    logits.log_probabilities(counted, memory, memory + logits.streamed_floats(), log_probabilities);
  }
};

class LinearLogProbability : public mx::Primitive {
 public:
  LinearLogProbability(mx::Stream stream, int ignore_index) : Primitive(stream), ignore_index_(ignore_index) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    allocate(outputs[0]);
    if (outputs[0].size() == 0) {
      return;
    }
    mx::cpu::CommandEncoder& encoder = mx::cpu::get_command_encoder(stream());
    const mx::array x = readable_rows(inputs[0], encoder);
    const mx::array weight = readable_rows(inputs[1], encoder);
    const mx::array targets = row_contiguous(inputs[2], encoder);
    for (const mx::array& in : {x, weight, targets}) {
      encoder.set_input_array(in);
    }
    encoder.set_output_array(outputs[0]);
    const auto job = std::make_shared<ForwardJob>();
    job->logits.read_from(x, weight, targets);
    job->ignore_index = ignore_index_;
    job->log_probabilities = outputs[0].data<float>();
    job->reserve();
    encoder.dispatch([job] { job->run(); });
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw Error("[linear_cross_entropy] this primitive runs on the CPU only");
  }

  std::vector<mx::array> vjp(const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<mx::array>&) override {
    bool of_x = false;
    bool of_weight = false;
    for (const int argument : argnums) {
      check(argument < 2, "[linear_cross_entropy] targets have no gradient");
      (argument == 0 ? of_x : of_weight) = true;
    }
    const Gradients gradients = forward_and_backward(primals[0], primals[1], primals[2], cotangents[0], ignore_index_,
                                                     of_x, of_weight, stream());
    std::vector<mx::array> asked;
    for (const int argument : argnums) {
      asked.push_back(argument == 0 ? *gradients.x : *gradients.weight);
    }
    return asked;
  }

  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override { return {inputs[2].shape()}; }

  bool is_equivalent(const mx::Primitive& other) const override {
    return ignore_index_ == static_cast<const LinearLogProbability&>(other).ignore_index_;
  }

  const char* name() const override { return "LinearLogProbability"; }

 private:
  int ignore_index_;
};

}  // namespace

mx::array forward(const mx::array& x, const mx::array& weight, const mx::array& targets, int ignore_index,
                  mx::Stream stream) {
  return {targets.shape(), mx::float32, std::make_shared<LinearLogProbability>(stream, ignore_index),
          std::vector<mx::array>{x, weight, targets}};
}

}  // namespace mamba::ops::linear_cross_entropy_detail
