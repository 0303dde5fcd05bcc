// With p = softmax(x W^T), the gradient of log p[t] by the logits is g (1[j = t] - p_j). A block of tokens keeps its
// logits until its softmax is known; then each block of words' logits turn into gradients where they lie, and are
// multiplied with W, giving a part of the gradient of x, and with x, giving a part of that of W. So logits are computed
// once, for loss and gradients. Blocks follow each other in a fixed order, and sums do not depend on the threads.

#include <mlx/primitives.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>

#include "mamba/base/error.h"
#include "mamba/base/threads.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/linear/convert.h"
#include "mamba/ops/linear/multiply.h"
#include "mamba/ops/linear/sequences.h"
#include "mamba/ops/linear_cross_entropy/logits.h"
#include "mamba/ops/linear_cross_entropy/primitive.h"
#include "mamba/ops/linear_cross_entropy/softmax.h"

namespace mamba::ops::linear_cross_entropy_detail {

namespace mx = mlx::core;
using linear_detail::copied_floats;
using linear_detail::Float;
using linear_detail::multiply_workspace;
using linear_detail::OutRows;
using linear_detail::Product;
using linear_detail::Rows;
using linear_detail::Workspace;

namespace {

constexpr int64_t kKeptLogits = 26 << 20;  // 104 MiB: a block of tokens with the vocabulary of GPT-NeoX
constexpr int64_t kMinBlockTokens = 32;

// The largest number of tokens whose logits may be kept, with which the last block is no small rest.
int64_t block_tokens_of(int64_t tokens, int64_t words) {
  const int64_t fit = std::clamp(kKeptLogits / words, kMinBlockTokens, kBlockTokens);
  const int64_t blocks = std::max<int64_t>(1, (tokens + fit - 1) / fit);
  return std::min(fit, ((tokens + blocks - 1) / blocks + kMinBlockTokens - 1) / kMinBlockTokens * kMinBlockTokens);
}

// All that runs later, gathered before it is dispatched: what runs allocates nothing.
struct GradientJob {
  Logits logits;
  int32_t ignore_index = 0;
  const float* cotangent = nullptr;
  float* log_probabilities = nullptr;
  OutRows dx;       // empty unless wanted
  OutRows dweight;  // likewise

  std::vector<int64_t> counted;    // tokens with a target and a cotangent other than 0
  std::vector<int64_t> uncounted;  // with a target and no cotangent
  std::vector<int64_t> groups;
  Rows block_x;
  Product to_x, to_weight;
  Float gradient_type = Float::kFloat32;  // of a block of gradients
  int64_t block_tokens = 0;
  int64_t stride = 0;  // from one token's logits to the next's
  float* logits_memory = nullptr;
  float* dx_sums = nullptr;       // float32 sums where dx is narrower, one row for each counted token of a block
  float* dweight_sums = nullptr;  // likewise for all words
  float* copy_memory = nullptr;
  float* multiply_memory = nullptr;

  bool sums_dx_apart() const { return !dx.rows.empty() && dx.type != Float::kFloat32; }
  bool sums_dweight_apart() const {
    return !dweight.rows.empty() && dweight.type != Float::kFloat32 && logits.x.count() > block_tokens;
  }

  // The parts of the workspace, laid out from `base`; the floats they take.
  int64_t lay_out(float* base) {
    const int64_t words = logits.words, width = logits.width;
    const int64_t block_words = std::min(words, kBlockWords);
    int64_t at = 0;
    const auto take = [&](int64_t floats) {
      float* part = base == nullptr ? nullptr : base + at;
      at += (floats + 15) / 16 * 16;
      return part;
    };
    logits_memory = take(std::max(block_tokens * stride, logits.streamed_floats()));
    dx_sums = take(sums_dx_apart() ? block_tokens * width : 0);
    dweight_sums = take(sums_dweight_apart() ? words * width : 0);
    copy_memory = take(dweight.rows.empty() ? 0 : copied_floats(block_tokens, width));
    const int64_t tokens = std::min(logits.x.count(), kBlockTokens);
    const Float x_type = logits.x.type, weight_type = logits.weight.type;
    multiply_memory = take(std::max({multiply_workspace(tokens, 1, width, x_type, weight_type),
                                     multiply_workspace(block_tokens, 1, block_words, gradient_type, weight_type),
                                     multiply_workspace(block_words, 1, block_tokens, gradient_type, x_type)}));
    return at;
  }

  void reserve() {
    logits.reserve();
    block_tokens = block_tokens_of(logits.x.count(), logits.words);
    stride = linear_detail::packed_stride(logits.words);
    const auto block = static_cast<size_t>(kBlockTokens);
    counted.reserve(logits.x.rows.size());
    uncounted.reserve(logits.x.rows.size());
    groups.resize(1);
    block_x.rows.reserve(block);
    block_x.type = logits.x.type;
    for (Product* product : {&to_x, &to_weight}) {
      product->left.rows.rows.reserve(block);
      product->out.rows.reserve(std::max(block, static_cast<size_t>(kBlockWords)));
    }
    const bool narrow = linear_detail::multiplies_in_bf16(logits.x.type, logits.weight.type);
    gradient_type = narrow ? Float::kBfloat16 : Float::kFloat32;
    Workspace::instance().reserve(lay_out(nullptr));
  }

