#include "mamba/ops/linear/forward.h"

#include <mlx/ops.h>
#include <mlx/primitives.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "mamba/base/error.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/linear/checks.h"
#include "mamba/ops/linear/convert.h"
#include "mamba/ops/linear/few_rows.h"
#include "mamba/ops/linear/multiply.h"
#include "mamba/ops/linear/sequences.h"
#include "mamba/ops/linear/weights.h"

namespace mamba::ops::linear_detail {

namespace mx = mlx::core;

namespace {

class FloatWeights : public Weights {
 public:
  explicit FloatWeights(const mx::array& weight) : matrix_(matrix_of(weight)) {
    n = weight.shape(0);
    k = weight.shape(1);
  }

  int64_t few_rows_limit(Float x) const override {
    // What multiplies many rows pads them to 8, 16 or 32, and takes as long for 32 as few_rows for about eight.
    if (multiplies_in_bf16(x, matrix_.type)) {
      return 8;
    }
    // Where the kernels were equally fast, for float32 and bfloat16. With a short k, adding up across lanes costs more
    // than the dot product.
    return k < 128 ? 16 : 32;
  }

  int64_t workspace(int64_t rows, int64_t sequences, Float x) const override {
    return std::max(few_rows_workspace(rows, k), multiply_workspace(rows, sequences, k, x, matrix_.type));
  }

  void few(const Rows& x, const float* bias, const OutRows& y, float* workspace) const override {
    few_rows(x, matrix_, bias, n, k, y, workspace);
  }

  int64_t few_workspace(int64_t rows) const override { return few_rows_workspace(rows, k); }
  int64_t few_step() const override { return kFewColumnStep; }

  void pack_few(const Rows& x, int64_t begin, int64_t end, float* packed) const override {
    linear_detail::pack_few(x, matrix_.type, k, begin, end, packed);
  }

  void few_columns(const float* packed, int64_t rows, Float x_type, const float* bias, int64_t begin, int64_t end,
                   const OutRows& y) const override {
    linear_detail::few_columns(packed, rows, x_type, matrix_, bias, k, begin, end, y);
  }

  void row(int64_t index, Float type, void* to) const override {
    const void* const from = static_cast<const uint8_t*>(matrix_.data) + index * matrix_.stride * size_of(matrix_.type);
    if (type == matrix_.type) {
      std::memcpy(to, from, static_cast<size_t>(k * size_of(type)));
      return;
    }
    std::vector<float> wide(static_cast<size_t>(k));
    widen(from, matrix_.type, k, wide.data());
    narrow(wide.data(), k, type, to);
  }

  void many(Product& product, const std::vector<int64_t>& groups, float* workspace) const override {
    product.right = right();
    multiply(product, groups, workspace);
  }

  const ManyRows* many_in_pieces(Float x) const override { return multiply_in_pieces(x, matrix_.type, k); }
  Right right() const override { return {.matrix = matrix_, .by_k = false, .panels = nullptr}; }

 private:
  Matrix matrix_;
};

class FloatFormat : public WeightFormat {
 public:
  size_t arrays() const override { return 1; }

  std::unique_ptr<Weights> read(const std::vector<mx::array>& inputs, size_t first,
                                mx::cpu::CommandEncoder& encoder) const override {
    const mx::array rows = readable_rows(inputs[first], encoder);
    encoder.set_input_array(rows);
    return std::make_unique<FloatWeights>(rows);
  }

  bool equals(const WeightFormat& other) const override { return dynamic_cast<const FloatFormat*>(&other) != nullptr; }
  mx::array dense(const std::vector<mx::array>& inputs, mx::Stream) const override { return inputs[1]; }
  bool is_trainable() const override { return true; }
};

// All that a product needs, gathered before it is dispatched: what runs later allocates nothing.
struct ForwardJob {
  SequenceShape shape;
  std::unique_ptr<const Weights> weights;
  int64_t limit = 0;
  Rows x;
  OutRows y;
  const void* bias = nullptr;
  Float bias_type = Float::kFloat32;
  const int32_t* spans = nullptr;

  // The low-rank term, and where sums wait for it when y is 16-bit. Without it `V` is null.
  Rows u;
  Matrix V;
  int64_t rank = 0;
  float* sums = nullptr;  // (rows, n)

  std::vector<float> wide_bias;
  Rows few_x, many_x, real_u, real_sums;
  OutRows few_y, many_y, real_y;
  std::vector<int64_t> many_groups;  // rows of each sequence in many_x

  explicit ForwardJob(const mx::Shape& x_shape) : shape(x_shape) {}

