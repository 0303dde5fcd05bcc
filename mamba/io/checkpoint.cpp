#include "mamba/io/checkpoint.h"

#include <algorithm>
#include <utility>

#include "mamba/base/error.h"
#include "mamba/base/file.h"
#include "mamba/base/json.h"
#include "mamba/io/safetensors.h"
#include "mamba/io/torch_file.h"

namespace mamba::io {

namespace mx = mlx::core;
namespace fs = std::filesystem;

namespace {

constexpr uint64_t kMaxIndexBytes = 100'000'000;
constexpr std::string_view kIndexSuffix = ".index.json";

std::unique_ptr<TensorSource> open_file(const fs::path& path) {
  Block bytes = map_file(path);
  const std::string_view text = bytes.text();
  const bool torch = text.starts_with("PK") || text.starts_with("\x80");
  return torch ? read_torch(std::move(bytes), path.string()) : read_safetensors(std::move(bytes), path.string());
}

class ShardedSource final : public TensorSource {
 public:
  explicit ShardedSource(const fs::path& index) : file_(index.string()) {
    const Json json = parse_json(read_file(index, kMaxIndexBytes), file_);
    const JsonObject object(json, file_);
    if (object.has("metadata")) {
      read_metadata(object.object("metadata").json());
    }
    const JsonObject weight_map = object.object("weight_map");
    std::map<std::string, const TensorSource*> by_file;
    for (const auto& [name, shard] : weight_map.json().items()) {
      if (!shard.is_string()) {
        weight_map.fail(fmt::format("weight_map names no file for tensor {}", quote(name)));
      }
      const TensorSource*& source = by_file[shard.get<std::string>()];
      if (source == nullptr) {
        source = open_shard(index.parent_path(), shard.get<std::string>());
      }
      if (!source->has(name)) {
        weight_map.fail(fmt::format("tensor {} is not in {}, where the index says it is", quote(name),
                                    quote(shard.get<std::string>())));
      }
      names_.push_back(name);
      by_name_.emplace(name, source);
    }
    std::sort(names_.begin(), names_.end());
    if (names_.empty()) {
      weight_map.fail("weight_map names no tensors");
    }
  }

  const std::vector<std::string>& names() const override { return names_; }
  bool has(const std::string& name) const override { return by_name_.contains(name); }
  const TensorInfo& info(const std::string& name) const override { return find(name).info(name); }
  mx::array load(const std::string& name) const override { return find(name).load(name); }
  const Metadata& metadata() const override { return metadata_; }
  const std::string& file() const override { return file_; }
  std::vector<std::string> files() const override {
    std::vector<std::string> files;
    for (const auto& shard : shards_) {
      files.push_back(shard->file());
    }
    return files;
  }

 private:
  void read_metadata(const Json& json) {
    for (const auto& [key, value] : json.items()) {
      metadata_[key] = value.is_string() ? value.get<std::string>() : json_text(value);
    }
  }

  const TensorSource* open_shard(const fs::path& folder, const std::string& name) {
    if (name.empty() || name == "." || name == ".." || name.find_first_of(std::string_view("/\\\0", 3)) != name.npos) {
      throw ParseError(file_, ParseError::kNoOffset,
                       fmt::format("weight_map names the file {}, which is not a plain file name", quote(name)));
    }
    const fs::path path = folder / name;
    std::error_code ignored;
    if (!fs::exists(path, ignored)) {
      throw ParseError(file_, ParseError::kNoOffset,
                       fmt::format("the file {} that the index names is missing; download or copy the checkpoint again",
                                   quote(name)));
    }
    shards_.push_back(open_file(path));
    return shards_.back().get();
  }

  const TensorSource& find(const std::string& name) const {
    const auto it = by_name_.find(name);
    check(it != by_name_.end(), "{}: has no tensor {}", file_, quote(name));
    return *it->second;
  }

  std::string file_;
  std::vector<std::unique_ptr<TensorSource>> shards_;
  std::map<std::string, const TensorSource*> by_name_;
  std::vector<std::string> names_;
  Metadata metadata_;
};

}  // namespace

const std::vector<std::string>& checkpoint_file_names() {
  static const std::vector<std::string> names = {"model.safetensors", "model.safetensors.index.json",
                                                 "pytorch_model.bin", "pytorch_model.bin.index.json"};
  return names;
}

std::unique_ptr<TensorSource> open_checkpoint(const fs::path& path) {
  std::error_code ignored;
  const auto open = [](const fs::path& file) -> std::unique_ptr<TensorSource> {
    if (file.filename().string().ends_with(kIndexSuffix)) {
      return std::make_unique<ShardedSource>(file);
    }
    return open_file(file);
  };
  if (!fs::is_directory(path, ignored)) {
    return open(path);
  }
  for (const std::string& name : checkpoint_file_names()) {
    if (fs::exists(path / name, ignored)) {
      return open(path / name);
    }
  }
  throw Error(
      fmt::format("{}: holds no weights; looked for {}", path.string(), fmt::join(checkpoint_file_names(), ", ")));
}

}  // namespace mamba::io
