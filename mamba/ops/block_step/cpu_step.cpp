#include "mamba/ops/block_step/cpu_step.h"

#include <mlx/ops.h>

#include <algorithm>
#include <array>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "mamba/base/error.h"
#include "mamba/base/threads.h"
#include "mamba/ops/block_step/cpu_kernel.h"
#include "mamba/ops/cpu/node.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/linear/weights.h"
#include "mamba/ops/quantized_linear/forward.h"
#include "mamba/ops/rms_norm/kernel.h"

namespace mamba::ops {

namespace mx = mlx::core;

namespace {

using linear_detail::Float;
using linear_detail::OutRows;
using linear_detail::Rows;
using linear_detail::Weights;

constexpr const char* kOp = "block_step";
constexpr size_t kMatrices = 4;  // in_proj, x_proj, dt_proj, out_proj
// Channels of the scan to a range: whole vectors and blocks of dt_proj's columns.
constexpr int64_t kScanStep = 48;

// (B, columns) that the kernels hand on, in the workspace.
struct Buffer {
  Float type = Float::kFloat32;
  int64_t offset = 0;  // floats
  int64_t columns = 0;
};

// Gathered before it is dispatched: what runs later allocates nothing.
struct Job {
  step::Channels channels{};
  norm::Inputs norm{};
  step::Sum sum{};
  std::array<std::unique_ptr<Weights>, kMatrices> matrices;
  std::array<const float*, 2> biases{};  // of in_proj and out_proj, or null
  int64_t floats = 0;
  Buffer normed, xz, u, dt_B_C, delta, y, out, packed;
  Rows rows_in, rows_u, rows_dt, rows_y;
  OutRows rows_xz, rows_dt_B_C, rows_delta, rows_out;

  Buffer buffer(Float type, int64_t columns) {
    const Buffer made{.type = type, .offset = floats, .columns = columns};
    floats += linear_detail::packed_stride(channels.batch * columns);
    return made;
  }

  // In the memory that the workspace has by now.
  static uint8_t* memory(float* workspace, const Buffer& buffer) {
    return reinterpret_cast<uint8_t*>(workspace + buffer.offset);
  }

  template <typename List>
  static void point(List& list, uint8_t* data, const Buffer& buffer) {
    list.type = buffer.type;
    for (auto& row : list.rows) {
      row = data;
      data += buffer.columns * linear_detail::size_of(buffer.type);
    }
  }

