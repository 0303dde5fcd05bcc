#include "mamba/io/safetensors.h"

#include <utility>

#include "mamba/base/error.h"
#include "mamba/io/safetensors_header.h"

namespace mamba::io {

namespace mx = mlx::core;

namespace {

constexpr size_t kLengthBytes = 8;

class SafetensorsSource final : public TensorSource {
 public:
  SafetensorsSource(Block bytes, std::string file) : bytes_(std::move(bytes)), file_(std::move(file)) {
    const std::string_view text = bytes_.text();
    if (text.starts_with("version https://git-lfs")) {
      throw ParseError(file_, 0, "is a Git LFS pointer, not the tensors; fetch the file itself with `git lfs pull`");
    }
    if (text.size() < kLengthBytes) {
      throw ParseError(file_, 0, fmt::format("is {} bytes long, too short for a safetensors file", text.size()));
    }
    uint64_t length = 0;
    for (size_t i = kLengthBytes; i-- > 0;) {
      length = length << 8 | static_cast<uint8_t>(text[i]);
    }
    if (length > kMaxSafetensorsHeader) {
      throw ParseError(file_, 0,
                       fmt::format("claims a header of {} bytes, more than the {} that the format allows; this is not "
                                   "a safetensors file",
                                   length, kMaxSafetensorsHeader));
    }
    if (length > text.size() - kLengthBytes) {
      throw ParseError(file_, 0,
                       fmt::format("claims a header of {} bytes but only {} follow: the file is cut off; download or "
                                   "copy it again",
                                   length, text.size() - kLengthBytes));
    }
    data_start_ = kLengthBytes + length;
    header_ =
        parse_safetensors_header(text.substr(kLengthBytes, length), file_, kLengthBytes, text.size() - data_start_);
    names_.reserve(header_.tensors.size());
    for (const auto& entry : header_.tensors) {
      names_.push_back(entry.first);
    }
  }

  const std::vector<std::string>& names() const override { return names_; }
  bool has(const std::string& name) const override { return header_.tensors.contains(name); }
  const TensorInfo& info(const std::string& name) const override { return find(name).info; }
  const Metadata& metadata() const override { return header_.metadata; }
  const std::string& file() const override { return file_; }

  mx::array load(const std::string& name) const override {
    const SafetensorsHeader::Tensor& tensor = find(name);
    return array_in_block(bytes_, data_start_ + tensor.begin, tensor.info.shape, tensor.info.dtype);
  }

 private:
  const SafetensorsHeader::Tensor& find(const std::string& name) const {
    const auto it = header_.tensors.find(name);
    check(it != header_.tensors.end(), "{}: has no tensor {}", file_, quote(name));
    return it->second;
  }

  Block bytes_;
  std::string file_;
  uint64_t data_start_ = 0;
  SafetensorsHeader header_;
  std::vector<std::string> names_;
};

}  // namespace

std::unique_ptr<TensorSource> open_safetensors(const std::filesystem::path& path) {
  return read_safetensors(map_file(path), path.string());
}

std::unique_ptr<TensorSource> read_safetensors(Block bytes, std::string file) {
  return std::make_unique<SafetensorsSource>(std::move(bytes), std::move(file));
}

}  // namespace mamba::io
