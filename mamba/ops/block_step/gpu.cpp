#include "mamba/ops/block_step/gpu.h"

#include <dlfcn.h>
#include <mlx/backend/metal/metal.h>
#include <mlx/memory.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <vector>

#include "mamba/ops/dispatch.h"
#include "mamba/ops/gpu/kernel.h"

namespace mamba::embedded {
std::string_view gpu_block_step();
std::string_view gpu_block_logits();
}  // namespace mamba::embedded

namespace mamba::ops {

namespace mx = mlx::core;

namespace {

// In one launch a lane keeps many weights in flight; of a sequence's own group, the more lanes the better.
constexpr int kWholeThreads = 512;
constexpr int kMixerThreads = 1024;
constexpr int kRegisters = 65536;  // of a multiprocessor
constexpr int kTile = 4;
// From more sequences on, a library's matrix products are worth their launches.
constexpr int kMostSequences = 8;

// Of the first NVIDIA device; 0 where it cannot be asked. MLX has the driver's library loaded.
int multiprocessors() {
  using GetAttribute = int (*)(int*, int, int);
  constexpr int kMultiprocessorCount = 16;
  static const int count = [] {
    const auto get = reinterpret_cast<GetAttribute>(dlsym(RTLD_DEFAULT, "cuDeviceGetAttribute"));
    int value = 0;
    return get != nullptr && get(&value, kMultiprocessorCount, 0) == 0 ? value : 0;
  }();
  return count;
}

// What the groups of a launch count their arrivals in: zero once, for good. In device memory, which small arrays and
// memory that the host has had are not.
const mx::array& counter(const mx::Stream& stream) {
  static const mx::array zeros = [&] {
    mx::clear_cache();
    mx::array made = mx::contiguous(mx::zeros({1 << 16}, mx::int32, stream), false, stream);
    made.eval();
    return made;
  }();
  return zeros;
}

const gpu::Kernel& step_kernel(bool is_whole) {
  const auto make = [](int bound) {
    return gpu::Kernel("mamba_block_step", embedded::gpu_block_step(),
                       {"h", "norm", "in_proj", "conv_weight", "conv_bias", "x_proj", "dt_proj", "dt_bias", "A", "D",
                        "out_proj", "conv", "ssm", "ahead", "counter"},
                       {"h_after", "conv_after", "ssm_after", "u", "z", "dt_B_C", "y"}, bound);
  };
  static const gpu::Kernel whole = make(kRegisters / kWholeThreads);
  static const gpu::Kernel mixer = make(kRegisters / kMixerThreads);
  return is_whole ? whole : mixer;
}

int tile_of(int batch) {
  return batch == 1 ? 1 : kTile;
}

struct Sizes {
  int batch, width, channels, states, rank, taps;
};

std::vector<mx::array> run_step(const Sizes& n, bool whole, std::vector<mx::array> inputs, bool has_conv_bias,
                                mx::Dtype dtype, mx::Dtype residual, float eps, const gpu::Grid& grid,
                                const mx::Stream& stream) {
  for (size_t i = 1; i < inputs.size(); ++i) {
    inputs[i] = gpu::contiguous(inputs[i], stream);
  }
  const mx::Shape wide = {n.batch, n.channels};
  const mx::Shape none = {1};
  return step_kernel(whole)(inputs,
                            {whole ? mx::Shape{n.batch, n.width} : none,
                             {n.batch, n.taps - 1, n.channels},
                             {n.batch, n.channels, n.states},
                             wide,
                             whole ? wide : none,
                             {n.batch, n.rank + 2 * n.states},
                             wide},
                            {residual, dtype, mx::float32, dtype, dtype, dtype, dtype}, grid,
                            {{"T", dtype},
                             {"Residual", residual},
                             {"kThreads", grid.threads},
                             {"kTaps", n.taps},
                             {"kTile", tile_of(n.batch)},
                             {"kPer", (n.states + 3) / 4},
                             {"kWhole", whole},
                             {"kHasConvBias", has_conv_bias},
                             {"kEpsBits", std::bit_cast<int>(eps)}},
                            stream);
}

}  // namespace

bool can_step_whole(int batch, const mx::Stream& stream) {
  if (on_cpu(stream) || mx::metal::is_available() || batch > kMostSequences || multiprocessors() == 0) {
    return false;
  }
  // Two launches at once that each have part of the device would wait for ever: the first stream to ask has it.
  static std::atomic<int> owner{-1};
  int none = -1;
  return owner.compare_exchange_strong(none, stream.index) || none == stream.index;
}

namespace step {

namespace {

// On the host, where fibers stand for threads, few will do.
Launch chosen(const Launch& launch, int groups, int threads, const mx::Stream& stream) {
  if (on_cpu(stream)) {
    groups = std::min(groups > 0 ? groups : 3, 64);
    threads = 64;
  }
  return {launch.groups > 0 ? launch.groups : groups, launch.threads > 0 ? launch.threads : threads};
}

gpu::Grid grid_of(const Launch& launch) {
  return {{launch.groups, 1, 1}, launch.threads};
}

}  // namespace

StepOutputs whole(const mx::array& h, const mx::array& conv, const mx::array& ssm, const BlockStepWeights& weights,
                  const std::optional<mx::array>& ahead, const Launch& launch, const mx::Stream& stream) {
  const MixerStepWeights& w = weights.mixer;
  const Sizes sizes{h.shape(0), h.shape(1), w.A.shape(0), w.A.shape(1), w.dt_proj.shape(1), w.conv_weight.shape(1)};
  const gpu::Grid grid = grid_of(chosen(launch, multiprocessors(), kWholeThreads, stream));
  const std::vector<mx::array> out = run_step(
      sizes, true,
      {gpu::contiguous(h, stream), weights.norm, weights.in_proj, w.conv_weight, w.conv_bias.value_or(w.D), w.x_proj,
       w.dt_proj, w.dt_bias, w.A, w.D, weights.out_proj, conv, ssm, ahead.value_or(weights.in_proj), counter(stream)},
      w.conv_bias.has_value(), weights.in_proj.dtype(), h.dtype(), weights.eps, grid, stream);
  return {out[0], out[1], out[2]};
}

StepOutputs mixer(const mx::array& xz, const mx::array& conv, const mx::array& ssm, const MixerStepWeights& w,
                  const Launch& launch, const mx::Stream& stream) {
  const int batch = xz.shape(0);
  const Sizes sizes{batch, 1, w.A.shape(0), w.A.shape(1), w.dt_proj.shape(1), w.conv_weight.shape(1)};
  const gpu::Grid grid = grid_of(chosen({batch, launch.threads}, batch, kMixerThreads, stream));
  const mx::array& none = w.A;
  const std::vector<mx::array> out = run_step(sizes, false,
                                              {xz, none, none, w.conv_weight, w.conv_bias.value_or(w.D), w.x_proj,
                                               w.dt_proj, w.dt_bias, w.A, w.D, none, conv, ssm, none, none},
                                              w.conv_bias.has_value(), xz.dtype(), xz.dtype(), 0.0f, grid, stream);
  return {out[6], out[1], out[2]};
}

mx::array logits(const mx::array& h, const mx::array& norm, float eps, const mx::array& weight, const Launch& launch,
                 const mx::Stream& stream) {
  static const gpu::Kernel kernel("mamba_norm_logits", embedded::gpu_block_logits(), {"h", "norm", "weight"},
                                  {"logits"});
  constexpr int kLogitThreads = 256;
  const int words = weight.shape(0);
  constexpr int kRows = kLogitThreads / 32;
  const gpu::Grid grid = grid_of(chosen(launch, (words + kRows - 1) / kRows, kLogitThreads, stream));
  return kernel({gpu::contiguous(h, stream), gpu::contiguous(norm, stream), gpu::contiguous(weight, stream)},
                {{h.shape(0), words}}, {mx::float32}, grid,
                {{"kThreads", grid.threads}, {"kTile", tile_of(h.shape(0))}, {"kEpsBits", std::bit_cast<int>(eps)}},
                stream)[0];
}

}  // namespace step

}  // namespace mamba::ops
