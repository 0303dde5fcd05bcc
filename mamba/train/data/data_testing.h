// Helpers for this folder's tests.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "mamba/base/error_testing.h"
#include "mamba/base/file.h"

namespace mamba::train {

inline const std::filesystem::path kTokenizer =
    std::filesystem::path(MAMBA_SOURCE_DIR) / "assets/shakespeare/tokenizer.json";

// The bytes of a .npy of version `version` with this header text and data.
inline std::string npy_bytes(const std::string& header, std::string_view data, int version = 1) {
  std::string out = "\x93NUMPY";
  out += static_cast<char>(version);
  out += '\0';
  const std::string padded = header + std::string(63 - (header.size() + 10) % 64, ' ') + "\n";
  for (int i = 0; i < (version == 1 ? 2 : 4); ++i) {
    out += static_cast<char>(padded.size() >> (8 * i));
  }
  return out + padded + std::string(data);
}

template <typename T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

}  // namespace mamba::train
