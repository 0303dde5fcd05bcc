// Whatever a .npy says: a ParseError, or an array whose every id can be read.
#include <cstdint>
#include <string_view>
#include <vector>

#include "mamba/base/error.h"
#include "mamba/train/data/npy.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mamba::train;
  try {
    const Npy npy = parse_npy({reinterpret_cast<const char*>(data), size}, "a.npy");
    const int64_t count = npy.rows * npy.columns;
    const TokenArray tokens(reinterpret_cast<const std::byte*>(data) + npy.offset, count, npy.type);
    constexpr int64_t kVocabulary = 1000;
    const auto outside = tokens.first_outside(0, count, kVocabulary);
    const int64_t good = outside ? outside->position : count;
    std::vector<int32_t> ids(static_cast<size_t>(good));
    tokens.copy(0, good, ids.data());
    for (const int32_t id : ids) {
      if (id < 0 || id >= kVocabulary) {
        __builtin_trap();
      }
    }
  } catch (const mamba::ParseError&) {
  }
  return 0;
}
