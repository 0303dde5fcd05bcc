// libzip lists the archive and inflates entries, but does not tell where a stored entry's bytes lie. So the central
// directory is read a second time here, before libzip sees it, which also bounds what libzip allocates; the two
// readings must agree on every entry, or the archive is refused.

#include "mamba/io/zip_archive.h"

#include <zip.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>

#include "mamba/base/error.h"

namespace mamba::io {
namespace {

constexpr uint64_t kMaxEntries = 200'000;
constexpr uint64_t kMaxNameBytes = 4096;
// Deflate reaches 1032:1, weights hardly 2:1. A whole archive may inflate to 64 MB plus 20 times its own size.
constexpr uint64_t kMaxRatio = 20;
constexpr uint64_t kInflateFree = uint64_t{64} << 20;

constexpr uint64_t kEndBytes = 22;
constexpr uint64_t kLocatorBytes = 20;
constexpr uint64_t kEnd64Bytes = 56;
constexpr uint64_t kCentralBytes = 46;
constexpr uint64_t kLocalBytes = 30;
constexpr uint64_t kMax32 = 0xffffffff;

class DirectoryReader {
 public:
  DirectoryReader(const Block& bytes, const std::string& file) : bytes_(bytes), file_(file) {}

  std::vector<ZipArchive::Entry> read() {
    find_end();
    if (count_ > kMaxEntries || directory_size_ > end_ || directory_ > end_ - directory_size_ ||
        count_ > directory_size_ / kCentralBytes) {
      fail(end_, fmt::format("the zip archive claims a directory of {} entries and {} bytes at {}, which does not fit "
                             "the file",
                             count_, directory_size_, directory_));
    }
    std::vector<ZipArchive::Entry> entries;
    uint64_t at = directory_;
    for (uint64_t i = 0; i < count_; ++i) {
      entries.push_back(entry(at));
    }
    return entries;
  }

  uint64_t number(uint64_t at, int width) const {
    uint64_t value = 0;
    for (int i = width; i-- > 0;) {
      value = value << 8 | std::to_integer<uint64_t>(bytes_.data[at + static_cast<uint64_t>(i)]);
    }
    return value;
  }

 private:
  [[noreturn]] void fail(uint64_t at, const std::string& message) const {
    throw ParseError(file_, static_cast<int64_t>(at), message);
  }

  void find_end() {
    const uint64_t size = bytes_.size;
    const uint64_t lowest = size < kEndBytes + 0xffff ? 0 : size - kEndBytes - 0xffff;
    bool found = false;
    for (uint64_t at = size < kEndBytes ? 0 : size - kEndBytes + 1; !found && at-- > lowest;) {
      found = number(at, 4) == 0x06054b50 && number(at + 20, 2) == size - at - kEndBytes;
      end_ = at;
    }
    if (!found) {
      fail(size, "the zip archive has no directory at its end: the file is cut off; download or copy it again");
    }
    count_ = number(end_ + 10, 2);
    directory_size_ = number(end_ + 12, 4);
    directory_ = number(end_ + 16, 4);
    if (end_ < kLocatorBytes || number(end_ - kLocatorBytes, 4) != 0x07064b50) {
      return;
    }
    const uint64_t locator = end_ - kLocatorBytes;
    const uint64_t end64 = number(locator + 8, 8);
    if (locator < kEnd64Bytes || end64 > locator - kEnd64Bytes || number(end64, 4) != 0x06064b50) {
      fail(locator, "the zip archive's 64-bit directory is not where its locator says");
    }
    count_ = number(end64 + 32, 8);
    directory_size_ = number(end64 + 40, 8);
    directory_ = number(end64 + 48, 8);
    end_ = end64;
  }

  ZipArchive::Entry entry(uint64_t& at) const {
    const uint64_t limit = directory_ + directory_size_;
    if (limit - at < kCentralBytes || number(at, 4) != 0x02014b50) {
      fail(at, "the zip archive's directory is damaged");
    }
    const uint64_t flags = number(at + 8, 2);
    const uint64_t method = number(at + 10, 2);
    const uint64_t name_bytes = number(at + 28, 2);
    const uint64_t extra_bytes = number(at + 30, 2);
    const uint64_t whole = kCentralBytes + name_bytes + extra_bytes + number(at + 32, 2);
    if (whole > limit - at || name_bytes > kMaxNameBytes) {
      fail(at, "the zip archive's directory is damaged: an entry is longer than the directory");
    }
    ZipArchive::Entry entry{std::string(bytes_.text().substr(at + kCentralBytes, name_bytes)), number(at + 24, 4),
                            number(at + 20, 4), method == 0, number(at + 42, 4)};
    read_zip64(at + kCentralBytes + name_bytes, extra_bytes, entry);
    if ((flags & 1) != 0 || (method != 0 && method != 8)) {
      fail(at, fmt::format("zip entry {} is {}; only stored and deflated entries can be read", quote(entry.name),
                           (flags & 1) != 0 ? std::string("encrypted") : fmt::format("packed with method {}", method)));
    }
    if (entry.stored && entry.size != entry.compressed) {
      fail(at, fmt::format("zip entry {} is stored but claims {} bytes in {}", quote(entry.name), entry.size,
                           entry.compressed));
    }
    entry.offset = data_offset(entry, at);
    at += whole;
    return entry;
  }

