#include "mamba/ops/block_step/cpu_block.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "mamba/base/error.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/quantized_linear/forward.h"
#include "mamba/ops/rms_norm/kernel.h"

namespace mamba::ops::step {

namespace mx = mlx::core;

namespace {

using linear_detail::OutRows;
using linear_detail::Rows;
using linear_detail::Weights;

// Channels of the scan to a range: whole vectors and blocks of dt_proj's columns.
constexpr int64_t kScanStep = 48;
constexpr int64_t kVector = 16;

// So many are normalised by all threads, although these have to meet once more.
constexpr int64_t kManySequences = 4;

// Whether what a product reads is packed in parts, each by the thread that has made it.
bool in_parts(const Weights& matrix) {
  return matrix.few_part_step() < matrix.k;
}

// MLX's own contiguous() would copy what lies in memory that is not its own.
mx::array contiguous(mx::array a, const mx::Stream& stream) {
  a.eval();
  if (!a.flags().row_contiguous) {
    a = mx::contiguous(a, false, stream);
    a.eval();
  }
  return a;
}

mx::array in_float32(const mx::array& a, const mx::Stream& stream) {
  return contiguous(mx::astype(a, mx::float32, stream), stream);
}

std::optional<mx::array> in_float32(const std::optional<mx::array>& a, const mx::Stream& stream) {
  return a ? std::optional(in_float32(*a, stream)) : std::nullopt;
}

const float* data_of(const std::optional<mx::array>& a) {
  return a ? a->data<float>() : nullptr;
}

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

void check_matrix(const char* op, const char* name, const StepMatrix& matrix, int rows, int columns) {
  if (const auto* floats = std::get_if<mx::array>(&matrix)) {
    check_shape(op, name, *floats, {-1, -1});
    check_float(op, name, *floats);
  } else if (const auto* packed = std::get_if<PackedWeight>(&matrix)) {
    check_quantized(op, *packed);
  } else {
    check_quantized(op, std::get<QuantizedWeight>(matrix));
  }
  const auto [n, k] = shape_of(matrix);
  check((rows < 0 || n == rows) && (columns < 0 || k == columns), "[{}] {} must be ({}, {}) but is ({}, {})", op, name,
        rows, columns, n, k);
}

// What else a block's weights must be.
const CpuStepWeights& checked(const char* op, const CpuStepWeights& w) {
  check_shape(op, "norm", w.norm, {-1});
  check_shape(op, "A", w.A, {-1, -1});
  const int width = w.norm.shape(0);
  const int channels = w.A.shape(0);
  check_shape(op, "conv_weight", w.conv_weight, {channels, -1});
  check_shape(op, "dt_bias", w.dt_bias, {channels});
  check_shape(op, "D", w.D, {channels});
  for (const auto& [name, array] : {std::pair{"dt_bias", &w.dt_bias}, {"A", &w.A}, {"D", &w.D}}) {
    check(array->dtype() == mx::float32, "[{}] {} must be float32 but is {}", op, name, shown(array->dtype()));
  }
  if (w.conv_bias) {
    check_shape(op, "conv_bias", *w.conv_bias, {channels});
  }
  if (w.in_bias) {
    check_shape(op, "in_bias", *w.in_bias, {2 * channels});
  }
  if (w.out_bias) {
    check_shape(op, "out_bias", *w.out_bias, {width});
  }
  return w;
}

}  // namespace

CpuMatrix::CpuMatrix(const char* op, const char* name, const StepMatrix& matrix, int rows, int columns,
                     const mx::Stream& stream) {
  check_matrix(op, name, matrix, rows, columns);
  std::shared_ptr<const linear_detail::WeightFormat> format;
  if (const auto* floats = std::get_if<mx::array>(&matrix)) {
    format = linear_detail::float_format();
    arrays_ = {*floats};
  } else if (const auto* packed = std::get_if<PackedWeight>(&matrix)) {
    format = quantized_detail::format_of(*packed);
    arrays_ = quantized_detail::arrays_of(*packed);
  } else {
    const auto& quantized = std::get<QuantizedWeight>(matrix);
    format = quantized_detail::format_of(quantized);
    arrays_ = quantized_detail::arrays_of(quantized);
  }
  for (mx::array& array : arrays_) {
    array = contiguous(std::move(array), stream);
  }
  weights_ = format->read(arrays_, 0, mx::cpu::get_command_encoder(stream));
}

CpuNorm::CpuNorm(const mx::array& weight_, float eps_, const mx::Stream& stream)
    : weight(in_float32(weight_, stream)), eps(eps_) {}

CpuBlock::CpuBlock(const char* op, const CpuStepWeights& w, const mx::Stream& stream)
    : norm(checked(op, w).norm, w.eps, stream),
      conv_weight(in_float32(mx::transpose(w.conv_weight, stream), stream)),
      conv_bias(in_float32(w.conv_bias, stream)),
      in_bias(in_float32(w.in_bias, stream)),
      out_bias(in_float32(w.out_bias, stream)),
      dt_bias(in_float32(w.dt_bias, stream)),
      A(in_float32(w.A, stream)),
      D(in_float32(w.D, stream)),
      in_proj(op, "in_proj", w.in_proj, 2 * channels(), width(), stream),
      x_proj(op, "x_proj", w.x_proj, shape_of(w.dt_proj).second + 2 * states(), channels(), stream),
      dt_proj(op, "dt_proj", w.dt_proj, channels(), -1, stream),
      out_proj(op, "out_proj", w.out_proj, width(), channels(), stream) {}

RowsBuffer::RowsBuffer(Float type, int64_t row_count, int64_t columns_, int64_t offset_)
    : offset(offset_), columns(columns_) {
  rows.type = type;
  out.type = type;
  rows.rows.resize(static_cast<size_t>(row_count));
  out.rows.resize(static_cast<size_t>(row_count));
}

void RowsBuffer::place(float* memory) {
  auto* row = reinterpret_cast<uint8_t*>(memory + offset);
  data = row;
  for (size_t i = 0; i < out.rows.size(); ++i) {
    rows.rows[i] = row;
    out.rows[i] = row;
    row += columns * linear_detail::size_of(out.type);
  }
}

StepBuffers::Buffer StepBuffers::buffer(cpu::Element type, int64_t columns) {
  const int64_t offset = floats_;
  floats_ += linear_detail::packed_stride(batch * columns);
  return {float_of(type), batch, columns, offset};
}

StepBuffers::StepBuffers(const CpuBlock& block, int64_t batch_, cpu::Element element_, cpu::Element residual_,
                         int64_t few_workspace)
    : batch(batch_), element(element_), residual(residual_) {
  const int64_t D = block.channels();
  h = buffer(residual, block.width());
  normed = buffer(element, block.width());
  xz = buffer(element, 2 * D);
  u = buffer(element, D);
  dt_B_C = buffer(element, block.rank() + 2 * block.states());
  delta = buffer(element, D);
  y = buffer(element, D);
  out = buffer(element, block.width());
  packed_offset_ = floats_;
  packed_channels_offset_ = packed_offset_ + few_workspace;
  floats_ = packed_channels_offset_ + few_workspace;
}

void StepBuffers::place(float* memory) {
  for (Buffer* buffer : {&h, &normed, &xz, &u, &dt_B_C, &delta, &y, &out}) {
    buffer->place(memory);
  }
  packed = memory + packed_offset_;
  packed_channels = memory + packed_channels_offset_;
}

void normalise(const CpuNorm& norm, const Weights& next, StepBuffers& buffers, int64_t begin, int64_t end) {
  const auto row = static_cast<size_t>(begin);
  norm::Inputs in{};
  in.batch = 1;
  in.length = end - begin;
  in.channels = norm.weight.shape(0);
  in.eps = norm.eps;
  in.element = buffers.residual;
  in.x = {buffers.h.out.rows[row], 0, in.channels};
  in.weight = cpu::numbers_of(norm.weight);
  norm::forward(in, {buffers.normed.out.rows[row], buffers.element, nullptr, cpu::Element::kFloat32});
  next.pack_few(buffers.normed.rows, begin, end, buffers.packed);
}

BlockRun::BlockRun(const CpuBlock& block, StepBuffers& buffers, const States& states, const Next& next)
    : block_(block), buffers_(buffers), next_(next) {
  channels_ = {.batch = buffers.batch,
               .channels = block.channels(),
               .states = block.states(),
               .taps = block.taps(),
               .rank = block.rank(),
               .element = buffers.element,
               .xz = buffers.xz.data,
               .conv_weight = block.conv_weight.data<float>(),
               .conv_bias = data_of(block.conv_bias),
               .conv = states.conv,
               .conv_after = states.conv_after,
               .u = buffers.u.data,
               .dt_B_C = buffers.dt_B_C.data,
               .delta = buffers.delta.data,
               .dt_bias = block.dt_bias.data<float>(),
               .A = block.A.data<float>(),
               .D = block.D.data<float>(),
               .ssm = states.ssm,
               .ssm_after = states.ssm_after,
               .y = buffers.y.data};
}

void BlockRun::append_phases(std::vector<Phase>& phases) {
  using Then = FunctionRef<void()>;
  Phase in = {.count = block_.in_proj->n,
              .grain = block_.in_proj->few_step(),
              .body = RangeFn::to<&BlockRun::project_in>(*this)};
  if (in_parts(*block_.x_proj)) {
    in.grain = std::lcm(in.grain, block_.x_proj->few_part_step());
  } else {
    in.then = Then::to<&BlockRun::pack_u>(*this);
  }
  phases.push_back(in);
  // x_proj has few columns, of which each thread must get as many: whole blocks of quantised ones, 8 of floats.
  const int64_t x_step = std::gcd(block_.x_proj->few_step(), int64_t{16});
  phases.push_back({.count = block_.x_proj->n,
                    .grain = x_step,
                    .body = RangeFn::to<&BlockRun::project_x>(*this),
                    .then = Then::to<&BlockRun::pack_dt>(*this)});
  Phase scan = {.count = block_.dt_proj->n, .grain = kScanStep, .body = RangeFn::to<&BlockRun::scan>(*this)};
  if (in_parts(*block_.out_proj)) {
    scan.grain = std::lcm(kVector, block_.out_proj->few_part_step());
  } else {
    scan.then = Then::to<&BlockRun::pack_y>(*this);
  }
  phases.push_back(scan);
  Phase out = {.count = block_.out_proj->n,
               .grain = block_.out_proj->few_step(),
               .body = RangeFn::to<&BlockRun::project_out>(*this)};
  if (buffers_.batch < kManySequences) {
    out.then = Then::to<&BlockRun::finish>(*this);
    phases.push_back(out);
  } else {
    phases.push_back(out);
    phases.push_back({.count = buffers_.batch, .grain = 1, .body = RangeFn::to<&BlockRun::finish_some>(*this)});
  }
}

void BlockRun::project_in(int64_t begin, int64_t end) {
  block_.in_proj->few_columns(buffers_.packed, buffers_.batch, buffers_.normed.rows.type, data_of(block_.in_bias),
                              begin, end, buffers_.xz.out);
  if (begin < block_.channels()) {
    end = std::min<int64_t>(end, block_.channels());
    convolve(channels_, begin, end);
    if (in_parts(*block_.x_proj)) {
      block_.x_proj->pack_few_part(buffers_.u.rows, begin, end, buffers_.packed_channels);
    }
  }
}

void BlockRun::pack_u() {
  block_.x_proj->pack_few(buffers_.u.rows, 0, buffers_.batch, buffers_.packed_channels);
}

void BlockRun::project_x(int64_t begin, int64_t end) {
  block_.x_proj->few_columns(buffers_.packed_channels, buffers_.batch, buffers_.u.rows.type, nullptr, begin, end,
                             buffers_.dt_B_C.out);
}

// dt comes first in a row.
void BlockRun::pack_dt() {
  block_.dt_proj->pack_few(buffers_.dt_B_C.rows, 0, buffers_.batch, buffers_.packed);
}

void BlockRun::scan(int64_t begin, int64_t end) {
  block_.dt_proj->few_columns(buffers_.packed, buffers_.batch, buffers_.dt_B_C.rows.type, nullptr, begin, end,
                              buffers_.delta.out);
  step::scan(channels_, begin, end);
  if (in_parts(*block_.out_proj)) {
    block_.out_proj->pack_few_part(buffers_.y.rows, begin, end, buffers_.packed_channels);
  }
}

void BlockRun::pack_y() {
  block_.out_proj->pack_few(buffers_.y.rows, 0, buffers_.batch, buffers_.packed_channels);
}

void BlockRun::project_out(int64_t begin, int64_t end) {
  block_.out_proj->few_columns(buffers_.packed_channels, buffers_.batch, buffers_.y.rows.type, data_of(block_.out_bias),
                               begin, end, buffers_.out.out);
  add({.batch = buffers_.batch,
       .width = block_.width(),
       .h_element = buffers_.residual,
       .out_element = buffers_.element,
       .h = buffers_.h.data,
       .out = buffers_.out.data,
       .to = buffers_.h.data},
      begin, end);
}

void BlockRun::finish() {
  finish_some(0, buffers_.batch);
}

void BlockRun::finish_some(int64_t begin, int64_t end) {
  normalise(*next_.norm, *next_.matrix, buffers_, begin, end);
}

}  // namespace mamba::ops::step
