#include "mamba/models/large_pages.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>

#include "mamba/base/file.h"
#include "mamba/base/memory.h"
#include "mamba/base/threads.h"
#include "mamba/io/block.h"

namespace mamba::models {

namespace mx = mlx::core;

namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kWorthwhile = size_t{2} << 20;  // one large page
constexpr int64_t kPiece = 1 << 20;

size_t aligned(size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

bool lies_in_file(const nn::Matrix& matrix) {
  const mx::array& weight = matrix.weight;
  return !matrix.quantized && weight.is_available() && weight.flags().row_contiguous &&
         in_mapped_file(weight.data<char>());
}

void copy(const char* from, size_t bytes, std::byte* to) {
  const auto size = static_cast<int64_t>(bytes);
  parallel_for((size + kPiece - 1) / kPiece, 1, [&](int64_t begin, int64_t end) {
    std::memcpy(to + begin * kPiece, from + begin * kPiece,
                static_cast<size_t>(std::min(end * kPiece, size) - begin * kPiece));
  });
}

}  // namespace

void move_to_large_pages(MambaLM& model) {
  size_t total = 0;
  model.visit_matrices("", [&](const std::string&, nn::Matrix& matrix) {
    total += lies_in_file(matrix) ? aligned(matrix.weight.nbytes()) : 0;
  });
  if (total < kWorthwhile) {
    return;
  }
  const size_t room = total + kAlignment;  // in front, as io::array_in_block may look there
  const std::shared_ptr<std::byte> memory = map_memory(room);
  const io::Block block{.owner = memory, .data = memory.get(), .size = room, .mapped = false};
  size_t offset = kAlignment;
  model.visit_matrices("", [&](const std::string&, nn::Matrix& matrix) {
    if (!lies_in_file(matrix)) {
      return;
    }
    const size_t bytes = matrix.weight.nbytes();
    copy(matrix.weight.data<char>(), bytes, memory.get() + offset);
    matrix.weight = io::array_in_block(block, offset, matrix.weight.shape(), matrix.weight.dtype());
    offset += aligned(bytes);
  });
}

}  // namespace mamba::models