  // Fields that do not fit 32 bits follow in the extra field, in this order, those alone.
  void read_zip64(uint64_t at, uint64_t bytes, ZipArchive::Entry& entry) const {
    for (const uint64_t end = at + bytes; end - at >= 4;) {
      const uint64_t id = number(at, 2);
      uint64_t left = number(at + 2, 2);
      at += 4;
      if (left > end - at) {
        return;
      }
      uint64_t field = at;
      at += left;
      if (id != 1) {
        continue;
      }
      for (uint64_t* value : {&entry.size, &entry.compressed, &entry.offset}) {
        if (*value == kMax32 && left >= 8) {
          *value = number(field, 8);
          field += 8;
          left -= 8;
        }
      }
      return;
    }
  }

  uint64_t data_offset(const ZipArchive::Entry& entry, uint64_t at) const {
    const uint64_t local = entry.offset;
    if (directory_ < kLocalBytes || local > directory_ - kLocalBytes || number(local, 4) != 0x04034b50) {
      fail(at, fmt::format("zip entry {} says that it starts at {}, where none does", quote(entry.name), local));
    }
    const uint64_t name_bytes = number(local + 26, 2);
    const uint64_t data = local + kLocalBytes + name_bytes + number(local + 28, 2);
    if (data > directory_ || entry.compressed > directory_ - data) {
      fail(at, fmt::format("zip entry {} of {} bytes at {} does not fit the file", quote(entry.name), entry.compressed,
                           local));
    }
    if (bytes_.text().substr(local + kLocalBytes, name_bytes) != entry.name) {
      fail(local, fmt::format("zip entry {} has another name where it starts", quote(entry.name)));
    }
    return data;
  }

  const Block& bytes_;
  const std::string& file_;
  uint64_t end_ = 0;  // where the end records start
  uint64_t count_ = 0;
  uint64_t directory_ = 0;
  uint64_t directory_size_ = 0;
};

struct Discard {
  void operator()(zip_t* archive) const { zip_discard(archive); }
};
struct Close {
  void operator()(zip_file_t* file) const { zip_fclose(file); }
};

}  // namespace

struct ZipArchive::Impl {
  Block bytes;
  std::string file;
  std::vector<Entry> entries;
  std::map<std::string_view, size_t> by_name;
  std::unique_ptr<zip_t, Discard> archive;
  mutable std::mutex mutex;  // libzip's handle is not thread-safe
  mutable std::map<size_t, std::weak_ptr<const void>> inflated;

  [[noreturn]] void fail(const Entry& entry, const std::string& message) const {
    throw ParseError(file, static_cast<int64_t>(entry.offset),
                     fmt::format("zip entry {} {}", quote(entry.name), message));
  }

  void open() {
    zip_error_t error;
    zip_error_init(&error);
    zip_source_t* source = zip_source_buffer_create(bytes.data, bytes.size, 0, &error);
    zip_t* opened = source == nullptr ? nullptr : zip_open_from_source(source, ZIP_RDONLY, &error);
    const std::string reason = opened == nullptr ? zip_error_strerror(&error) : "";
    if (opened == nullptr && source != nullptr) {
      zip_source_free(source);
    }
    zip_error_fini(&error);
    if (opened == nullptr) {
      throw ParseError(file, ParseError::kNoOffset, fmt::format("is not a readable zip archive: {}", reason));
    }
    archive.reset(opened);
  }

  void compare() const {
    const zip_int64_t listed = zip_get_num_entries(archive.get(), 0);
    bool same = listed >= 0 && static_cast<uint64_t>(listed) == entries.size();
    for (size_t i = 0; same && i < entries.size(); ++i) {
      zip_stat_t stat;
      zip_stat_init(&stat);
      same = zip_stat_index(archive.get(), i, ZIP_FL_ENC_RAW, &stat) == 0 && entries[i].name == stat.name &&
             entries[i].size == stat.size && entries[i].compressed == stat.comp_size &&
             (stat.comp_method == ZIP_CM_STORE) == entries[i].stored;
    }
    if (!same) {
      throw ParseError(file, ParseError::kNoOffset, "the zip archive's directory contradicts itself");
    }
  }

