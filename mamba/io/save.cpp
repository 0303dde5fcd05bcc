#include "mamba/io/save.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cctype>
#include <memory>
#include <set>
#include <utility>

#include "mamba/base/error.h"
#include "mamba/base/file.h"
#include "mamba/base/json.h"
#include "mamba/io/dtype.h"
#include "mamba/io/safetensors.h"

namespace mamba::io {

namespace mx = mlx::core;
namespace fs = std::filesystem;

namespace {

constexpr size_t kDataAlignment = 64;
constexpr size_t kWriteBytes = size_t{64} << 20;  // between two calls of the progress function

uint64_t bytes_of(const TensorToSave& tensor) {
  uint64_t bytes = 0;
  if (!checked_bytes(tensor.shape, tensor.dtype.size(), bytes)) {
    throw UsageError(fmt::format("tensor {} of shape {} is too large", quote(tensor.name), shown(tensor.shape)));
  }
  return bytes;
}

std::string json_string(const std::string& text) {
  try {
    return json_text(Json(text));
  } catch (const Json::exception&) {
    throw UsageError(fmt::format("{} is not valid UTF-8 and cannot be a name in a safetensors file", quote(text)));
  }
}

void check_names(const std::vector<TensorToSave>& tensors) {
  std::set<std::string_view> names;
  for (const TensorToSave& tensor : tensors) {
    if (!names.insert(tensor.name).second || tensor.name == "__metadata__") {
      throw UsageError(fmt::format("{} cannot be the name of a tensor to save: it is {}", quote(tensor.name),
                                   tensor.name == "__metadata__" ? "reserved" : "there twice"));
    }
    if (!safetensors_name(tensor.dtype)) {
      throw UsageError(fmt::format("tensor {} holds complex numbers, which cannot be saved", quote(tensor.name)));
    }
  }
}

// The length, the header and its padding.
std::string header_of(const std::vector<TensorToSave>& tensors, const Metadata& metadata) {
  std::string json = "{";
  if (!metadata.empty()) {
    json += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) {
      json += fmt::format("{}{}:{}", json.back() == '{' ? "" : ",", json_string(key), json_string(value));
    }
    json += "}";
  }
  uint64_t offset = 0;
  for (const TensorToSave& tensor : tensors) {
    const uint64_t end = offset + bytes_of(tensor);
    json += fmt::format("{}{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}", json.size() > 1 ? "," : "",
                        json_string(tensor.name), *safetensors_name(tensor.dtype),
                        fmt::join(tensor.shape.begin(), tensor.shape.end(), ","), offset, end);
    offset = end;
  }
  json += "}";
  json.append((kDataAlignment - (json.size() + 8) % kDataAlignment) % kDataAlignment, ' ');
  check(json.size() <= kMaxSafetensorsHeader, "{} tensors need a header of {} bytes, more than the {} of the format",
        tensors.size(), json.size(), kMaxSafetensorsHeader);
  std::string out;
  for (uint64_t i = 0, length = json.size(); i < 8; ++i) {
    out += static_cast<char>(length >> (8 * i) & 0xff);
  }
  return out + json;
}

class Reporter {
 public:
  Reporter(const ProgressFn& progress, std::string what, uint64_t total) : progress_(progress) {
    state_.what = std::move(what);
    state_.total = static_cast<int64_t>(total);
  }
  void add(uint64_t bytes) {
    state_.done += static_cast<int64_t>(bytes);
    if (progress_) {
      progress_(state_);
    }
  }
  void finish() {
    state_.finished = true;
    add(0);
  }

 private:
  const ProgressFn& progress_;
  Progress state_;
};

void write_tensor(AtomicFile& file, const TensorToSave& tensor, Reporter& reporter) {
  mx::array value = mx::contiguous(tensor.produce());
  if (value.dtype() != tensor.dtype || value.shape() != tensor.shape) {
    throw UsageError(fmt::format("tensor {} was announced as {} {} but is {} {}", quote(tensor.name),
                                 dtype_name(tensor.dtype), shown(tensor.shape), dtype_name(value.dtype()),
                                 shown(value.shape())));
  }
  mx::eval(value);
  const auto* bytes = value.nbytes() == 0 ? nullptr : value.data<char>();
  for (size_t done = 0; done < value.nbytes();) {
    const size_t part = std::min(kWriteBytes, value.nbytes() - done);
    file.write(bytes + done, part);
    done += part;
    reporter.add(part);
  }
}

// Everything but the commit.
std::unique_ptr<AtomicFile> write_uncommitted(const fs::path& path, std::vector<TensorToSave> tensors,
                                              const Metadata& metadata, Reporter& reporter) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorToSave& a, const TensorToSave& b) {
    return a.dtype.size() != b.dtype.size() ? a.dtype.size() > b.dtype.size() : a.name < b.name;
  });
  const std::string header = header_of(tensors, metadata);
  auto file = std::make_unique<AtomicFile>(path);
  file->write(header);
  for (TensorToSave& tensor : tensors) {
    write_tensor(*file, tensor, reporter);
    tensor.produce = nullptr;  // what it holds is no longer needed
  }
  return file;
}