  void reserve() {
    const auto rows = static_cast<size_t>(shape.rows());
    few_x = {.rows = {}, .type = x.type};
    many_x = few_x;
    few_y = {.rows = {}, .type = sums == nullptr ? y.type : Float::kFloat32};
    many_y = few_y;
    real_y = {.rows = {}, .type = y.type};
    for (Rows* list : {&few_x, &many_x}) {
      list->rows.reserve(rows);
    }
    for (OutRows* list : {&few_y, &many_y}) {
      list->rows.reserve(rows);
    }
    if (V.data != nullptr) {
      real_u.rows.reserve(rows);
      real_y.rows.reserve(rows);
      real_sums.rows.reserve(sums == nullptr ? 0 : rows);
    }
    many_groups.reserve(static_cast<size_t>(shape.sequences));
    wide_bias.resize(bias == nullptr ? 0 : static_cast<size_t>(weights->n));
    limit = weights->few_rows_limit(x.type);
    Workspace::instance().reserve(
        std::max(many_rows_workspace(shape.rows(), rank), weights->workspace(shape.rows(), shape.sequences, x.type)));
  }

  void run() {
    const int64_t n = weights->n;
    for (int64_t index = 0; index < shape.sequences; ++index) {
      const int64_t first = index * shape.length;
      const Span span = span_of(spans, index, shape.length);
      const bool few = span.end - span.begin <= limit;
      append_real(x, first, span, few ? few_x : many_x);
      if (!few) {
        many_groups.push_back(span.end - span.begin);
      }
      OutRows& out = few ? few_y : many_y;
      if (V.data != nullptr) {
        append_real(u, first, span, real_u);
        append_real(y, first, span, real_y);
      }
      if (sums == nullptr) {
        append_real(y, first, span, out);
      } else {
        for (int64_t row = first + span.begin; row < first + span.end; ++row) {
          out.rows.push_back(sums + row * n);
          real_sums.rows.push_back(sums + row * n);
        }
      }
      clear_outside(y, first, shape.length, span, n);
    }
    if (bias != nullptr) {
      widen(bias, bias_type, n, wide_bias.data());
    }
    const float* wide = bias == nullptr ? nullptr : wide_bias.data();
    const std::unique_lock<std::mutex> locked = Workspace::instance().lock();
    float* workspace = Workspace::instance().data();
    if (few_x.count() > 0) {
      weights->few(few_x, wide, few_y, workspace);
    }
    Product product;
    product.m = many_x.count();
    product.n = n;
    product.k = weights->k;
    product.left.rows = std::move(many_x);
    product.bias = wide;
    product.out = std::move(many_y);
    if (product.m > 0) {
      weights->many(product, many_groups, workspace);
    }
    if (V.data != nullptr && real_u.count() > 0) {
      add_low_rank(workspace);
    }
  }

  void add_low_rank(float* workspace) {
    Product term;
    term.m = real_u.count();
    term.n = weights->n;
    term.k = rank;
    term.left.rows = std::move(real_u);
    term.right.matrix = V;
    term.add = true;
    term.addend = std::move(real_sums);
    term.out = std::move(real_y);
    many_rows(term, workspace);
  }
};

class Linear : public mx::UnaryPrimitive {
 public:
  Linear(mx::Stream stream, std::shared_ptr<const WeightFormat> format, int n, bool has_bias, bool has_low_rank,
         bool has_spans)
      : UnaryPrimitive(stream),
        format_(std::move(format)),
        n_(n),
        has_bias_(has_bias),
        has_low_rank_(has_low_rank),
        has_spans_(has_spans) {}

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    allocate(out);
    if (out.size() == 0) {
      return;
    }
    mx::cpu::CommandEncoder& encoder = mx::cpu::get_command_encoder(stream());
    const mx::array x = readable_rows(inputs[0], encoder);
    encoder.set_input_array(x);
    encoder.set_output_array(out);
    const auto job = std::make_shared<ForwardJob>(x.shape());
    job->weights = format_->read(inputs, 1, encoder);
    job->x = rows_of(x);
    job->y = out_rows_of(out);
    if (has_bias_) {
      const mx::array bias = row_contiguous(inputs[bias_index()], encoder);
      encoder.set_input_array(bias);
      job->bias = bias.data<uint8_t>();
      job->bias_type = float_type(bias.dtype());
    }
    if (has_low_rank_ && inputs[u_index()].size() > 0) {
      const mx::array u = readable_rows(inputs[u_index()], encoder);
      const mx::array V = readable_rows(inputs[u_index() + 1], encoder);
      encoder.set_input_array(u);
      encoder.set_input_array(V);
      job->u = rows_of(u);
      job->V = matrix_of(V);
      job->rank = V.shape(1);
      if (out.dtype() != mx::float32) {
        job->sums = workspace(static_cast<int64_t>(out.size()), encoder);
      }
    }
    if (has_spans_) {
      const mx::array spans = row_contiguous(inputs.back(), encoder);
      encoder.set_input_array(spans);
      job->spans = spans.data<int32_t>();
    }
    job->reserve();
    encoder.dispatch([job] { job->run(); });
  }