  void run() {
    sort_tokens();
    const auto count = static_cast<int64_t>(counted.size());
    const std::unique_lock<std::mutex> locked = Workspace::instance().lock();
    lay_out(Workspace::instance().data());
    logits.log_probabilities(uncounted, logits_memory, multiply_memory, log_probabilities);
    for (int64_t begin = 0; begin < count; begin += block_tokens) {
      run_block(begin, std::min(block_tokens, count - begin));
    }
    finish_weight(count == 0);
  }

  void sort_tokens() {
    for (int64_t token = 0; token < logits.x.count(); ++token) {
      const int32_t target = logits.targets[token];
      const bool known = target != ignore_index && target >= 0 && target < logits.words;
      if (known && cotangent[token] != 0) {
        counted.push_back(token);
        continue;
      }
      if (!dx.rows.empty()) {
        std::memset(dx.rows[static_cast<size_t>(token)], 0, static_cast<size_t>(logits.width * size_of(dx.type)));
      }
      if (known) {
        uncounted.push_back(token);
      } else {
        log_probabilities[token] = target == ignore_index ? 0.0f : std::numeric_limits<float>::quiet_NaN();
      }
    }
  }

  // Tokens counted[begin, begin + count).
  void run_block(int64_t begin, int64_t count) {
    const int64_t* tokens = counted.data() + begin;
    logits.run(tokens, count, logits_memory, stride, true, multiply_memory);
    block_x.rows.clear();
    for (int64_t i = 0; i < count; ++i) {
      block_x.rows.push_back(logits.x.rows[static_cast<size_t>(tokens[i])]);
      log_probabilities[tokens[i]] = logits.log_probability(i);
    }
    for (int64_t word = 0; word < logits.words; word += kBlockWords) {
      const int64_t words = std::min(kBlockWords, logits.words - word);
      parallel_for(count, 8, [&](int64_t from, int64_t to) {
        for (int64_t i = from; i < to; ++i) {
          turn_to_gradient(i, tokens[i], word, words);
        }
      });
      if (!dx.rows.empty()) {
        add_to_x(tokens, count, word, words);
      }
      if (!dweight.rows.empty()) {
        add_to_weight(count, word, words, begin > 0);
      }
    }
    if (sums_dx_apart()) {
      narrow_rows(
          dx_sums, count, [&](int64_t i) { return dx.rows[static_cast<size_t>(tokens[i])]; }, dx.type);
    }
  }

  void turn_to_gradient(int64_t i, int64_t token, int64_t word, int64_t words) const {
    float* row = logits_memory + i * stride + word;
    const float log_sum = logits.log_sum(i);
    softmax_gradient(row, words, log_sum, cotangent[token], gradient_type);
    const int64_t target = logits.targets[token] - word;
    if (target >= 0 && target < words) {
      // 1 - p without cancellation.
      const float gradient = -cotangent[token] * std::expm1(logits.target_logit(i) - log_sum);
      linear_detail::narrow(&gradient, 1, gradient_type,
                            reinterpret_cast<std::byte*>(row) + target * size_of(gradient_type));
    }
  }

  // The gradients of a block of words' logits as a product's left operand.
  void left_is_gradient(Product& product, int64_t count, int64_t word) const {
    product.left.rows.type = gradient_type;
    product.left.rows.rows.clear();
    for (int64_t i = 0; i < count; ++i) {
      product.left.rows.rows.push_back(logits_memory + i * stride + word);
    }
  }

  void add_to_x(const int64_t* tokens, int64_t count, int64_t word, int64_t words) {
    to_x.m = groups[0] = count;
    to_x.n = logits.width;
    to_x.k = words;
    left_is_gradient(to_x, count, word);
    to_x.right.matrix = rows_from(logits.weight, word);
    to_x.right.by_k = true;
    to_x.add = word > 0;
    if (sums_dx_apart()) {
      point_to_block(dx_sums, logits.width, count, to_x.out);
    } else {
      to_x.out.type = Float::kFloat32;
      to_x.out.rows.clear();
      for (int64_t i = 0; i < count; ++i) {
        to_x.out.rows.push_back(dx.rows[static_cast<size_t>(tokens[i])]);
      }
    }
    linear_detail::multiply(to_x, groups, multiply_memory);
  }

