// A block's work on many positions of one sequence on a CPU, as loops over plain memory that threads walk through
// together (Linux): the bits of the operations that models/block.cpp puts together. What lies between the products
// stays in the second-level cache where it can: the norm writes what in_proj reads, and the convolution, x_proj and
// dt_proj take a few positions at a time. Private to the ops of steps.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "mamba/base/threads.h"
#include "mamba/ops/block_step/cpu_block.h"
#include "mamba/ops/causal_conv1d/kernel.h"
#include "mamba/ops/linear/many_rows.h"
#include "mamba/ops/selective_scan/kernel.h"

namespace mamba::ops::step {

// Whether the block's products can be done in pieces with x of this dtype.
bool can_take_prompt(const CpuBlock& block, Float x);

// What lies between a block's loops, in one piece of memory that all blocks of the same shape use.
class PromptBuffers {
 public:
  PromptBuffers(const CpuBlock& block, int64_t length, cpu::Element element, cpu::Element residual);

  int64_t floats() const { return floats_; }
  void place(float* memory);

  using Buffer = RowsBuffer;  // (length, columns)

  int64_t length;
  cpu::Element element, residual;
  Buffer xz, dt_B_C;
  // What is normalised, then u, then y; and delta, then out_proj's result.
  Buffer normed, u, delta, out;
  float* left = nullptr;      // in_proj's packed left operand, then out_proj's
  float* x_panels = nullptr;  // x_proj's and dt_proj's packed weights
  float* dt_panels = nullptr;
  float* conv = nullptr;  // as causal_conv1d packs its weights

 private:
  Buffer buffer(int64_t columns);
  Buffer view(const Buffer& of, int64_t columns) const;
  int64_t take(int64_t floats);

  int64_t floats_ = 0;
  int64_t left_ = 0, x_panels_ = 0, dt_panels_ = 0, conv_ = 0;
};

class PromptRun {
 public:
  // Each output may be the input.
  struct Sequence {
    const void* h;  // (length, width), residual
    void* h_after;
    const void* conv;  // (K - 1, D) T
    void* conv_after;
    const float* ssm;  // (D, N)
    float* ssm_after;
  };

  PromptRun(const CpuBlock& block, PromptBuffers& buffers, const Sequence& sequence);
  PromptRun(const PromptRun&) = delete;
  PromptRun& operator=(const PromptRun&) = delete;

  void run();

 private:
  linear_detail::Product product_of(const CpuMatrix& matrix, const std::optional<mlx::core::array>& bias,
                                    const PromptBuffers::Buffer& out) const;
  const linear_detail::ManyRows& way_of(const CpuMatrix& matrix) const;

  void prepare(int64_t begin, int64_t end);
  void normalise(int64_t begin, int64_t end);
  void project_in(int64_t begin, int64_t end);
  void mix(int64_t begin, int64_t end);
  void end_mixing();
  void scan(int64_t begin, int64_t end);
  void pack_y(int64_t begin, int64_t end);
  void project_out(int64_t begin, int64_t end);

  const CpuBlock& block_;
  PromptBuffers& buffers_;
  Sequence sequence_;
  const linear_detail::ManyRows &in_way_, &x_way_, &dt_way_, &out_way_;
  linear_detail::Product in_product_, x_product_, dt_product_, out_product_;
  conv::Inputs conv_in_{};
  scan::Inputs scan_in_{};
  int64_t norm_rows_ = 0, mix_rows_ = 0;          // positions to a piece
  int64_t norm_pieces_ = 0, x_panel_pieces_ = 0;  // of prepare(), in this order; dt_proj's panels follow
};

}  // namespace mamba::ops::step
