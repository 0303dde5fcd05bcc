#include "mamba/io/torch_file.h"

#include <utility>

#include "mamba/base/error.h"
#include "mamba/io/pickle.h"
#include "mamba/io/state_dict.h"
#include "mamba/io/zip_archive.h"

namespace mamba::io {

namespace mx = mlx::core;

namespace {

constexpr std::string_view kZipMagic = "PK\x03\x04";
constexpr std::string_view kEmptyZipMagic = "PK\x05\x06";
// torch.save before 1.6: a pickle of protocol 2 whose first value is a magic number of ten bytes.
constexpr std::string_view kLegacyMagic = "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
constexpr std::string_view kPickleName = "data.pkl";

void check_container(std::string_view text, const std::string& file) {
  if (text.starts_with(kZipMagic) || text.starts_with(kEmptyZipMagic)) {
    return;
  }
  if (text.starts_with(kLegacyMagic)) {
    throw ParseError(file, 0,
                     "was written in torch's old format, before 1.6; write it anew with torch: "
                     "torch.save(torch.load(name, weights_only=True), name)");
  }
  if (text.starts_with("version https://git-lfs")) {
    throw ParseError(file, 0, "is a Git LFS pointer, not the tensors; fetch the file itself with `git lfs pull`");
  }
  throw ParseError(file, 0, "is not a file that torch.save writes: it is no zip archive");
}

class TorchSource final : public TensorSource {
 public:
  TorchSource(Block bytes, std::string file)
      : file_(std::move(file)), archive_((check_container(bytes.text(), file_), std::move(bytes)), file_) {
    const std::string folder = find_folder();
    check_byte_order(folder);
    const std::string text = archive_.read(*archive_.find(folder + std::string(kPickleName)), kMaxPickleBytes);
    for (const auto& [name, tensor] : find_state_dict(read_pickle(text, file_), file_)) {
      const ZipArchive::Entry* record = archive_.find(folder + "data/" + std::string(tensor.storage.key));
      if (record == nullptr) {
        throw ParseError(file_, ParseError::kNoOffset,
                         fmt::format("tensor {} lies in storage {}, which the archive does not hold", quote(name),
                                     quote(tensor.storage.key)));
      }
      TensorView view = check_tensor(name, tensor, record->size, file_, static_cast<int64_t>(record->offset));
      names_.push_back(name);
      tensors_.emplace(name, Tensor{std::move(view), record});
    }
    check_copies();
  }

  const std::vector<std::string>& names() const override { return names_; }
  bool has(const std::string& name) const override { return tensors_.contains(name); }
  const TensorInfo& info(const std::string& name) const override { return find(name).view.info; }
  const Metadata& metadata() const override { return metadata_; }
  const std::string& file() const override { return file_; }

  mx::array load(const std::string& name) const override {
    const auto& [view, record] = find(name);
    const Block storage = archive_.data(*record);
    return view.contiguous ? array_in_block(storage, view.offset, view.info.shape, view.info.dtype)
                           : copy_strided(storage, view.offset, view.info.shape, view.strides, view.info.dtype);
  }

 private:
  struct Tensor {
    TensorView view;
    const ZipArchive::Entry* record;
  };

  const Tensor& find(const std::string& name) const {
    const auto it = tensors_.find(name);
    check(it != tensors_.end(), "{}: has no tensor {}", file_, quote(name));
    return it->second;
  }

  // All records lie in one folder, named after the file that was first written: "pytorch_model/data.pkl".
  std::string find_folder() const {
    const std::string* found = nullptr;
    for (const ZipArchive::Entry& entry : archive_.entries()) {
      const size_t slash = entry.name.find('/');
      const size_t start = slash == std::string::npos ? 0 : slash + 1;
      if (std::string_view(entry.name).substr(start) == "constants.pkl") {
        throw ParseError(file_, ParseError::kNoOffset,
                         "is a TorchScript program, not a state dict; save the module's state_dict() instead");
      }
      if (std::string_view(entry.name).substr(start) == kPickleName) {
        if (found != nullptr) {
          throw ParseError(file_, ParseError::kNoOffset, "holds two pickles where a file of torch.save holds one");
        }
        found = &entry.name;
      }
    }
    if (found == nullptr) {
      throw ParseError(file_, ParseError::kNoOffset,
                       "is a zip archive but not one that torch.save wrote: it holds no data.pkl");
    }
    return found->substr(0, found->size() - kPickleName.size());
  }

  void check_byte_order(const std::string& folder) const {
    const ZipArchive::Entry* record = archive_.find(folder + "byteorder");
    if (record == nullptr) {
      return;  // torch before 2.1 did not say, and meant little-endian
    }
    const std::string order = archive_.read(*record, 64);
    if (order != "little") {
      throw ParseError(file_, static_cast<int64_t>(record->offset),
                       fmt::format("has byte order {}; only little-endian files can be read", quote(order)));
    }
  }

  // Views of one storage that cannot be used in place each need memory of their own, however small the file is.
  void check_copies() const {
    constexpr uint64_t kFree = uint64_t{64} << 20;
    constexpr uint64_t kRatio = 4;
    uint64_t copies = 0;
    uint64_t storages = 0;
    for (const ZipArchive::Entry& entry : archive_.entries()) {
      storages += entry.size;
    }
    for (const auto& entry : tensors_) {
      copies += entry.second.view.contiguous ? 0 : entry.second.view.info.bytes;
      if (copies > kFree && (copies - kFree) / kRatio > storages) {
        throw ParseError(file_, ParseError::kNoOffset,
                         fmt::format("refuses to load: strided views of {} bytes of storages would take more than {} "
                                     "bytes",
                                     storages, copies));
      }
    }
  }

  std::string file_;
  ZipArchive archive_;
  std::map<std::string, Tensor> tensors_;
  std::vector<std::string> names_;
  Metadata metadata_;
};

}  // namespace

std::unique_ptr<TensorSource> open_torch(const std::filesystem::path& path) {
  return read_torch(map_file(path), path.string());
}

std::unique_ptr<TensorSource> read_torch(Block bytes, std::string file) {
  return std::make_unique<TorchSource>(std::move(bytes), std::move(file));
}

}  // namespace mamba::io
