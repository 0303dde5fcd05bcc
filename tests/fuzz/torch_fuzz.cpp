// Opens the bytes as a file of torch.save and touches every tensor. Bytes that do not start as a zip archive are taken
// for the pickle alone: inside an archive its CRC would keep most mutations from the pickle reader.

#include <mlx/array.h>

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "mamba/base/error.h"
#include "mamba/io/state_dict.h"
#include "mamba/io/torch_file.h"

namespace {

using namespace mamba;

constexpr uint64_t kLoadLimit = 16 << 20;

void read_as_archive(std::string_view text) {
  const auto source = io::read_torch(io::copy_block(text), "fuzz.pt");
  for (const std::string& name : source->names()) {
    const io::TensorInfo& info = source->info(name);
    if (info.bytes > kLoadLimit) {
      continue;
    }
    const mlx::core::array array = source->load(name);
    unsigned sum = 0;
    for (size_t i = 0; i < array.nbytes(); ++i) {
      sum += array.data<uint8_t>()[i];
    }
    if (array.nbytes() != info.bytes || array.shape() != info.shape || sum > 255 * info.bytes) {
      __builtin_trap();
    }
  }
}

void read_as_pickle(std::string_view text) {
  const io::Pickle pickle = io::read_pickle(text, "fuzz.pkl");
  for (const auto& [name, tensor] : io::find_state_dict(pickle, "fuzz.pkl")) {
    uint64_t bytes = 0;
    if (__builtin_mul_overflow(tensor.storage.items, tensor.storage.dtype ? tensor.storage.dtype->size() : 1, &bytes)) {
      continue;
    }
    try {
      const io::TensorView view = io::check_tensor(name, tensor, bytes, "fuzz.pkl", 0);
      if (view.info.bytes > bytes || view.offset > bytes ||
          (view.contiguous && view.info.bytes > bytes - view.offset)) {
        __builtin_trap();
      }
      if (bytes <= kLoadLimit) {
        std::byte* memory = nullptr;
        const io::Block storage = io::allocate_block(bytes, memory);
        std::fill(memory, memory + bytes, std::byte{1});
        io::copy_strided(storage, view.offset, view.info.shape, view.strides, view.info.dtype);
      }
    } catch (const ParseError&) {
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    text.starts_with("PK") ? read_as_archive(text) : read_as_pickle(text);
  } catch (const ParseError&) {
  }
  return 0;
}
