#include "mamba/ops/block_step/cpu_prompt.h"

#include <algorithm>
#include <utility>

#include "mamba/ops/rms_norm/kernel.h"

namespace mamba::ops::step {

namespace mx = mlx::core;

using linear_detail::ManyRows;
using linear_detail::Product;

namespace {

constexpr int64_t kRowsAtOnce = 24;        // positions of the norm, about
constexpr int64_t kMostRowsAtOnce = 32;    // and of mix()
constexpr int64_t kMixFloats = 48 * 1024;  // of packed positions: 192 KiB
constexpr int64_t kDtPanels = 8;           // of dt_proj packed at a time
constexpr int64_t kLine = 16;              // floats

int64_t whole_lines(int64_t floats) {
  return (floats + kLine - 1) / kLine * kLine;
}

int64_t pieces_of(int64_t count, int64_t size) {
  return (count + size - 1) / size;
}

const ManyRows* way_of(const CpuMatrix& matrix, Float x) {
  return matrix->many_in_pieces(x);
}

// Positions of mix(), whole blocks: about so many that both products' left operands have room for and that give all
// threads as many; none if there is not room for a block.
int64_t mix_rows(const CpuBlock& block, Float x, int64_t length) {
  const ManyRows& first = *way_of(block.x_proj, x);
  const ManyRows& second = *way_of(block.dt_proj, x);
  const int64_t step = first.block_rows();
  const auto has_room = [&](int64_t rows) {
    return first.left_floats(rows, block.channels()) <= kMixFloats &&
           second.left_floats(rows, block.rank()) <= kMixFloats;
  };
  const auto largest_share = [&](int64_t rows) {
    return pieces_of(pieces_of(length, rows), num_threads()) * std::min(rows, length);
  };
  int64_t best = 0;
  for (int64_t rows = step; rows < kMostRowsAtOnce + step && has_room(rows); rows += step) {
    best = best == 0 || largest_share(rows) <= largest_share(best) ? rows : best;
  }
  return best;
}

}  // namespace

bool can_take_prompt(const CpuBlock& block, Float x) {
  for (const CpuMatrix* matrix : {&block.in_proj, &block.x_proj, &block.dt_proj, &block.out_proj}) {
    if (way_of(*matrix, x) == nullptr) {
      return false;
    }
  }
  return mix_rows(block, x, 1) > 0;
}

PromptBuffers::Buffer PromptBuffers::view(const Buffer& of, int64_t columns) const {
  return {float_of(element), length, columns, of.offset};
}

PromptBuffers::Buffer PromptBuffers::buffer(int64_t columns) {
  return {float_of(element), length, columns, take(length * columns)};
}

int64_t PromptBuffers::take(int64_t floats) {
  const int64_t offset = floats_;
  floats_ += whole_lines(floats);
  return offset;
}

PromptBuffers::PromptBuffers(const CpuBlock& block, int64_t length_, cpu::Element element_, cpu::Element residual_)
    : length(length_), element(element_), residual(residual_) {
  const Float x = float_of(element);
  const int64_t D = block.channels();
  const int64_t M = block.width();
  xz = buffer(2 * D);
  dt_B_C = buffer(block.rank() + 2 * block.states());
  u = buffer(std::max(D, M));
  normed = view(u, M);
  u = view(u, D);
  delta = buffer(std::max(D, M));
  out = view(delta, M);
  delta = view(delta, D);
  left_ = take(
      std::max(way_of(block.in_proj, x)->left_floats(length, M), way_of(block.out_proj, x)->left_floats(length, D)));
  x_panels_ = take(way_of(block.x_proj, x)->panel_floats(block.x_proj->n, D));
  dt_panels_ = take(way_of(block.dt_proj, x)->panel_floats(D, block.rank()));
  conv_ = take(conv::packed_floats(D, block.taps()));
}

void PromptBuffers::place(float* memory) {
  for (Buffer* buffer : {&xz, &dt_B_C, &normed, &u, &delta, &out}) {
    buffer->place(memory);
  }
  left = memory + left_;
  x_panels = memory + x_panels_;
  dt_panels = memory + dt_panels_;
  conv = memory + conv_;
}

const ManyRows& PromptRun::way_of(const CpuMatrix& matrix) const {
  return *step::way_of(matrix, buffers_.xz.rows.type);
}

Product PromptRun::product_of(const CpuMatrix& matrix, const std::optional<mx::array>& bias,
                              const PromptBuffers::Buffer& out) const {
  Product product;
  product.m = buffers_.length;
  product.n = matrix->n;
  product.k = matrix->k;
  product.left.rows.type = buffers_.xz.rows.type;
  product.right = matrix->right();
  product.bias = bias ? bias->data<float>() : nullptr;
  product.out = out.out;
  return product;
}

PromptRun::PromptRun(const CpuBlock& block, PromptBuffers& buffers, const Sequence& sequence)
    : block_(block),
      buffers_(buffers),
      sequence_(sequence),
      in_way_(way_of(block.in_proj)),
      x_way_(way_of(block.x_proj)),
      dt_way_(way_of(block.dt_proj)),
      out_way_(way_of(block.out_proj)),
      in_product_(product_of(block.in_proj, block.in_bias, buffers.xz)),
      x_product_(product_of(block.x_proj, {}, buffers.dt_B_C)),
      dt_product_(product_of(block.dt_proj, {}, buffers.delta)),
      out_product_(product_of(block.out_proj, block.out_bias, buffers.out)) {
  const int64_t D = block.channels();
  const int64_t size = linear_detail::size_of(buffers.xz.rows.type);
  const auto part = [&](const PromptBuffers::Buffer& of, int64_t column) {
    return cpu::Rows{static_cast<const uint8_t*>(of.data) + column * size, 0, of.columns};
  };
  conv_in_.batch = 1;
  conv_in_.length = buffers.length;
  conv_in_.channels = D;
  conv_in_.taps = block.taps();
  conv_in_.element = buffers.element;
  conv_in_.silu = true;
  conv_in_.x = part(buffers.xz, 0);
  conv_in_.initial_state = sequence.conv;
  conv_in_.packed = buffers.conv;
  scan_in_.batch = 1;
  scan_in_.length = buffers.length;
  scan_in_.channels = D;
  scan_in_.states = block.states();
  scan_in_.element = buffers.element;
  scan_in_.softplus = true;
  scan_in_.u = part(buffers.u, 0);
  scan_in_.delta = part(buffers.delta, 0);
  scan_in_.B = part(buffers.dt_B_C, block.rank());
  scan_in_.C = part(buffers.dt_B_C, block.rank() + block.states());
  scan_in_.z = part(buffers.xz, D);
  scan_in_.A = block.A.data<float>();
  scan_in_.D = cpu::numbers_of(block.D);
  scan_in_.delta_bias = cpu::numbers_of(block.dt_bias);
  scan_in_.initial_state = sequence.ssm;
  norm_rows_ = pieces_of(kRowsAtOnce, in_way_.block_rows()) * in_way_.block_rows();
  norm_pieces_ = pieces_of(buffers.length, norm_rows_);
  x_panel_pieces_ = pieces_of(block.x_proj->n, x_way_.panel_columns());
  mix_rows_ = step::mix_rows(block, buffers.xz.rows.type, buffers.length);
}

void PromptRun::run() {
  const int64_t length = buffers_.length;
  const int64_t dt_pieces = pieces_of(block_.dt_proj->n, kDtPanels * dt_way_.panel_columns());
  // At least four ranges of columns a thread, as far as narrower ones give them.
  const auto columns = [](const ManyRows& way, const Product& product) {
    const int64_t panel = way.panel_columns();
    const int64_t narrow = pieces_of(product.n, 4 * num_threads() * panel) * panel;
    return std::clamp(narrow, panel, way.tile_columns(product.k));
  };
  using Then = FunctionRef<void()>;
  const std::array<Phase, 6> phases = {
      Phase{.count = norm_pieces_ + x_panel_pieces_ + dt_pieces,
            .grain = 1,
            .body = RangeFn::to<&PromptRun::prepare>(*this)},
      Phase{.count = in_product_.n,
            .grain = columns(in_way_, in_product_),
            .body = RangeFn::to<&PromptRun::project_in>(*this)},
      Phase{.count = pieces_of(length, mix_rows_),
            .grain = 1,
            .body = RangeFn::to<&PromptRun::mix>(*this),
            .then = Then::to<&PromptRun::end_mixing>(*this)},
      Phase{.count = scan::num_tasks(scan_in_), .grain = 1, .body = RangeFn::to<&PromptRun::scan>(*this)},
      Phase{.count = length, .grain = 4 * out_way_.block_rows(), .body = RangeFn::to<&PromptRun::pack_y>(*this)},
      Phase{.count = out_product_.n,
            .grain = columns(out_way_, out_product_),
            .body = RangeFn::to<&PromptRun::project_out>(*this)},
  };
  conv::fill_packed(block_.conv_weight.data<float>(), block_.conv_bias ? block_.conv_bias->data<float>() : nullptr,
                    block_.channels(), block_.taps(), buffers_.conv);
  parallel_phases(phases);
}

void PromptRun::prepare(int64_t begin, int64_t end) {
  for (int64_t piece = begin; piece < end; ++piece) {
    if (piece < norm_pieces_) {
      normalise(piece * norm_rows_, std::min(buffers_.length, (piece + 1) * norm_rows_));
      continue;
    }
    const bool of_x = piece < norm_pieces_ + x_panel_pieces_;
    const ManyRows& way = of_x ? x_way_ : dt_way_;
    const Product& product = of_x ? x_product_ : dt_product_;
    const int64_t columns = (of_x ? 1 : kDtPanels) * way.panel_columns();
    const int64_t first = columns * (piece - norm_pieces_ - (of_x ? 0 : x_panel_pieces_));
    way.pack_panels(product, first, std::min(product.n, first + columns),
                    of_x ? buffers_.x_panels : buffers_.dt_panels);
  }
}

void PromptRun::normalise(int64_t begin, int64_t end) {
  const int64_t width = block_.width();
  norm::Inputs in{};
  in.batch = 1;
  in.length = end - begin;
  in.channels = width;
  in.eps = block_.norm.eps;
  in.element = buffers_.residual;
  in.x = {
      static_cast<const uint8_t*>(sequence_.h) + begin * width * linear_detail::size_of(float_of(buffers_.residual)), 0,
      width};
  in.weight = cpu::numbers_of(block_.norm.weight);
  norm::forward(
      in, {buffers_.normed.out.rows[static_cast<size_t>(begin)], buffers_.element, nullptr, cpu::Element::kFloat32});
  in_way_.pack_left(buffers_.normed.rows, 0, begin, end, width, buffers_.left);
}

void PromptRun::project_in(int64_t begin, int64_t end) {
  in_way_.multiply_columns(in_product_, buffers_.left, begin, end);
}

void PromptRun::mix(int64_t begin, int64_t end) {
  alignas(64) float left[kMixFloats];
  for (int64_t piece = begin; piece < end; ++piece) {
    const int64_t from = piece * mix_rows_;
    const int64_t to = std::min(buffers_.length, from + mix_rows_);
    conv::forward_positions(conv_in_, 0, from, to, buffers_.u.data);
    x_way_.pack_left(buffers_.u.rows, from, from, to, block_.channels(), left);
    x_way_.multiply_rows(x_product_, left, from, from, to, buffers_.x_panels);
    // dt comes first in a row.
    dt_way_.pack_left(buffers_.dt_B_C.rows, from, from, to, block_.rank(), left);
    dt_way_.multiply_rows(dt_product_, left, from, from, to, buffers_.dt_panels);
  }
}

void PromptRun::end_mixing() {
  conv::forward_state(conv_in_, 0, sequence_.conv_after);
}

void PromptRun::scan(int64_t begin, int64_t end) {
  scan::forward_tasks(scan_in_, {.y = buffers_.u.data, .state = sequence_.ssm_after, .kept = nullptr}, begin, end);
}

void PromptRun::pack_y(int64_t begin, int64_t end) {
  out_way_.pack_left(buffers_.u.rows, 0, begin, end, block_.channels(), buffers_.left);
}

void PromptRun::project_out(int64_t begin, int64_t end) {
  out_way_.multiply_columns(out_product_, buffers_.left, begin, end);
  add({.batch = buffers_.length,
       .width = block_.width(),
       .h_element = buffers_.residual,
       .out_element = buffers_.element,
       .h = sequence_.h,
       .out = buffers_.out.data,
       .to = sequence_.h_after},
      begin, end);
}

}  // namespace mamba::ops::step