  void reserve();
  void run();
};

void Job::reserve() {
  const Float type = channels.element == cpu::Element::kFloat32    ? Float::kFloat32
                     : channels.element == cpu::Element::kBfloat16 ? Float::kBfloat16
                                                                   : Float::kFloat16;
  const int64_t D = channels.channels;
  normed = buffer(type, norm.channels);
  xz = buffer(type, 2 * D);
  u = buffer(type, D);
  dt_B_C = buffer(type, channels.rank + 2 * channels.states);
  delta = buffer(type, D);
  y = buffer(type, D);
  out = buffer(type, norm.channels);
  packed = {.type = Float::kFloat32, .offset = floats, .columns = 0};
  int64_t widest = 0;
  for (const auto& matrix : matrices) {
    widest = std::max(widest, matrix->few_workspace(channels.batch));
  }
  floats += widest;
  const auto batch = static_cast<size_t>(channels.batch);
  for (Rows* list : {&rows_in, &rows_u, &rows_dt, &rows_y}) {
    list->rows.resize(batch);
  }
  for (OutRows* list : {&rows_xz, &rows_dt_B_C, &rows_delta, &rows_out}) {
    list->rows.resize(batch);
  }
  linear_detail::Workspace::instance().reserve(floats);
}

void Job::run() {
  const std::unique_lock<std::mutex> locked = linear_detail::Workspace::instance().lock();
  float* const workspace = linear_detail::Workspace::instance().data();
  const auto at = [&](const Buffer& buffer) { return memory(workspace, buffer); };
  channels.xz = at(xz);
  channels.u = at(u);
  channels.dt_B_C = at(dt_B_C);
  channels.delta = at(delta);
  channels.y = at(y);
  sum.out = at(out);
  point(rows_in, at(normed), normed);
  point(rows_xz, at(xz), xz);
  point(rows_u, at(u), u);
  point(rows_dt_B_C, at(dt_B_C), dt_B_C);
  point(rows_dt, at(dt_B_C), dt_B_C);  // dt comes first in a row
  point(rows_delta, at(delta), delta);
  point(rows_y, at(y), y);
  point(rows_out, at(out), out);

  const auto& [in_proj, x_proj, dt_proj, out_proj] = matrices;
  const int64_t batch = channels.batch;
  const int64_t D = channels.channels;
  float* const x = workspace + packed.offset;
  const auto pack = [&](const Weights& weights, const Rows& rows) { weights.pack_few(rows, 0, batch, x); };
  const auto multiply = [&](const Weights& weights, const Rows& rows, const float* bias, int64_t begin, int64_t end,
                            const OutRows& to) { weights.few_columns(x, batch, rows.type, bias, begin, end, to); };
  norm::forward(norm, {at(normed), channels.element, nullptr, cpu::Element::kFloat32});
  pack(*in_proj, rows_in);

  const auto project_in = [&](int64_t begin, int64_t end) {
    multiply(*matrices[0], rows_in, biases[0], begin, end, rows_xz);
    if (begin < D) {
      step::convolve(channels, begin, std::min(end, D));
    }
  };
  const auto then_x = [&] { pack(*matrices[1], rows_u); };
  const auto project_x = [&](int64_t begin, int64_t end) {
    multiply(*matrices[1], rows_u, nullptr, begin, end, rows_dt_B_C);
  };
  const auto then_dt = [&] { pack(*matrices[2], rows_dt); };
  const auto scan = [&](int64_t begin, int64_t end) {
    multiply(*matrices[2], rows_dt, nullptr, begin, end, rows_delta);
    step::scan(channels, begin, end);
  };
  const auto then_out = [&] { pack(*matrices[3], rows_y); };
  const auto project_out = [&](int64_t begin, int64_t end) {
    multiply(*matrices[3], rows_y, biases[1], begin, end, rows_out);
    step::add(sum, begin, end);
  };
  // x_proj has few columns, of which each thread must get as many: whole blocks of quantised ones, 8 of floats.
  const int64_t x_step = std::gcd(x_proj->few_step(), int64_t{16});
  const Phase phases[] = {
      {.count = in_proj->n, .grain = in_proj->few_step(), .body = project_in, .then = then_x},
      {.count = x_proj->n, .grain = x_step, .body = project_x, .then = then_dt},
      {.count = dt_proj->n, .grain = kScanStep, .body = scan, .then = then_out},
      {.count = out_proj->n, .grain = out_proj->few_step(), .body = project_out},
  };
  parallel_phases(phases);
}

struct Settings {
  float eps;
  std::array<std::shared_ptr<const linear_detail::WeightFormat>, kMatrices> formats;
  bool has_conv_bias;
  bool has_in_bias;
  bool has_out_bias;

  bool operator==(const Settings& other) const {
    return eps == other.eps && has_conv_bias == other.has_conv_bias && has_in_bias == other.has_in_bias &&
           has_out_bias == other.has_out_bias &&
           std::equal(formats.begin(), formats.end(), other.formats.begin(),
                      [](const auto& a, const auto& b) { return a->equals(*b); });
  }
};

class BlockStep : public cpu::CpuNode<BlockStep, Settings> {
 public:
  static constexpr const char* kOp = mamba::ops::kOp;
  using CpuNode::CpuNode;

  // Inputs: h, conv, ssm, norm, conv_weight, dt_bias, A, D, then the biases there are (conv's, in_proj's, out_proj's),
  // then the matrices' arrays.
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    mx::cpu::CommandEncoder& encoder = mx::cpu::get_command_encoder(stream());
    size_t next = 0;
    const auto input = [&] {
      const mx::array array = row_contiguous(inputs[next++], encoder);
      encoder.set_input_array(array);
      return array;
    };
    const auto job = std::make_shared<Job>();
    // Copies of these three would keep their memory from being taken over.
    const mx::array& h = inputs[0];
    const void* const h_data = input().data<void>();
    step::Channels& c = job->channels;
    c.conv = input().data<void>();
    c.ssm = input().data<float>();
    c.batch = h.shape(0);
    c.channels = inputs[2].shape(1);
    c.states = inputs[2].shape(2);
    c.taps = inputs[1].shape(1) + 1;
    c.element = cpu::element_of(inputs[1]);