  void eval_gpu(const std::vector<mx::array>&, mx::array&) override {
    throw Error("[linear] this primitive runs on the CPU only");
  }

  std::vector<mx::array> vjp(const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<mx::array>&) override {
    const mx::array& x = primals[0];
    const std::optional<mx::array> spans = has_spans_ ? std::optional(primals.back()) : std::nullopt;
    const int bias_argument = static_cast<int>(bias_index());
    const bool of_bias = has_bias_ && std::find(argnums.begin(), argnums.end(), bias_argument) != argnums.end();
    const std::optional<mx::Dtype> bias_dtype = of_bias ? std::optional(primals[bias_index()].dtype()) : std::nullopt;
    std::optional<WeightGradients> of_weight;
    std::vector<mx::array> gradients;
    for (const int argument : argnums) {
      if (argument == 0) {
        gradients.push_back(
            input_gradient(cotangents[0], format_->dense(primals, stream()), spans, x.dtype(), stream()));
        continue;
      }
      const size_t of_u = static_cast<size_t>(argument) - u_index();
      if (has_low_rank_ && of_u < 2) {
        const mx::array& u = primals[u_index()];
        const mx::array& V = primals[u_index() + 1];
        gradients.push_back(of_u == 0 ? input_gradient(cotangents[0], V, spans, mx::float32, stream())
                                      : weight_gradient(cotangents[0], u, spans, V.dtype(), {}, stream()).weight);
        continue;
      }
      check(static_cast<size_t>(argument) < u_index(), "[linear] spans have no gradient");
      if (!format_->is_trainable()) {
        gradients.push_back(mx::zeros_like(primals[static_cast<size_t>(argument)], stream()));
        continue;
      }
      if (!of_weight) {
        of_weight = weight_gradient(cotangents[0], x, spans, primals[1].dtype(), bias_dtype, stream());
      }
      gradients.push_back(argument == 1 ? of_weight->weight : *of_weight->bias);
    }
    return gradients;
  }

  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    mx::Shape shape = inputs[0].shape();
    shape.back() = n_;
    return {shape};
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& that = static_cast<const Linear&>(other);
    return format_->equals(*that.format_) && n_ == that.n_ && has_bias_ == that.has_bias_ &&
           has_low_rank_ == that.has_low_rank_ && has_spans_ == that.has_spans_;
  }

  const char* name() const override { return "Linear"; }

 private:
  size_t bias_index() const { return 1 + format_->arrays(); }
  size_t u_index() const { return bias_index() + (has_bias_ ? 1 : 0); }  // V follows

  std::shared_ptr<const WeightFormat> format_;
  int n_;
  bool has_bias_;
  bool has_low_rank_;
  bool has_spans_;
};

}  // namespace

std::shared_ptr<const WeightFormat> float_format() {
  static const auto format = std::make_shared<const FloatFormat>();
  return format;
}

mx::array forward(const mx::array& x, const std::vector<mx::array>& weights, int n,
                  std::shared_ptr<const WeightFormat> format, const std::optional<mx::array>& bias,
                  const LinearOptions& options, mx::Stream stream) {
  std::vector<mx::array> inputs = {x};
  inputs.insert(inputs.end(), weights.begin(), weights.end());
  if (bias) {
    inputs.push_back(*bias);
  }
  if (options.low_rank) {
    inputs.push_back(options.low_rank->u);
    inputs.push_back(options.low_rank->V);
  }
  if (options.spans) {
    inputs.push_back(*options.spans);
  }
  mx::Shape shape = x.shape();
  shape.back() = n;
  auto node = std::make_shared<Linear>(stream, std::move(format), n, bias.has_value(), options.low_rank.has_value(),
                                       options.spans.has_value());
  return mx::array(shape, options.out_dtype.value_or(x.dtype()), std::move(node), std::move(inputs));
}

mx::array forward(const mx::array& x, const mx::array& weight, const std::optional<mx::array>& bias,
                  const LinearOptions& options, mx::Stream stream) {
  return forward(x, {weight}, weight.shape(0), float_format(), bias, options, stream);
}

}  // namespace mamba::ops::linear_detail
