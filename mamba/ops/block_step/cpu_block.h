// A block's step on a CPU as loops over plain memory (Linux). What a step costs is to read the weights; between them
// the threads that walk through the loops meet four times. Private to the ops of steps.
#pragma once

#include <mlx/array.h>
#include <mlx/stream.h>

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "mamba/base/threads.h"
#include "mamba/ops/block_step/cpu_kernel.h"
#include "mamba/ops/block_step/cpu_step.h"
#include "mamba/ops/linear/weights.h"

namespace mamba::ops::step {

using linear_detail::Float;

inline Float float_of(cpu::Element element) {
  return element == cpu::Element::kFloat32    ? Float::kFloat32
         : element == cpu::Element::kBfloat16 ? Float::kBfloat16
                                              : Float::kFloat16;
}

// A matrix as its kernels read it. Evaluates its arrays, and keeps them.
class CpuMatrix {
 public:
  // Throws Error unless it is (rows, columns); -1 is any number.
  CpuMatrix(const char* op, const char* name, const StepMatrix& matrix, int rows, int columns,
            const mlx::core::Stream& stream);

  const linear_detail::Weights& operator*() const { return *weights_; }
  const linear_detail::Weights* operator->() const { return weights_.get(); }

 private:
  std::vector<mlx::core::array> arrays_;
  std::unique_ptr<const linear_detail::Weights> weights_;
};

// A norm's weight in float32.
struct CpuNorm {
  CpuNorm(const mlx::core::array& weight, float eps, const mlx::core::Stream& stream);

  mlx::core::array weight;
  float eps;
};

// A block's weights likewise.
struct CpuBlock {
  // Throws Error where shapes or dtypes do not fit each other.
  CpuBlock(const char* op, const CpuStepWeights& weights, const mlx::core::Stream& stream);

  CpuNorm norm;
  mlx::core::array conv_weight;                                  // (K, D) float32
  std::optional<mlx::core::array> conv_bias, in_bias, out_bias;  // float32
  mlx::core::array dt_bias, A, D;
  CpuMatrix in_proj, x_proj, dt_proj, out_proj;

  int width() const { return norm.weight.shape(0); }
  int channels() const { return A.shape(0); }
  int states() const { return A.shape(1); }
  int taps() const { return conv_weight.shape(0); }
  int rank() const { return static_cast<int>(dt_proj->k); }
};

// A matrix, rows contiguous, in memory that others share: `offset` floats behind where that begins.
struct RowsBuffer {
  RowsBuffer() = default;
  RowsBuffer(linear_detail::Float type, int64_t row_count, int64_t columns, int64_t offset);

  void place(float* memory);

  linear_detail::Rows rows;
  linear_detail::OutRows out;
  void* data = nullptr;
  int64_t offset = 0;
  int64_t columns = 0;
};

// What blocks hand on within a step, in one piece of memory that all of them use.
class StepBuffers {
 public:
  // For blocks of the same shape, and matrices that take few_workspace() floats at most.
  StepBuffers(const CpuBlock& block, int64_t batch, cpu::Element element, cpu::Element residual, int64_t few_workspace);

  int64_t floats() const { return floats_; }
  void place(float* memory);

  using Buffer = RowsBuffer;  // (B, columns)

  int64_t batch;
  cpu::Element element, residual;
  Buffer h, normed, xz, u, dt_B_C, delta, y, out;
  // What products read of their left sides, in_proj and dt_proj there, x_proj and out_proj here: while one reads, what
  // it makes comes to lie in the other.
  float* packed = nullptr;
  float* packed_channels = nullptr;

 private:
  Buffer buffer(cpu::Element type, int64_t columns);

  int64_t floats_ = 0;
  int64_t packed_offset_ = 0;
  int64_t packed_channels_offset_ = 0;
};

// Sequences [begin, end) of buffers.h, normalised and rounded, as `next` reads them.
void normalise(const CpuNorm& norm, const linear_detail::Weights& next, StepBuffers& buffers, int64_t begin,
               int64_t end);

// One block's loops in a step, from what normalise() made for it.
class BlockRun {
 public:
  struct States {
    const void* conv;
    void* conv_after;  // may be `conv`
    const float* ssm;
    float* ssm_after;  // may be `ssm`
  };

  // What is normalised after the block, and for which product.
  struct Next {
    const CpuNorm* norm;
    const linear_detail::Weights* matrix;
  };

  BlockRun(const CpuBlock& block, StepBuffers& buffers, const States& states, const Next& next);

  static constexpr size_t kMostPhases = 5;
  void append_phases(std::vector<Phase>& phases);

 private:
  void project_in(int64_t begin, int64_t end);
  void pack_u();
  void project_x(int64_t begin, int64_t end);
  void pack_dt();
  void scan(int64_t begin, int64_t end);
  void pack_y();
  void project_out(int64_t begin, int64_t end);
  void finish();
  void finish_some(int64_t begin, int64_t end);

  const CpuBlock& block_;
  StepBuffers& buffers_;
  Next next_;
  Channels channels_;
};

}  // namespace mamba::ops::step
