#include "mamba/models/random_weights.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "mamba/base/error.h"
#include "mamba/base/memory.h"
#include "mamba/base/mix_bits.h"
#include "mamba/base/threads.h"
#include "mamba/io/block.h"
#include "mamba/models/checkpoint.h"
#include "mamba/models/mamba.h"

namespace mamba::models {

namespace mx = mlx::core;

namespace {

template <typename T>
void fill(T* out, int64_t count, uint64_t stream, float middle, float range) {
  parallel_for(count, 1 << 16, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto bits = static_cast<int32_t>(mix_bits(stream + static_cast<uint64_t>(i)) >> 32);
      out[i] = static_cast<T>(middle + range * (static_cast<float>(bits) * 0x1p-31f));
    }
  });
}

class RandomCheckpoint final : public io::TensorSource {
 public:
  RandomCheckpoint(const Config& config, mx::Dtype dtype) : states_(config.d_state) {
    MambaLM model(config);
    model.visit("", [&](const std::string& path, mx::array&) {
      add(path, parameter_shape(path, config), keeps_precision(path) ? mx::float32 : dtype);
    });
    if (config.quantization) {
      const int group = config.quantization->common.group_size;
      bits_ = config.quantization->common.bits;
      model.visit_matrices("", [&](const std::string& path, nn::Matrix&) {
        const mx::Shape shape = parameter_shape(path + ".weight", config);
        if (shape[1] % group == 0) {
          add(path + ".weight", {shape[0], shape[1] * bits_ / 32}, mx::uint32);
          add(path + ".scales", {shape[0], shape[1] / group}, mx::float16);
          add(path + ".biases", {shape[0], shape[1] / group}, mx::float16);
        }
      });
    }
    uint64_t total = kAlignment;
    for (const auto& [path, info] : infos_) {
      names_.push_back(path);
      offsets_.emplace(path, total);
      total += (info.bytes + kAlignment - 1) / kAlignment * kAlignment;
    }
    // Side by side as in a file, and given back tensor by tensor as a file's pages are.
    memory_ = map_memory(total);
    block_ = {.owner = memory_, .data = memory_.get(), .size = total, .mapped = true};
  }

  const std::vector<std::string>& names() const override { return names_; }
  bool has(const std::string& name) const override { return infos_.contains(name); }
  const io::Metadata& metadata() const override { return metadata_; }
  const std::string& file() const override { return file_; }

  const io::TensorInfo& info(const std::string& name) const override {
    const auto found = infos_.find(name);
    check(found != infos_.end(), "{}: has no tensor {}", file_, quote(name));
    return found->second;
  }

  mx::array load(const std::string& name) const override {
    const io::TensorInfo& tensor = info(name);
    const uint64_t offset = offsets_.at(name);
    std::byte* const bytes = memory_.get() + offset;
    const auto count = static_cast<int64_t>(tensor.bytes / tensor.dtype.size());
    const uint64_t stream = mix_bits(std::hash<std::string>()(name));
    const auto [middle, range] = values(name, tensor.shape);
    if (tensor.dtype == mx::uint32) {
      auto* out = reinterpret_cast<uint32_t*>(bytes);
      parallel_for(count, 1 << 16, [=](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          out[i] = static_cast<uint32_t>(mix_bits(stream + static_cast<uint64_t>(i)) >> 32);
        }
      });
    } else if (name.ends_with(".A_log")) {
      auto* out = reinterpret_cast<float*>(bytes);
      for (int64_t i = 0; i < count; ++i) {
        out[i] = std::log(static_cast<float>(1 + i % states_));
      }
    } else if (tensor.dtype == mx::float32) {
      fill(reinterpret_cast<float*>(bytes), count, stream, middle, range);
    } else if (tensor.dtype == mx::bfloat16) {
      fill(reinterpret_cast<mx::bfloat16_t*>(bytes), count, stream, middle, range);
    } else {
      fill(reinterpret_cast<mx::float16_t*>(bytes), count, stream, middle, range);
    }
    return io::array_in_block(block_, offset, tensor.shape, tensor.dtype);
  }

 private:
  void add(const std::string& path, const mx::Shape& shape, mx::Dtype dtype) {
    uint64_t bytes = 0;
    check(io::checked_bytes(shape, dtype.size(), bytes), "a tensor of shape {} is too large", io::shown(shape));
    infos_.insert_or_assign(path, io::TensorInfo{dtype, shape, bytes});
  }

  // Middle and half the width of a tensor's distribution.
  std::pair<float, float> values(const std::string& name, const mx::Shape& shape) const {
    // Codes from 0 to 2^bits - 1 stand for numbers between -1/32 and 1/32.
    if (name.ends_with(".scales")) {
      return {0.0625f / static_cast<float>((1 << bits_) - 1), 0};
    }
    if (name.ends_with(".biases")) {
      return {-0.03125f, 0};
    }
    if (name.ends_with("dt_proj.bias")) {
      return {-4.5f, 2.0f};  // softplus: steps of 0.0015 to 0.08
    }
    if (name.ends_with(".D") || name.find("norm") != std::string::npos) {
      return {1, 0};
    }
    if (name.ends_with("embeddings.weight")) {
      return {0, 0.035f};
    }
    return {0, 1 / std::sqrt(static_cast<float>(shape.back()))};
  }

  static constexpr uint64_t kAlignment = 64;

  int states_;
  int bits_ = 8;
  std::map<std::string, io::TensorInfo> infos_;
  std::map<std::string, uint64_t> offsets_;
  std::vector<std::string> names_;
  std::shared_ptr<std::byte> memory_;
  io::Block block_;
  io::Metadata metadata_;
  std::string file_ = "random weights";
};

}  // namespace

std::unique_ptr<io::TensorSource> random_checkpoint(const Config& config, mx::Dtype dtype) {
  return std::make_unique<RandomCheckpoint>(config, dtype);
}

}  // namespace mamba::models
