#include <mlx/primitives.h>

#include <algorithm>
#include <memory>

#include "mamba/base/error.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/linear/convert.h"
#include "mamba/ops/linear/forward.h"
#include "mamba/ops/linear/multiply.h"
#include "mamba/ops/linear/sequences.h"
#include "mamba/ops/linear/turned.h"

namespace mamba::ops::linear_detail {

namespace mx = mlx::core;

namespace {

[[noreturn]] void refuse_second_derivative() {
  throw Error("[linear] the gradients of linear cannot be differentiated again");
}

const int32_t* spans_data(const std::vector<mx::array>& inputs, bool has_spans, mx::cpu::CommandEncoder& encoder) {
  if (!has_spans) {
    return nullptr;
  }
  const mx::array spans = row_contiguous(inputs[2], encoder);
  encoder.set_input_array(spans);
  return spans.data<int32_t>();
}

class InputGradient : public mx::UnaryPrimitive {
 public:
  InputGradient(mx::Stream stream, bool has_spans) : UnaryPrimitive(stream), has_spans_(has_spans) {}

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    allocate(out);
    if (out.size() == 0) {
      return;
    }
    mx::cpu::CommandEncoder& encoder = mx::cpu::get_command_encoder(stream());
    const mx::array dy = readable_rows(inputs[0], encoder);
    const mx::array weight = readable_rows(inputs[1], encoder);
    encoder.set_input_array(dy);
    encoder.set_input_array(weight);
    encoder.set_output_array(out);

    struct Job {
      SequenceShape shape;
      Rows dy;
      OutRows dx;
      const int32_t* spans;
      Product product;
      std::vector<int64_t> groups;
    };
    const auto job = std::make_shared<Job>(Job{.shape = SequenceShape(dy.shape()),
                                               .dy = rows_of(dy),
                                               .dx = out_rows_of(out),
                                               .spans = spans_data(inputs, has_spans_, encoder),
                                               .product = {},
                                               .groups = {}});
    Product& product = job->product;
    product.n = weight.shape(1);
    product.k = weight.shape(0);
    product.right.matrix = matrix_of(weight);
    product.right.by_k = true;
    product.left.rows.type = job->dy.type;
    product.out.type = job->dx.type;
    product.left.rows.rows.reserve(static_cast<size_t>(job->shape.rows()));
    product.out.rows.reserve(static_cast<size_t>(job->shape.rows()));
    job->groups.reserve(static_cast<size_t>(job->shape.sequences));
    Workspace::instance().reserve(multiply_workspace(job->shape.rows(), job->shape.sequences, product.k,
                                                     product.left.rows.type, product.right.matrix.type));
    encoder.dispatch([job] {
      const int64_t length = job->shape.length;
      for (int64_t index = 0; index < job->shape.sequences; ++index) {
        const Span span = span_of(job->spans, index, length);
        job->groups.push_back(span.end - span.begin);
        append_real(job->dy, index * length, span, job->product.left.rows);
        append_real(job->dx, index * length, span, job->product.out);
        clear_outside(job->dx, index * length, length, span, job->product.n);
      }
      job->product.m = job->product.left.rows.count();
      const std::unique_lock<std::mutex> locked = Workspace::instance().lock();
      multiply(job->product, job->groups, Workspace::instance().data());
    });
  }

  void eval_gpu(const std::vector<mx::array>&, mx::array&) override {
    throw Error("[linear] this primitive runs on the CPU only");
  }

  std::vector<mx::array> vjp(const std::vector<mx::array>&, const std::vector<mx::array>&, const std::vector<int>&,
                             const std::vector<mx::array>&) override {
    refuse_second_derivative();
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    return has_spans_ == static_cast<const InputGradient&>(other).has_spans_;
  }

  const char* name() const override { return "LinearInputGradient"; }

