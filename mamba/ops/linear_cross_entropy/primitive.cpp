#include "mamba/ops/linear_cross_entropy/primitive.h"

#include <mlx/primitives.h>

#include <cmath>
#include <limits>
#include <memory>

#include "mamba/base/error.h"
#include "mamba/base/threads.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/linear/sequences.h"
#include "mamba/ops/linear_cross_entropy/backward.h"
#include "mamba/ops/linear_cross_entropy/blocks.h"
#include "mamba/ops/linear_cross_entropy/softmax.h"

namespace mamba::ops::linear_cross_entropy_detail {

namespace mx = mlx::core;
using linear_detail::Matrix;
using linear_detail::Product;
using linear_detail::Rows;
using linear_detail::Workspace;

namespace {

// All that runs later, gathered before it is dispatched: what runs allocates nothing.
struct ForwardJob {
  Rows x;
  Matrix weight;
  int64_t words = 0;
  int64_t width = 0;
  const int32_t* targets = nullptr;
  int32_t ignore_index = 0;
  float* log_probabilities = nullptr;
  float* log_sums = nullptr;

  std::vector<int64_t> counted;  // tokens that have a target
  std::vector<RunningSoftmax> running;
  std::vector<float> chosen;  // the targets' logits
  std::vector<int64_t> groups;
  Product product;

  void reserve() {
    const auto block = static_cast<size_t>(kBlockTokens);
    counted.reserve(x.rows.size());
    running.resize(block);
    chosen.resize(block);
    groups.resize(1);
    product.left.rows.rows.reserve(block);
    product.out.rows.reserve(block);
    const int64_t tokens = std::min(x.count(), kBlockTokens);
    Workspace::instance().reserve(logits_floats(tokens, words) +
                                  linear_detail::multiply_workspace(tokens, 1, width, x.type, weight.type));
  }

  void run() {
    for (int64_t token = 0; token < x.count(); ++token) {
      const int32_t target = targets[token];
      if (target != ignore_index && target >= 0 && target < words) {
        counted.push_back(token);
        continue;
      }
      log_probabilities[token] = target == ignore_index ? 0.0f : std::numeric_limits<float>::quiet_NaN();
      log_sums[token] = 0;
    }
    const std::unique_lock<std::mutex> locked = Workspace::instance().lock();
    float* logits = Workspace::instance().data();
    const auto count = static_cast<int64_t>(counted.size());
    for (int64_t begin = 0; begin < count; begin += kBlockTokens) {
      run_block(counted.data() + begin, std::min(kBlockTokens, count - begin), logits);
    }
  }

  void run_block(const int64_t* tokens, int64_t count, float* logits) {
    const int64_t stride = logits_stride(words);
    product.m = groups[0] = count;
    product.k = width;
    product.left.rows.type = x.type;
    product.left.rows.rows.clear();
    for (int64_t i = 0; i < count; ++i) {
      product.left.rows.rows.push_back(x.rows[static_cast<size_t>(tokens[i])]);
      running[static_cast<size_t>(i)] = kNothingSeen;
    }
    point_to_block(logits, stride, count, product.out);
    for (int64_t word = 0; word < words; word += kBlockWords) {
      product.n = std::min(kBlockWords, words - word);
      product.right.matrix = rows_from(weight, word);
      linear_detail::multiply(product, groups, logits + logits_floats(x.count(), words));
      parallel_for(count, 8, [&](int64_t from, int64_t to) {
        for (int64_t i = from; i < to; ++i) {
          const float* row = logits + i * stride;
          accumulate(row, product.n, running[static_cast<size_t>(i)]);
          const int64_t target = targets[tokens[i]] - word;
          if (target >= 0 && target < product.n) {
            chosen[static_cast<size_t>(i)] = row[target];
          }
        }
      });
    }
    for (int64_t i = 0; i < count; ++i) {
      const RunningSoftmax& seen = running[static_cast<size_t>(i)];
      const double log_sum = static_cast<double>(seen.maximum) + std::log(seen.sum);
      log_sums[tokens[i]] = static_cast<float>(log_sum);
      log_probabilities[tokens[i]] = static_cast<float>(static_cast<double>(chosen[static_cast<size_t>(i)]) - log_sum);
    }
  }
};

// Outputs: the log-probabilities, and the logarithms of the softmax's sums, which the gradient needs.
class LinearLogProbability : public mx::Primitive {
 public:
  LinearLogProbability(mx::Stream stream, int ignore_index) : Primitive(stream), ignore_index_(ignore_index) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    for (mx::array& out : outputs) {
      allocate(out);
    }
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
    for (mx::array& out : outputs) {
      encoder.set_output_array(out);
    }
    const auto job = std::make_shared<ForwardJob>();
    job->x = linear_detail::rows_of(x);
    job->weight = linear_detail::matrix_of(weight);
    job->words = weight.shape(0);
    job->width = weight.shape(1);
    job->targets = targets.data<int32_t>();
    job->ignore_index = ignore_index_;
    job->log_probabilities = outputs[0].data<float>();
    job->log_sums = outputs[1].data<float>();
    job->reserve();
    encoder.dispatch([job] { job->run(); });
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw Error("[linear_cross_entropy] this primitive runs on the CPU only");
  }

  std::vector<mx::array> vjp(const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<mx::array>& outputs) override {
    bool of_x = false;
    bool of_weight = false;
    for (const int argument : argnums) {
      check(argument < 2, "[linear_cross_entropy] targets have no gradient");
      (argument == 0 ? of_x : of_weight) = true;
    }
    const Gradients gradients =
        backward(primals[0], primals[1], primals[2], cotangents[0], outputs[1], of_x, of_weight, stream());
    std::vector<mx::array> asked;
    for (const int argument : argnums) {
      asked.push_back(argument == 0 ? *gradients.x : *gradients.weight);
    }
    return asked;
  }

  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    return {inputs[2].shape(), inputs[2].shape()};
  }

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
  return mx::array::make_arrays({targets.shape(), targets.shape()}, {mx::float32, mx::float32},
                                std::make_shared<LinearLogProbability>(stream, ignore_index), {x, weight, targets})[0];
}

}  // namespace mamba::ops::linear_cross_entropy_detail
