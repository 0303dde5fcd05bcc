#include "apps/mlx-mamba/logits_file.h"

#include <bit>
#include <cstring>
#include <string>

#include "mamba/base/error.h"

namespace mamba::cli {

static_assert(std::endian::native == std::endian::little, "safetensors are little-endian");

LogitsFile::LogitsFile(const std::filesystem::path& path, int64_t rows, int64_t columns) : file_(path), path_(path) {
  const uint64_t bytes = static_cast<uint64_t>(rows) * static_cast<uint64_t>(columns) * sizeof(float);
  std::string header = fmt::format(R"({{"__metadata__":{{"format":"pt"}},"logits":{{"dtype":"F32","shape":[{},{}],)"
                                   R"("data_offsets":[0,{}]}}}})",
                                   rows, columns, bytes);
  const size_t unpadded = sizeof(uint64_t) + header.size();
  header.append((64 - unpadded % 64) % 64, ' ');  // rows start aligned for whoever maps the file
  const uint64_t length = header.size();
  file_.write(&length, sizeof length);
  file_.write(header);
  expected_ = file_.written() + bytes;
}

void LogitsFile::write(std::span<const float> values) {
  file_.write(values.data(), values.size_bytes());
}

void LogitsFile::commit() {
  check(file_.written() == expected_, "{}: {} bytes were written where {} were expected", path_.string(),
        file_.written(), expected_);
  file_.commit();
}

}  // namespace mamba::cli
