// With p = softmax(x W^T), the gradient of log p[t] by the logits is g (1[j = t] - p_j): a block of it takes the place
// of the block of logits it is made from, and is multiplied with W, giving a part of the gradient of x, and with x,
// giving that of the block's words. Blocks follow each other in a fixed order, so sums do not depend on the threads.

#include "mamba/ops/linear_cross_entropy/backward.h"

#include <mlx/primitives.h>

#include <cmath>
#include <cstring>
#include <memory>

#include "mamba/base/error.h"
#include "mamba/base/threads.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/linear/convert.h"
#include "mamba/ops/linear/onednn.h"
#include "mamba/ops/linear/sequences.h"
#include "mamba/ops/linear_cross_entropy/blocks.h"
#include "mamba/ops/linear_cross_entropy/softmax.h"

namespace mamba::ops::linear_cross_entropy_detail {

namespace mx = mlx::core;
using linear_detail::copied_floats;
using linear_detail::Float;
using linear_detail::Matrix;
using linear_detail::multiply_workspace;
using linear_detail::OutRows;
using linear_detail::Product;
using linear_detail::Rows;
using linear_detail::Workspace;

namespace {

// All that runs later, gathered before it is dispatched: what runs allocates nothing.
struct BackwardJob {
  Rows x;
  Matrix weight;
  int64_t words = 0;
  int64_t width = 0;
  const int32_t* targets = nullptr;
  const float* cotangent = nullptr;
  const float* log_sums = nullptr;
  OutRows dx;       // empty unless wanted
  OutRows dweight;  // likewise

  std::vector<int64_t> counted;  // tokens with a target and a cotangent other than 0
  std::vector<int64_t> groups;
  Rows block_x;
  Product logits, to_x, to_weight;
  Float gradient_type = Float::kFloat32;  // of a block of gradients
  float* logits_memory = nullptr;
  float* dx_sums = nullptr;       // float32 sums where dx is narrower, one row for each counted token
  float* dweight_sums = nullptr;  // likewise for the words of a block
  float* copy_memory = nullptr;
  float* multiply_memory = nullptr;

  bool sums_dx_apart() const { return !dx.rows.empty() && dx.type != Float::kFloat32; }
  bool sums_dweight_apart() const { return !dweight.rows.empty() && dweight.type != Float::kFloat32; }

  // The parts of the workspace, laid out from `base`; the floats they take.
  int64_t lay_out(float* base, int64_t tokens) {
    const int64_t block = std::min(tokens, kBlockTokens);
    const int64_t block_words = std::min(words, kBlockWords);
    int64_t at = 0;
    const auto take = [&](int64_t floats) {
      float* part = base == nullptr ? nullptr : base + at;
      at += (floats + 15) / 16 * 16;
      return part;
    };
    logits_memory = take(logits_floats(tokens, words));
    dx_sums = take(sums_dx_apart() ? tokens * width : 0);
    dweight_sums = take(sums_dweight_apart() ? block_words * width : 0);
    copy_memory = take(dweight.rows.empty() ? 0 : copied_floats(block, width));
    multiply_memory = take(std::max({multiply_workspace(block, 1, width, x.type, weight.type),
                                     multiply_workspace(block, 1, block_words, gradient_type, weight.type),
                                     multiply_workspace(block_words, 1, block, gradient_type, x.type)}));
    return at;
  }

  void reserve() {
    const auto block = static_cast<size_t>(kBlockTokens);
    counted.reserve(x.rows.size());
    groups.resize(1);
    block_x.rows.reserve(block);
    block_x.type = x.type;
    for (Product* product : {&logits, &to_x, &to_weight}) {
      product->left.rows.rows.reserve(block);
      product->out.rows.reserve(std::max(block, static_cast<size_t>(kBlockWords)));
    }
    const bool by_onednn = linear_detail::prefers_onednn(x.type, weight.type);
    gradient_type = by_onednn ? x.type : Float::kFloat32;
    Workspace::instance().reserve(lay_out(nullptr, x.count()));
  }

