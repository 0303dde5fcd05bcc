// A step of many sequences by groups in pairs (gpu_pairs.h).
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <bit>
#include <mutex>
#include <optional>
#include <vector>

#include "mamba/base/error.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/gpu/driver.h"
#include "mamba/ops/gpu/kernel.h"
#include "mamba/ops/gpu/tensor_map.h"
#include "mamba/ops/gpu/upload.h"
#include "mamba/ops/model_step/gpu.h"

namespace mamba::embedded {
std::string_view gpu_model_pairs();
std::string_view gpu_model_pairs_parts();
std::string_view gpu_model_pairs_phases();
}  // namespace mamba::embedded

namespace mamba::ops::step {

namespace mx = mlx::core;

namespace {

constexpr int kPairThreads = 640;  // 512 that multiply, a SIMD group that brings and one that hands on
constexpr int kPairRows = 64;
constexpr int kFewestRows = 9;
constexpr int kOwnChannels = 32;
constexpr int kPairStates = 16;
constexpr int kPairTaps = 4;
constexpr int kPairsInFlight = 2;  // slots
constexpr int kSlotBytes16 = 16 << 10;
constexpr int kSlotsAndUnits = 12;
constexpr int kNamedBytes = 1024;  // what the kernel names besides its room
constexpr int kMapNumbers = 32;
constexpr int kMaps = 5;

int room_of(int pairs) {
  constexpr int kPairBlockBytes = kPairRows * 32 * 2;
  constexpr int kAligned = 1024;
  return kAligned + kSlotsAndUnits * kSlotBytes16 + 3 * kPairBlockBytes + kOwnChannels * 32 * 2 +
         4 * (pairs * kPairRows + kOwnChannels + kPairRows + 4 * kOwnChannels);
}

// What the kernel brings as boxes: map 0 of in_proj's u and z side by side, then x_proj, dt_proj, out_proj and words.
std::optional<std::vector<int32_t>> make_maps(const ModelStepWeights& w) {
  const auto layers = static_cast<uint64_t>(w.A.shape(0));
  const auto channels = static_cast<uint64_t>(w.A.shape(1));
  const auto width = static_cast<uint64_t>(w.embeddings.shape(1));
  const auto rank = static_cast<uint64_t>(w.dt_proj.shape(2));
  const auto projected = static_cast<uint64_t>(w.x_proj.shape(1));
  const auto words = static_cast<uint64_t>(w.output.shape(0));
  const std::vector<int32_t> maps[kMaps] = {
      gpu::tensor_map(gpu::device_address(w.in_proj), {width, 8, 2, channels / 8, layers},
                      {2 * width, 2 * width * channels, 16 * width, 4 * width * channels}, {64, 8, 2, 4, 1}),
      gpu::tensor_map(gpu::device_address(w.x_proj), {channels, layers * projected}, {2 * channels},
                      {64, static_cast<uint32_t>(projected / 2)}),
      gpu::tensor_map(gpu::device_address(w.dt_proj), {rank, layers * channels}, {2 * rank}, {64, kOwnChannels}),
      gpu::tensor_map(gpu::device_address(w.out_proj), {channels, layers * width}, {2 * channels}, {64, kOwnChannels}),
      gpu::tensor_map(gpu::device_address(w.output), {width, words}, {2 * width}, {64, kPairRows})};
  std::vector<int32_t> all;
  for (const std::vector<int32_t>& map : maps) {
    if (map.empty()) {
      return std::nullopt;
    }
    all.insert(all.end(), map.begin(), map.end());
  }
  return all;
}

// The maps of these weights, as the device has them; those of the last model are kept.
std::optional<mx::array> maps_of(const ModelStepWeights& w, const mx::Stream& stream) {
  if (on_cpu(stream)) {
    return mx::zeros({kMaps * kMapNumbers}, mx::int32, stream);
  }
  static std::mutex mutex;
  static std::vector<std::uintptr_t> of;
  static std::optional<mx::array> maps;
  const std::lock_guard<std::mutex> lock(mutex);
  const mx::array* const weights[kMaps] = {&w.in_proj, &w.x_proj, &w.dt_proj, &w.out_proj, &w.output};
  std::vector<std::uintptr_t> now;
  for (const mx::array* a : weights) {
    if (a->status() == mx::array::Status::unscheduled) {
      mx::array(*a).eval();
    }
    if (!a->flags().row_contiguous) {
      return std::nullopt;
    }
    now.push_back(gpu::device_address(*a));
    for (const int axis : a->shape()) {
      now.push_back(static_cast<std::uintptr_t>(axis));
    }
  }
  if (now != of) {
    maps.reset();
    of = now;
    const std::optional<std::vector<int32_t>> made = make_maps(w);
    if (made) {
      maps = gpu::uploaded(*made, {kMaps * kMapNumbers}, stream);
      maps->eval();
    }
  }
  return maps;
}

}  // namespace

bool can_step_in_pairs(const ModelStepWeights& w, const mx::array& conv, const mx::array& ssm, int multiprocessors,
                       int shared_bytes) {
  const int batch = ssm.shape(1);
  const int channels = w.A.shape(1);
  const int rank = w.dt_proj.shape(2);
  const int pairs = channels / (2 * kOwnChannels);
  const bool is_16_bit =
      std::ranges::all_of(std::vector{w.embeddings.dtype(), w.in_proj.dtype(), w.x_proj.dtype(), w.dt_proj.dtype(),
                                      w.out_proj.dtype(), w.output.dtype(), conv.dtype()},
                          [](mx::Dtype dtype) { return dtype == mx::bfloat16; });
  const bool is_32_bit = std::ranges::all_of(std::vector{w.A.dtype(), w.D.dtype(), w.dt_bias.dtype(), ssm.dtype()},
                                             [](mx::Dtype dtype) { return dtype == mx::float32; });
  return is_16_bit && is_32_bit && batch >= kFewestRows && batch <= kPairRows && w.A.shape(2) == kPairStates &&
         w.conv_weight.shape(2) == kPairTaps && channels == 2 * w.embeddings.shape(1) &&
         channels % (16 * kOwnChannels) == 0 && (rank == 32 || rank == 96 || rank == 128) &&
         2 * pairs <= multiprocessors && 3 * pairs >= multiprocessors && room_of(pairs) + kNamedBytes <= shared_bytes;
}

std::optional<ModelStepOutputs> model_in_pairs(const mx::array& tokens, const mx::array& conv, const mx::array& ssm,
                                               const ModelStepWeights& w, const mx::Stream& stream) {
  static const gpu::Kernel kernel = model_kernel(
      "mamba_model_step_pairs",
      gpu::joined({embedded::gpu_model_pairs(), embedded::gpu_model_pairs_parts(), embedded::gpu_model_pairs_phases()}),
      kPairThreads, true);
  const std::optional<mx::array> maps = maps_of(w, stream);
  if (!maps) {
    return std::nullopt;
  }
  const int width = w.embeddings.shape(1);
  const int channels = w.A.shape(1);
  const int rank = w.dt_proj.shape(2);
  const int pairs = channels / (2 * kOwnChannels);
  const int columns = w.x_proj.shape(1) / 2;
  std::vector<mx::array> inputs = model_inputs(tokens, conv, ssm, w, stream);
  inputs.push_back(*maps);
  const int room = room_of(pairs);
  const std::vector<mx::array> out =
      kernel(inputs,
             {{ssm.shape(1), w.output.shape(0)},
              conv.shape(),
              ssm.shape(),
              {kPairRows * (width + channels + rank)},
              {kPairRows * (pairs + 2 * pairs * columns + 2 * kPairStates)}},
             {mx::float32, w.in_proj.dtype(), mx::float32, w.in_proj.dtype(), mx::float32},
             {{2 * pairs, 1, 1}, kPairThreads, room},
             {{"T", w.in_proj.dtype()},
              {"Residual", w.residual_dtype},
              {"kPairs", pairs},
              {"kRank", rank},
              {"kInFlight", kPairsInFlight},
              {"kRoom", room},
              {"kHasConvBias", w.conv_bias.has_value()},
              {"kEpsBits", std::bit_cast<int>(w.eps)}},
             stream);
  return ModelStepOutputs{out[0], out[1], out[2]};
}

}  // namespace mamba::ops::step