 private:
  bool has_spans_;
};

// Outputs: the gradient of the weights and, where it is asked for, of the bias.
class WeightGradient : public mx::Primitive {
 public:
  WeightGradient(mx::Stream stream, bool has_spans) : Primitive(stream), has_spans_(has_spans) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    for (mx::array& out : outputs) {
      allocate(out);
    }
    const int64_t n = outputs[0].shape(0);
    const int64_t k = outputs[0].shape(1);
    if (n == 0) {
      return;
    }
    mx::cpu::CommandEncoder& encoder = mx::cpu::get_command_encoder(stream());
    const mx::array dy = readable_rows(inputs[0], encoder);
    const mx::array x = readable_rows(inputs[1], encoder);
    encoder.set_input_array(dy);
    encoder.set_input_array(x);
    for (mx::array& out : outputs) {
      encoder.set_output_array(out);
    }
    const bool has_bias = outputs.size() == 2;
    const bool turned = is_better_turned(n, k, float_type(dy.dtype()), float_type(x.dtype()));
    const auto job = std::make_shared<Job>(Job{.shape = SequenceShape(dy.shape()),
                                               .dy = rows_of(dy),
                                               .x = rows_of(x),
                                               .spans = spans_data(inputs, has_spans_, encoder),
                                               .product = {},
                                               .turned = turned,
                                               .gradient = out_rows_of(outputs[0]),
                                               .bias_gradient = has_bias ? outputs[1].data<uint8_t>() : nullptr,
                                               .bias_type = float_type(outputs.back().dtype()),
                                               .bias_sums = std::vector<float>(static_cast<size_t>(has_bias ? n : 0)),
                                               .real_dy = {},
                                               .real_x = {},
                                               .groups = {turned ? k : n}});
    const int64_t rows = job->shape.rows();
    Product& product = job->product;
    product.m = turned ? k : n;
    product.n = turned ? n : k;
    product.left.transposed = true;
    product.right.by_k = true;
    job->real_dy.type = job->dy.type;
    job->real_x.type = job->x.type;
    job->real_dy.rows.reserve(static_cast<size_t>(rows));
    job->real_x.rows.reserve(static_cast<size_t>(rows));
    if (turned) {
      product.out.rows.resize(static_cast<size_t>(k));
    } else {
      product.out = job->gradient;
    }
    Workspace::instance().reserve((turned ? copied_floats(k, n) : 0) + copied_floats(rows, product.n) +
                                  multiply_workspace(product.m, 1, rows, job->dy.type, job->x.type));
    encoder.dispatch([job] { run(*job); });
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw Error("[linear] this primitive runs on the CPU only");
  }

  std::vector<mx::array> vjp(const std::vector<mx::array>&, const std::vector<mx::array>&, const std::vector<int>&,
                             const std::vector<mx::array>&) override {
    refuse_second_derivative();
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    return has_spans_ == static_cast<const WeightGradient&>(other).has_spans_;
  }

  const char* name() const override { return "LinearWeightGradient"; }

 private:
  struct Job {
    SequenceShape shape;
    Rows dy;
    Rows x;
    const int32_t* spans;
    Product product;
    bool turned;
    OutRows gradient;
    void* bias_gradient;
    Float bias_type;
    std::vector<float> bias_sums;
    Rows real_dy;
    Rows real_x;
    std::vector<int64_t> groups;
  };

  static void run(Job& job) {
    const int64_t length = job.shape.length;
    for (int64_t index = 0; index < job.shape.sequences; ++index) {
      const Span span = span_of(job.spans, index, length);
      append_real(job.dy, index * length, span, job.real_dy);
      append_real(job.x, index * length, span, job.real_x);
    }
    Product& product = job.product;
    product.k = job.real_dy.count();
    if (job.bias_gradient != nullptr) {
      const auto n = static_cast<int64_t>(job.bias_sums.size());
      sum_rows(job.real_dy, n, job.bias_sums.data());
      narrow(job.bias_sums.data(), n, job.bias_type, job.bias_gradient);
    }
    product.left.rows = std::move(job.turned ? job.real_x : job.real_dy);
    const Rows right = std::move(job.turned ? job.real_dy : job.real_x);
    const std::unique_lock<std::mutex> locked = Workspace::instance().lock();
    float* workspace = Workspace::instance().data();
    float* sums = workspace;
    if (job.turned) {
      workspace += copied_floats(product.m, product.n);
      for (int64_t i = 0; i < product.m; ++i) {
        product.out.rows[static_cast<size_t>(i)] = sums + i * product.n;
      }
    }
    product.right.matrix = as_matrix(right, product.n, workspace);
    multiply(product, job.groups, workspace + copied_floats(product.k, product.n));
    if (job.turned) {
      turn(sums, product.m, product.n, job.gradient);
    }
  }

  bool has_spans_;
};

}  // namespace

mx::array input_gradient(const mx::array& dy, const mx::array& weight, const std::optional<mx::array>& spans,
                         mx::Dtype dtype, mx::Stream stream) {
  std::vector<mx::array> inputs = {dy, weight};
  if (spans) {
    inputs.push_back(*spans);
  }
  mx::Shape shape = dy.shape();
  shape.back() = weight.shape(1);
  return mx::array(shape, dtype, std::make_shared<InputGradient>(stream, spans.has_value()), std::move(inputs));
}

WeightGradients weight_gradient(const mx::array& dy, const mx::array& x, const std::optional<mx::array>& spans,
                                mx::Dtype weight_dtype, std::optional<mx::Dtype> bias_dtype, mx::Stream stream) {
  std::vector<mx::array> inputs = {dy, x};
  if (spans) {
    inputs.push_back(*spans);
  }
  const int n = dy.shape(-1);
  std::vector<mx::Shape> shapes = {{n, x.shape(-1)}};
  std::vector<mx::Dtype> dtypes = {weight_dtype};
  if (bias_dtype) {
    shapes.push_back({n});
    dtypes.push_back(*bias_dtype);
  }
  const std::vector<mx::array> outputs =
      mx::array::make_arrays(shapes, dtypes, std::make_shared<WeightGradient>(stream, spans.has_value()), inputs);
  return {.weight = outputs[0], .bias = bias_dtype ? std::optional(outputs[1]) : std::nullopt};
}

}  // namespace mamba::ops::linear_detail