  void read_into(size_t index, std::byte* target) const {
    const Entry& entry = entries[index];
    const std::unique_ptr<zip_file_t, Close> open_entry(zip_fopen_index(archive.get(), index, 0));
    if (!open_entry) {
      fail(entry, fmt::format("cannot be read: {}", zip_strerror(archive.get())));
    }
    uint64_t done = 0;
    // One byte more than it claims: the end is where libzip compares the CRC.
    for (std::byte beyond{};;) {
      const bool full = done == entry.size;
      const zip_int64_t got = zip_fread(open_entry.get(), full ? &beyond : target + done,
                                        full ? 1 : std::min<uint64_t>(entry.size - done, uint64_t{1} << 30));
      if (got < 0) {
        fail(entry, fmt::format("is damaged: {}; download or copy the file again",
                                zip_error_strerror(zip_file_get_error(open_entry.get()))));
      }
      if (got == 0) {
        break;
      }
      if (full) {
        fail(entry, fmt::format("is longer than the {} bytes it claims", entry.size));
      }
      done += static_cast<uint64_t>(got);
    }
    if (done != entry.size) {
      fail(entry, fmt::format("ends after {} of the {} bytes it claims", done, entry.size));
    }
  }
};

ZipArchive::ZipArchive(Block bytes, std::string file) : impl_(std::make_unique<Impl>()) {
  impl_->bytes = std::move(bytes);
  impl_->file = std::move(file);
  impl_->entries = DirectoryReader(impl_->bytes, impl_->file).read();
  uint64_t inflated = 0;
  for (size_t i = 0; i < impl_->entries.size(); ++i) {
    const Entry& entry = impl_->entries[i];
    if (!impl_->by_name.emplace(entry.name, i).second) {
      impl_->fail(entry, "is there twice");
    }
    if (!entry.stored && __builtin_add_overflow(inflated, entry.size, &inflated)) {
      inflated = UINT64_MAX;
    }
  }
  if (inflated > kInflateFree && (inflated - kInflateFree) / kMaxRatio >= impl_->bytes.size) {
    throw ParseError(impl_->file, ParseError::kNoOffset,
                     fmt::format("refuses to load: {} bytes of archive claim to inflate to {} bytes, which weights "
                                 "never do",
                                 impl_->bytes.size, inflated));
  }
  impl_->open();
  impl_->compare();
}

ZipArchive::~ZipArchive() = default;
ZipArchive::ZipArchive(ZipArchive&&) noexcept = default;
ZipArchive& ZipArchive::operator=(ZipArchive&&) noexcept = default;

const std::vector<ZipArchive::Entry>& ZipArchive::entries() const {
  return impl_->entries;
}

const ZipArchive::Entry* ZipArchive::find(std::string_view name) const {
  const auto it = impl_->by_name.find(name);
  return it == impl_->by_name.end() ? nullptr : &impl_->entries[it->second];
}

Block ZipArchive::data(const Entry& entry) const {
  if (entry.stored) {
    return {impl_->bytes.owner, impl_->bytes.data + entry.offset, entry.size, impl_->bytes.mapped};
  }
  const size_t index = static_cast<size_t>(&entry - impl_->entries.data());
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  std::weak_ptr<const void>& shared = impl_->inflated[index];
  if (std::shared_ptr<const void> owner = shared.lock()) {
    const auto* bytes = static_cast<const std::byte*>(owner.get());
    return {std::move(owner), bytes, entry.size, false};
  }
  std::byte* bytes = nullptr;
  const Block block = allocate_block(entry.size, bytes);
  impl_->read_into(index, bytes);
  Block result{std::shared_ptr<const void>(block.owner, bytes), bytes, entry.size, false};
  shared = result.owner;
  return result;
}

std::string ZipArchive::read(const Entry& entry, uint64_t limit) const {
  if (entry.size > limit) {
    impl_->fail(entry, fmt::format("is {} bytes long, more than the {} that make sense", entry.size, limit));
  }
  std::string text(entry.size, '\0');
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  impl_->read_into(static_cast<size_t>(&entry - impl_->entries.data()), reinterpret_cast<std::byte*>(text.data()));
  return text;
}

}  // namespace mamba::io
