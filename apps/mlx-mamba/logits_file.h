// A matrix that is written row by row into a safetensors file, without ever being in memory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>

#include "mamba/base/file.h"

namespace mamba::cli {

class LogitsFile {
 public:
  // The file will hold one float32 tensor "logits" (rows, columns). It appears when commit() is called.
  LogitsFile(const std::filesystem::path& path, int64_t rows, int64_t columns);

  void write(std::span<const float> values);
  void commit();  // throws Error unless rows x columns values came

 private:
  AtomicFile file_;
  std::filesystem::path path_;
  uint64_t expected_;  // bytes of the file
};

}  // namespace mamba::cli
