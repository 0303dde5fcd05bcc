#include "mamba/models/dequantize.h"

#include <mlx/transforms.h>

namespace mamba::models {

namespace mx = mlx::core;

void dequantize(MambaLM& model, mx::Dtype dtype) {
  model.visit_matrices("", [&](const std::string&, nn::Matrix& matrix) {
    if (matrix.quantized) {
      matrix.weight = matrix.dense(dtype);
      matrix.quantized.reset();
      matrix.packed.reset();
      mx::eval(matrix.weight);
    }
  });
  model.set_quantization(std::nullopt);
  model.set_dtype(std::nullopt);
}

}  // namespace mamba::models