uint64_t total_of(const std::vector<TensorToSave>& tensors) {
  uint64_t total = 0;
  for (const TensorToSave& tensor : tensors) {
    total += bytes_of(tensor);
  }
  return total;
}

std::string shard_name(size_t number, size_t count) {
  return fmt::format("model-{:05}-of-{:05}.safetensors", number, count);
}

// model-00001-of-00002.safetensors
bool is_shard_name(const std::string& name) {
  constexpr std::string_view pattern = "model-#####-of-#####.safetensors";
  return name.size() == pattern.size() &&
         std::equal(name.begin(), name.end(), pattern.begin(), [](char c, char expected) {
           return expected == '#' ? std::isdigit(static_cast<unsigned char>(c)) != 0 : c == expected;
         });
}

void remove_replaced(const fs::path& directory, const std::set<std::string>& written) {
  std::error_code ignored;  // what cannot be removed was not ours to remove
  std::vector<fs::path> replaced;
  for (const auto& entry : fs::directory_iterator(directory, ignored)) {
    const std::string name = entry.path().filename().string();
    if ((name == "model.safetensors" || name == "model.safetensors.index.json" || is_shard_name(name)) &&
        !written.contains(name)) {
      replaced.push_back(entry.path());
    }
  }
  for (const fs::path& path : replaced) {
    fs::remove(path, ignored);
  }
}

std::vector<std::vector<TensorToSave>> split(std::vector<TensorToSave> tensors, uint64_t max_bytes) {
  std::vector<std::vector<TensorToSave>> shards(1);
  uint64_t used = 0;
  for (TensorToSave& tensor : tensors) {
    const uint64_t bytes = bytes_of(tensor);
    if (!shards.back().empty() && used + bytes > max_bytes) {
      shards.emplace_back();
      used = 0;
    }
    used += bytes;
    shards.back().push_back(std::move(tensor));
  }
  return shards;
}

}  // namespace

TensorToSave to_save(std::string name, mx::array value) {
  const mx::Dtype dtype = value.dtype();
  mx::Shape shape = value.shape();
  return {std::move(name), dtype, std::move(shape), [value = std::move(value)] { return value; }};
}

std::vector<TensorToSave> to_save(const std::map<std::string, mx::array>& arrays) {
  std::vector<TensorToSave> tensors;
  tensors.reserve(arrays.size());
  for (const auto& [name, value] : arrays) {
    tensors.push_back(to_save(name, value));
  }
  return tensors;
}

void save_safetensors(const fs::path& path, std::vector<TensorToSave> tensors, const Metadata& metadata,
                      const ProgressFn& progress) {
  check_names(tensors);
  Reporter reporter(progress, path.filename().string(), total_of(tensors));
  write_uncommitted(path, std::move(tensors), metadata, reporter)->commit();
  reporter.finish();
}

void save_checkpoint(const fs::path& directory, std::vector<TensorToSave> tensors, uint64_t max_shard_bytes,
                     const Metadata& metadata, const ProgressFn& progress) {
  check_names(tensors);
  make_directories(directory);
  const uint64_t total = total_of(tensors);
  Reporter reporter(progress, directory.string(), total);
  std::vector<std::vector<TensorToSave>> shards = split(std::move(tensors), max_shard_bytes);

  std::set<std::string> written;
  std::vector<std::unique_ptr<AtomicFile>> files;
  Json weight_map = Json::object();
  const size_t count = shards.size();
  for (size_t i = 0; i < count; ++i) {
    const std::string name = count == 1 ? "model.safetensors" : shard_name(i + 1, count);
    for (const TensorToSave& tensor : shards[i]) {
      weight_map[tensor.name] = name;
    }
    files.push_back(write_uncommitted(directory / name, std::move(shards[i]), metadata, reporter));
    written.insert(name);
  }
  if (count > 1) {
    const Json index = {{"metadata", {{"total_size", total}}}, {"weight_map", std::move(weight_map)}};
    files.push_back(std::make_unique<AtomicFile>(directory / "model.safetensors.index.json"));
    files.back()->write(json_text(index, 2) + "\n");
    written.insert("model.safetensors.index.json");
  }
  for (const auto& file : files) {
    file->commit();
  }
  remove_replaced(directory, written);
  reporter.finish();
}

}  // namespace mamba::io
