// Token ids as they lie in a file: integers of any size, read without a copy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace mamba::train {

struct TokenType {
  int size = 4;  // bytes: 1, 2, 4 or 8
  bool is_signed = false;
  bool big_endian = false;
};

// A view: whoever makes one keeps the bytes. They need not be aligned.
class TokenArray {
 public:
  TokenArray() = default;
  TokenArray(const std::byte* data, int64_t size, TokenType type) : data_(data), size_(size), type_(type) {}

  int64_t size() const { return size_; }
  TokenType type() const { return type_; }

  // The ids [begin, begin + count), which must lie in the array and fit into int32: first_outside() finds out.
  void copy(int64_t begin, int64_t count, int32_t* out) const;

  // The first id of [begin, end) that is not in [0, vocab_size).
  struct Outside {
    int64_t position;
    std::string value;
  };
  std::optional<Outside> first_outside(int64_t begin, int64_t end, int64_t vocab_size) const;

 private:
  template <typename Visit>
  void with_type(const Visit& visit) const;

  const std::byte* data_ = nullptr;
  int64_t size_ = 0;
  TokenType type_;
};

}  // namespace mamba::train
