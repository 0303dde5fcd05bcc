// Opens the bytes as a safetensors file and, when that works, touches every tensor.

#include <mlx/array.h>

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "mamba/base/error.h"
#include "mamba/io/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mamba;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  std::unique_ptr<io::TensorSource> source;
  try {
    source = io::read_safetensors(io::copy_block(text), "fuzz.safetensors");
  } catch (const ParseError&) {
    return 0;
  }
  uint64_t total = 0;
  for (const std::string& name : source->names()) {
    const mlx::core::array array = source->load(name);
    unsigned sum = 0;
    for (size_t i = 0; i < array.nbytes(); ++i) {
      sum += array.data<uint8_t>()[i];
    }
    const io::TensorInfo& info = source->info(name);
    if (array.nbytes() != info.bytes || array.shape() != info.shape || sum > 255 * info.bytes) {
      __builtin_trap();
    }
    total += info.bytes;
  }
  if (total > size) {  // tensors do not overlap
    __builtin_trap();
  }
  return 0;
}
