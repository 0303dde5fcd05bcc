// model_step's launches, for tests in other shapes too: gpu_step.h's of any sequences, gpu_many.h's of many,
// gpu_pairs.h's of many of a wide model.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mamba/ops/gpu/kernel.h"
#include "mamba/ops/model_step/model_step.h"

namespace mamba::ops::step {

// Groups and threads of a launch, and how it cuts its products (gpu_step.h). No groups: as the device and the sizes
// want it.
struct ModelLaunch {
  int groups = 0;
  int threads = 0;
  int few = 0;
  int in_row_tiles = 0;
  int in_row_parts = 0;
  int in_tiles = 0;
  int out_row_tiles = 0;
  int out_row_parts = 0;
  int out_tiles = 0;
  int word_tiles = 0;
  int word_row_tiles = 0;
  int sequences = 0;
};

// Of those that are compiled for the host (gpu_host.cpp), where fibers stand for threads, the one for few sequences.
constexpr ModelLaunch kHostLaunch = {3, 64, 8, 1, 1, 1, 1, 1, 3, 2, 1, 1};

// That of a device with so many multiprocessors.
ModelLaunch best_launch(const ModelStepWeights& weights, int batch, int groups);

ModelStepOutputs model(const mlx::core::array& tokens, const mlx::core::array& conv, const mlx::core::array& ssm,
                       const ModelStepWeights& weights, const ModelLaunch& launch, const mlx::core::Stream& stream);

// How gpu_many.h cuts a step; `shared_bytes` is all that a group asks for.
struct ManyLaunch {
  int groups = 0;
  int threads = 0;
  int fillers = 0;
  int in_row_parts = 0;
  int in_tiles = 0;
  int in_blocks = 0;
  int in_ahead = 0;
  int out_row_parts = 0;
  int out_tiles = 0;
  int out_blocks = 0;
  int out_ahead = 0;
  int word_row_parts = 0;
  int word_tiles = 0;
  int word_blocks = 0;
  int word_ahead = 0;
  int sequences = 0;
  int in_flight = 0;
  int slots = 0;
  int slot_lines = 0;
  int shared_bytes = 0;
};

// The one that is compiled for the host.
constexpr ManyLaunch kHostManyLaunch = {.groups = 3,
                                        .threads = 128,
                                        .in_row_parts = 2,
                                        .in_tiles = 2,
                                        .in_blocks = 1,
                                        .in_ahead = 2,
                                        .out_row_parts = 1,
                                        .out_tiles = 1,
                                        .out_blocks = 1,
                                        .out_ahead = 3,
                                        .word_row_parts = 4,
                                        .word_tiles = 2,
                                        .word_blocks = 1,
                                        .word_ahead = 1,
                                        .sequences = 3,
                                        .in_flight = 1,
                                        .slots = 4,
                                        .slot_lines = 192};

// That of a device whose groups can have so many bytes of shared memory. None where gpu_step.h is for it.
std::optional<ManyLaunch> best_many_launch(const ModelStepWeights& weights, int batch, int groups, int shared_bytes);

ModelStepOutputs model_of_many(const mlx::core::array& tokens, const mlx::core::array& conv,
                               const mlx::core::array& ssm, const ModelStepWeights& weights, const ManyLaunch& launch,
                               const mlx::core::Stream& stream);

// Whether gpu_pairs.h is for it, on a device of compute capability 9.0 with so many multiprocessors, whose groups can
// have so many bytes of shared memory.
bool can_step_in_pairs(const ModelStepWeights& weights, const mlx::core::array& conv, const mlx::core::array& ssm,
                       int multiprocessors, int shared_bytes);

// None where the device's copies cannot be told of the weights.
std::optional<ModelStepOutputs> model_in_pairs(const mlx::core::array& tokens, const mlx::core::array& conv,
                                               const mlx::core::array& ssm, const ModelStepWeights& weights,
                                               const mlx::core::Stream& stream);

// What these launches are made of. `in_pairs`: another input, for what groups in pairs bring.
constexpr int kThreads = 512;
gpu::Kernel model_kernel(std::string name, std::string_view source, int threads, bool in_pairs = false);
std::vector<mlx::core::array> model_inputs(const mlx::core::array& tokens, const mlx::core::array& conv,
                                           const mlx::core::array& ssm, const ModelStepWeights& weights,
                                           const mlx::core::Stream& stream);
// `parts`: of a row's sum of squares.
ModelStepOutputs launch_model(const gpu::Kernel& kernel, const std::vector<mlx::core::array>& inputs,
                              const ModelStepWeights& weights, int parts, const gpu::Grid& grid,
                              const gpu::Constants& constants, const mlx::core::Stream& stream);
constexpr int ceil_div(int a, int b) {
  return (a + b - 1) / b;
}

// How a launch for one sequence (gpu_one.h) is cut, as far as its sizes leave that open.
struct OneLaunch {
  int groups = 0;
  int threads = 0;  // but for those that bring weights
  int slot = 0;     // numbers of T
  int slots = 0;
  int in_flight = 0;  // at most so many of them
  int bringers = 0;   // of which both are multiples
  int pause = 0;      // ns, of threads that wait
};

// That of a device with so many multiprocessors, whose groups may have so much shared memory; no groups where that is
// too little.
OneLaunch best_one(const ModelStepWeights& weights, int multiprocessors, int shared_bytes);

// Whether the device can step `ssm` like that: one sequence, numbers in whole lines, and enough shared memory.
bool can_step_one(const ModelStepWeights& weights, const mlx::core::array& ssm, const mlx::core::Stream& stream);

ModelStepOutputs one(const mlx::core::array& tokens, const mlx::core::array& conv, const mlx::core::array& ssm,
                     const ModelStepWeights& weights, const OneLaunch& launch, const mlx::core::Stream& stream);

}  // namespace mamba::ops::step