    norm::Inputs& norm = job->norm;
    norm.batch = 1;
    norm.length = c.batch;
    norm.channels = h.shape(1);
    norm.eps = settings_.eps;
    norm.element = cpu::element_of(h);
    norm.x = {h_data, 0, h.shape(1)};
    norm.weight = cpu::numbers_of(input());
    norm.wide_weight = norm.weight.element == cpu::Element::kFloat32 ? nullptr : workspace(norm.channels, encoder);

    c.conv_weight = cpu::numbers_of(input());
    c.dt_bias = input().data<float>();
    c.A = input().data<float>();
    c.D = input().data<float>();
    if (settings_.has_conv_bias) {
      c.conv_bias = cpu::numbers_of(input());
    }
    const bool has_bias[] = {settings_.has_in_bias, settings_.has_out_bias};
    for (size_t i = 0; i < 2; ++i) {
      if (has_bias[i]) {
        job->biases[i] = input().data<float>();
      }
    }
    for (size_t i = 0; i < kMatrices; ++i) {
      job->matrices[i] = settings_.formats[i]->read(inputs, next, encoder);
      next += settings_.formats[i]->arrays();
    }
    c.rank = job->matrices[2]->k;

    // A step reads the states once and writes them once: in place where nobody else holds them. Each output has a list
    // of the inputs, and those of the others, which MLX is about to clear, would hold them.
    for (mx::array& out : outputs) {
      if (&out.inputs() != &inputs && !out.is_tracer()) {
        out.inputs().clear();
      }
    }
    for (size_t i = 0; i < 3; ++i) {
      if (!take_over(inputs[i], outputs[i])) {
        allocate(outputs[i]);
      }
      encoder.set_output_array(outputs[i]);
    }
    c.conv_after = outputs[1].data<void>();
    c.ssm_after = outputs[2].data<float>();
    job->sum = {.batch = c.batch,
                .width = norm.channels,
                .h_element = norm.element,
                .out_element = c.element,
                .h = h_data,
                .out = nullptr,
                .to = outputs[0].data<void>()};
    job->reserve();
    encoder.dispatch([job] { job->run(); });
  }

  std::vector<mx::array> vjp(const std::vector<mx::array>&, const std::vector<mx::array>&, const std::vector<int>&,
                             const std::vector<mx::array>&) override {
    throw Error("[block_step] has no gradient");
  }

