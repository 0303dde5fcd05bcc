#include "mamba/train/data/token_array.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

namespace mamba::train {
namespace {

template <typename T>
T load(const std::byte* at, bool swapped) {
  T value;
  if (swapped) {
    std::byte bytes[sizeof(T)];
    std::reverse_copy(at, at + sizeof(T), bytes);
    std::memcpy(&value, bytes, sizeof(T));
  } else {
    std::memcpy(&value, at, sizeof(T));
  }
  return value;
}

}  // namespace

// Calls visit(T{}) with a value of the type that the ids have.
template <typename Visit>
void TokenArray::with_type(const Visit& visit) const {
  const auto either = [&](auto without_sign, auto with_sign) {
    if (type_.is_signed) {
      visit(with_sign);
    } else {
      visit(without_sign);
    }
  };
  switch (type_.size) {
    case 1:
      return either(uint8_t{}, int8_t{});
    case 2:
      return either(uint16_t{}, int16_t{});
    case 4:
      return either(uint32_t{}, int32_t{});
    default:
      return either(uint64_t{}, int64_t{});
  }
}

void TokenArray::copy(int64_t begin, int64_t count, int32_t* out) const {
  const bool swapped = type_.big_endian != (std::endian::native == std::endian::big);
  with_type([&](auto zero) {
    using T = decltype(zero);
    const std::byte* at = data_ + begin * static_cast<int64_t>(sizeof(T));
    for (int64_t i = 0; i < count; ++i, at += sizeof(T)) {
      out[i] = static_cast<int32_t>(load<T>(at, swapped));
    }
  });
}

std::optional<TokenArray::Outside> TokenArray::first_outside(int64_t begin, int64_t end, int64_t vocab_size) const {
  const bool swapped = type_.big_endian != (std::endian::native == std::endian::big);
  std::optional<Outside> found;
  with_type([&](auto zero) {
    using T = decltype(zero);
    const std::byte* at = data_ + begin * static_cast<int64_t>(sizeof(T));
    for (int64_t i = begin; i < end; ++i, at += sizeof(T)) {
      const T value = load<T>(at, swapped);
      // As uint64 a negative id is larger than any vocabulary.
      if (static_cast<uint64_t>(value) >= static_cast<uint64_t>(vocab_size)) {
        found = Outside{i, fmt::format("{}", static_cast<std::conditional_t<sizeof(T) == 1, int, T>>(value))};
        return;
      }
    }
  });
  return found;
}

}  // namespace mamba::train