  void add_to_weight(int64_t count, int64_t word, int64_t words, bool add) {
    to_weight.m = groups[0] = words;
    to_weight.n = logits.width;
    to_weight.k = count;
    left_is_gradient(to_weight, count, word);
    to_weight.left.transposed = true;
    to_weight.right.matrix = linear_detail::as_matrix(block_x, logits.width, copy_memory);
    to_weight.right.by_k = true;
    to_weight.add = add;
    if (sums_dweight_apart()) {
      point_to_block(dweight_sums + word * logits.width, logits.width, words, to_weight.out);
    } else {
      to_weight.out.type = dweight.type;
      to_weight.out.rows.assign(dweight.rows.begin() + word, dweight.rows.begin() + word + words);
    }
    linear_detail::multiply(to_weight, groups, multiply_memory);
  }

  void finish_weight(bool empty) const {
    const auto row_of = [&](int64_t i) { return dweight.rows[static_cast<size_t>(i)]; };
    if (dweight.rows.empty()) {
      return;
    }
    if (empty) {
      for (int64_t i = 0; i < logits.words; ++i) {
        std::memset(row_of(i), 0, static_cast<size_t>(logits.width * size_of(dweight.type)));
      }
    } else if (sums_dweight_apart()) {
      narrow_rows(dweight_sums, logits.words, row_of, dweight.type);
    }
  }

  template <typename RowOf>
  void narrow_rows(const float* sums, int64_t count, const RowOf& row_of, Float type) const {
    parallel_for(count, 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        linear_detail::narrow(sums + i * logits.width, logits.width, type, row_of(i));
      }
    });
  }
};

class LinearLogProbabilityGradient : public mx::Primitive {
 public:
  LinearLogProbabilityGradient(mx::Stream stream, int ignore_index, bool of_x, bool of_weight)
      : Primitive(stream), ignore_index_(ignore_index), of_x_(of_x), of_weight_(of_weight) {}

  // Inputs: x, weight, targets, cotangent. Outputs: the log-probabilities, and the gradients that are wanted.
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    for (mx::array& out : outputs) {
      allocate(out);
    }
    mx::cpu::CommandEncoder& encoder = mx::cpu::get_command_encoder(stream());
    const mx::array x = readable_rows(inputs[0], encoder);
    const mx::array weight = readable_rows(inputs[1], encoder);
    const mx::array targets = row_contiguous(inputs[2], encoder);
    const mx::array cotangent = row_contiguous(inputs[3], encoder);
    for (const mx::array& in : {x, weight, targets, cotangent}) {
      encoder.set_input_array(in);
    }
    for (mx::array& out : outputs) {
      encoder.set_output_array(out);
    }
    const auto job = std::make_shared<GradientJob>();
    job->logits.read_from(x, weight, targets);
    job->ignore_index = ignore_index_;
    job->cotangent = cotangent.data<float>();
    job->log_probabilities = outputs[0].data<float>();
    if (of_x_) {
      job->dx = linear_detail::out_rows_of(outputs[1]);
    }
    if (of_weight_) {
      job->dweight = linear_detail::out_rows_of(outputs.back());
    }
    job->reserve();
    encoder.dispatch([job] { job->run(); });
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw Error("[linear_cross_entropy] this primitive runs on the CPU only");
  }

  std::vector<mx::array> vjp(const std::vector<mx::array>&, const std::vector<mx::array>&, const std::vector<int>&,
                             const std::vector<mx::array>&) override {
    throw Error("[linear_cross_entropy] its gradients cannot be differentiated again");
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& that = static_cast<const LinearLogProbabilityGradient&>(other);
    return ignore_index_ == that.ignore_index_ && of_x_ == that.of_x_ && of_weight_ == that.of_weight_;
  }

  const char* name() const override { return "LinearLogProbabilityGradient"; }

 private:
  int ignore_index_;
  bool of_x_;
  bool of_weight_;
};

}  // namespace

Gradients forward_and_backward(const mx::array& x, const mx::array& weight, const mx::array& targets,
                               const mx::array& cotangent, int ignore_index, bool of_x, bool of_weight,
                               mx::Stream stream) {
  std::vector<mx::Shape> shapes = {targets.shape()};
  std::vector<mx::Dtype> dtypes = {mx::float32};
  for (const auto& [wanted, like] : {std::pair{of_x, &x}, {of_weight, &weight}}) {
    if (wanted) {
      shapes.push_back(like->shape());
      dtypes.push_back(like->dtype());
    }
  }
  std::vector<mx::array> outputs = mx::array::make_arrays(
      std::move(shapes), dtypes, std::make_shared<LinearLogProbabilityGradient>(stream, ignore_index, of_x, of_weight),
      {x, weight, targets, cotangent});
  Gradients gradients{.log_probabilities = outputs[0]};
  if (of_x) {
    gradients.x = outputs[1];
  }
  if (of_weight) {
    gradients.weight = outputs.back();
  }
  return gradients;
}

}  // namespace mamba::ops::linear_cross_entropy_detail