  void run() {
    for (int64_t token = 0; token < x.count(); ++token) {
      if (targets[token] >= 0 && targets[token] < words && cotangent[token] != 0) {
        counted.push_back(token);
      } else if (!dx.rows.empty()) {
        std::memset(dx.rows[static_cast<size_t>(token)], 0, static_cast<size_t>(width * size_of(dx.type)));
      }
    }
    const auto count = static_cast<int64_t>(counted.size());
    const std::unique_lock<std::mutex> locked = Workspace::instance().lock();
    lay_out(Workspace::instance().data(), x.count());
    for (int64_t word = 0; word < words; word += kBlockWords) {
      const int64_t block_words = std::min(kBlockWords, words - word);
      point_to_words(word, block_words);
      if (count == 0) {
        clear_words(block_words);
      }
      for (int64_t begin = 0; begin < count; begin += kBlockTokens) {
        run_block(begin, std::min(kBlockTokens, count - begin), word, block_words);
      }
      if (sums_dweight_apart()) {
        narrow_rows(
            dweight_sums, block_words, [&](int64_t i) { return dweight.rows[static_cast<size_t>(word + i)]; },
            dweight.type);
      }
    }
    if (sums_dx_apart()) {
      narrow_rows(
          dx_sums, count, [&](int64_t i) { return dx.rows[static_cast<size_t>(counted[static_cast<size_t>(i)])]; },
          dx.type);
    }
  }

  // Where the gradient of words [word, word + count) is summed.
  void point_to_words(int64_t word, int64_t count) {
    if (dweight.rows.empty()) {
      return;
    }
    if (sums_dweight_apart()) {
      point_to_block(dweight_sums, width, count, to_weight.out);
      return;
    }
    to_weight.out.type = Float::kFloat32;
    to_weight.out.rows.assign(dweight.rows.begin() + word, dweight.rows.begin() + word + count);
  }

  void clear_words(int64_t count) {
    for (int64_t i = 0; i < count && !dweight.rows.empty(); ++i) {
      std::memset(to_weight.out.rows[static_cast<size_t>(i)], 0, static_cast<size_t>(width) * sizeof(float));
    }
  }

  template <typename RowOf>
  void narrow_rows(const float* sums, int64_t count, const RowOf& row_of, Float type) const {
    parallel_for(count, 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        linear_detail::narrow(sums + i * width, width, type, row_of(i));
      }
    });
  }

  // Tokens counted[begin, begin + count) and words [word, word + block_words).
  void run_block(int64_t begin, int64_t count, int64_t word, int64_t block_words) {
    const int64_t* tokens = counted.data() + begin;
    const int64_t stride = logits_stride(words);
    block_x.rows.clear();
    for (int64_t i = 0; i < count; ++i) {
      block_x.rows.push_back(x.rows[static_cast<size_t>(tokens[i])]);
    }
    logits.m = groups[0] = count;
    logits.n = block_words;
    logits.k = width;
    logits.left.rows.type = x.type;
    logits.left.rows.rows.assign(block_x.rows.begin(), block_x.rows.end());
    logits.right.matrix = rows_from(weight, word);
    point_to_block(logits_memory, stride, count, logits.out);
    linear_detail::multiply(logits, groups, multiply_memory);
    parallel_for(count, 8, [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) {
        turn_to_gradient(tokens[i], word, block_words, logits_memory + i * stride);
      }
    });
    if (!dx.rows.empty()) {
      add_to_x(tokens, begin, count, word, block_words);
    }
    if (!dweight.rows.empty()) {
      add_to_weight(begin, count, block_words);
    }
  }

  void turn_to_gradient(int64_t token, int64_t word, int64_t block_words, float* row) const {
    const int64_t target = targets[token] - word;
    const bool has_target = target >= 0 && target < block_words;
    const float logit = has_target ? row[target] : 0.0f;
    softmax_gradient(row, block_words, log_sums[token], cotangent[token], gradient_type);
    if (has_target) {
      // 1 - p without cancellation.
      const float gradient = -cotangent[token] * std::expm1(logit - log_sums[token]);
      linear_detail::narrow(&gradient, 1, gradient_type,
                            reinterpret_cast<std::byte*>(row) + target * size_of(gradient_type));
    }
  }

  // The block of gradients as a product's left operand.
  void left_is_gradient(Product& product, int64_t count) const {
    product.left.rows.type = gradient_type;
    product.left.rows.rows.clear();
    for (int64_t i = 0; i < count; ++i) {
      product.left.rows.rows.push_back(logits_memory + i * logits_stride(words));
    }
  }

  void add_to_x(const int64_t* tokens, int64_t begin, int64_t count, int64_t word, int64_t block_words) {
    to_x.m = groups[0] = count;
    to_x.n = width;
    to_x.k = block_words;
    left_is_gradient(to_x, count);
    to_x.right.matrix = rows_from(weight, word);
    to_x.right.by_k = true;
    to_x.add = word > 0;
    if (sums_dx_apart()) {
      point_to_block(dx_sums + begin * width, width, count, to_x.out);
    } else {
      to_x.out.type = Float::kFloat32;
      to_x.out.rows.clear();
      for (int64_t i = 0; i < count; ++i) {
        to_x.out.rows.push_back(dx.rows[static_cast<size_t>(tokens[i])]);
      }
    }
    linear_detail::multiply(to_x, groups, multiply_memory);
  }

  void add_to_weight(int64_t begin, int64_t count, int64_t block_words) {
    to_weight.m = groups[0] = block_words;
    to_weight.n = width;
    to_weight.k = count;
    left_is_gradient(to_weight, count);
    to_weight.left.transposed = true;
    to_weight.right.matrix = linear_detail::as_matrix(block_x, width, copy_memory);
    to_weight.right.by_k = true;
    to_weight.add = begin > 0;
    linear_detail::multiply(to_weight, groups, multiply_memory);
  }
};

