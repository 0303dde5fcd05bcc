#include "mamba/models/large_pages.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "mamba/base/file.h"
#include "mamba/base/threads.h"
#include "mamba/models/weight_block.h"

namespace mamba::models {

namespace mx = mlx::core;

namespace {

constexpr size_t kWorthwhile = size_t{2} << 20;  // one large page
constexpr int64_t kPiece = 1 << 20;

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
    total += lies_in_file(matrix) ? WeightBlock::room(matrix.weight.nbytes()) : 0;
  });
  if (total >= kWorthwhile) {
    WeightBlock block(total);
    model.visit_matrices("", [&](const std::string&, nn::Matrix& matrix) {
      if (lies_in_file(matrix)) {
        copy(matrix.weight.data<char>(), matrix.weight.nbytes(), block.next());
        matrix.weight = block.take(matrix.weight.shape(), matrix.weight.dtype());
      }
    });
  }
  model.prepare();
}

}  // namespace mamba::models