  const char* name() const override { return "BlockStep"; }
};

std::pair<int, int> shape_of(const StepMatrix& matrix) {
  if (const auto* floats = std::get_if<mx::array>(&matrix)) {
    return {floats->shape(0), floats->shape(1)};
  }
  if (const auto* packed = std::get_if<PackedWeight>(&matrix)) {
    return {packed->rows(), packed->columns()};
  }
  const auto& quantized = std::get<QuantizedWeight>(matrix);
  return {quantized.rows(), quantized.columns()};
}

void check_matrix(const char* name, const StepMatrix& matrix, int rows, int columns) {
  if (const auto* floats = std::get_if<mx::array>(&matrix)) {
    check_shape(kOp, name, *floats, {-1, -1});
    check_float(kOp, name, *floats);
  } else if (const auto* packed = std::get_if<PackedWeight>(&matrix)) {
    check_quantized(kOp, *packed);
  } else {
    check_quantized(kOp, std::get<QuantizedWeight>(matrix));
  }
  const auto [n, k] = shape_of(matrix);
  check((rows < 0 || n == rows) && k == columns, "[{}] {} must be ({}, {}) but is ({}, {})", kOp, name, rows, columns,
        n, k);
}

void check_float32(const char* name, const mx::array& a) {
  check(a.dtype() == mx::float32, "[{}] {} must be float32 but is {}", kOp, name, shown(a.dtype()));
}

void check_arguments(const mx::array& h, const mx::array& conv, const mx::array& ssm, const CpuStepWeights& w) {
  check_shape(kOp, "h", h, {-1, -1});
  check_shape(kOp, "A", w.A, {-1, -1});
  check_shape(kOp, "conv_weight", w.conv_weight, {w.A.shape(0), -1});
  const int batch = h.shape(0);
  const int width = h.shape(1);
  const int channels = w.A.shape(0);
  const int states = w.A.shape(1);
  check_shape(kOp, "conv", conv, {batch, w.conv_weight.shape(1) - 1, channels});
  check_shape(kOp, "ssm", ssm, {batch, channels, states});
  check_float(kOp, "conv", conv);
  check(h.dtype() == mx::float32 || h.dtype() == conv.dtype(), "[{}] h must be float32 or {} but is {}", kOp,
        shown(conv.dtype()), shown(h.dtype()));
  check_shape(kOp, "norm", w.norm, {width});
  check_shape(kOp, "dt_bias", w.dt_bias, {channels});
  check_shape(kOp, "D", w.D, {channels});
  for (const auto& [name, array] : {std::pair{"ssm", &ssm}, {"dt_bias", &w.dt_bias}, {"A", &w.A}, {"D", &w.D}}) {
    check_float32(name, *array);
  }
  check_matrix("in_proj", w.in_proj, 2 * channels, width);
  const int rank = shape_of(w.dt_proj).second;
  check_matrix("x_proj", w.x_proj, rank + 2 * states, channels);
  check_matrix("dt_proj", w.dt_proj, channels, rank);
  check_matrix("out_proj", w.out_proj, width, channels);
  if (w.conv_bias) {
    check_shape(kOp, "conv_bias", *w.conv_bias, {channels});
  }
  if (w.in_bias) {
    check_shape(kOp, "in_bias", *w.in_bias, {2 * channels});
  }
  if (w.out_bias) {
    check_shape(kOp, "out_bias", *w.out_bias, {width});
  }
}

}  // namespace

bool can_step_on_cpu(const mx::Stream& stream) {
  return on_cpu(stream);
}

StepOutputs cpu_block_step(const mx::array& h, const mx::array& conv, const mx::array& ssm,
                           const CpuStepWeights& weights, const mx::Stream& stream) {
  check_arguments(h, conv, ssm, weights);
  check(can_step_on_cpu(stream), "[{}] this one runs on CPU streams alone", kOp);
  Settings settings{.eps = weights.eps,
                    .formats = {},
                    .has_conv_bias = weights.conv_bias.has_value(),
                    .has_in_bias = weights.in_bias.has_value(),
                    .has_out_bias = weights.out_bias.has_value()};
  std::vector<mx::array> inputs;
  inputs.reserve(23);
  inputs.insert(inputs.end(), {h, conv, ssm, weights.norm, weights.conv_weight, weights.dt_bias, weights.A, weights.D});
  if (weights.conv_bias) {
    inputs.push_back(*weights.conv_bias);
  }
  for (const auto& bias : {weights.in_bias, weights.out_bias}) {
    if (bias) {
      inputs.push_back(mx::astype(*bias, mx::float32, stream));
    }
  }
  const StepMatrix* const matrices[] = {&weights.in_proj, &weights.x_proj, &weights.dt_proj, &weights.out_proj};
  const auto append = [&](const std::vector<mx::array>& arrays) {
    inputs.insert(inputs.end(), arrays.begin(), arrays.end());
  };
  for (size_t i = 0; i < kMatrices; ++i) {
    if (const auto* floats = std::get_if<mx::array>(matrices[i])) {
      settings.formats[i] = linear_detail::float_format();
      inputs.push_back(*floats);
    } else if (const auto* packed = std::get_if<PackedWeight>(matrices[i])) {
      settings.formats[i] = quantized_detail::format_of(*packed);
      append(quantized_detail::arrays_of(*packed));
    } else {
      const auto& quantized = std::get<QuantizedWeight>(*matrices[i]);
      settings.formats[i] = quantized_detail::format_of(quantized);
      append(quantized_detail::arrays_of(quantized));
    }
  }
  std::vector<mx::array> out =
      mx::array::make_arrays({h.shape(), conv.shape(), ssm.shape()}, {h.dtype(), conv.dtype(), mx::float32},
                             std::make_shared<BlockStep>(stream, settings), inputs);
  return {std::move(out[0]), std::move(out[1]), std::move(out[2])};
}

}  // namespace mamba::ops