class LinearLogProbabilityGradient : public mx::Primitive {
 public:
  LinearLogProbabilityGradient(mx::Stream stream, bool of_x, bool of_weight)
      : Primitive(stream), of_x_(of_x), of_weight_(of_weight) {}

  // Inputs: x, weight, targets, cotangent, log_sums.
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    for (mx::array& out : outputs) {
      allocate(out);
    }
    mx::cpu::CommandEncoder& encoder = mx::cpu::get_command_encoder(stream());
    const mx::array x = readable_rows(inputs[0], encoder);
    const mx::array weight = readable_rows(inputs[1], encoder);
    const mx::array targets = row_contiguous(inputs[2], encoder);
    const mx::array cotangent = row_contiguous(inputs[3], encoder);
    const mx::array log_sums = row_contiguous(inputs[4], encoder);
    for (const mx::array& in : {x, weight, targets, cotangent, log_sums}) {
      encoder.set_input_array(in);
    }
    for (mx::array& out : outputs) {
      encoder.set_output_array(out);
    }
    const auto job = std::make_shared<BackwardJob>();
    job->x = linear_detail::rows_of(x);
    job->weight = linear_detail::matrix_of(weight);
    job->words = weight.shape(0);
    job->width = weight.shape(1);
    job->targets = targets.data<int32_t>();
    job->cotangent = cotangent.data<float>();
    job->log_sums = log_sums.data<float>();
    if (of_x_) {
      job->dx = linear_detail::out_rows_of(outputs.front());
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
    return of_x_ == that.of_x_ && of_weight_ == that.of_weight_;
  }

  const char* name() const override { return "LinearLogProbabilityGradient"; }

 private:
  bool of_x_;
  bool of_weight_;
};

}  // namespace

Gradients backward(const mx::array& x, const mx::array& weight, const mx::array& targets, const mx::array& cotangent,
                   const mx::array& log_sums, bool of_x, bool of_weight, mx::Stream stream) {
  std::vector<mx::Shape> shapes;
  std::vector<mx::Dtype> dtypes;
  for (const auto& [wanted, like] : {std::pair{of_x, &x}, {of_weight, &weight}}) {
    if (wanted) {
      shapes.push_back(like->shape());
      dtypes.push_back(like->dtype());
    }
  }
  std::vector<mx::array> outputs = mx::array::make_arrays(
      std::move(shapes), dtypes, std::make_shared<LinearLogProbabilityGradient>(stream, of_x, of_weight),
      {x, weight, targets, cotangent, log_sums});
  Gradients gradients;
  if (of_x) {
    gradients.x = outputs.front();
  }
  if (of_weight) {
    gradients.weight = outputs.back();
  }
  return gradients;
}

}  // namespace mamba::ops::linear_cross_entropy_detail
