#include "mamba/nn/lora.h"

#include <mlx/ops.h>
#include <mlx/random.h>

#include <cmath>

namespace mamba::nn {

namespace mx = mlx::core;

Lora Lora::initial(int in, int out, int rank, float scale, const mx::array& key) {
  const auto bound = static_cast<float>(1 / std::sqrt(static_cast<double>(in)));
  Lora lora;
  lora.A = mx::random::uniform(mx::array(-bound), mx::array(bound), {rank, in}, mx::float32, key);
  lora.B = mx::zeros({out, rank});
  lora.scale = scale;
  return lora;
}

ops::LowRankTerm Lora::term(const mx::array& x, const std::optional<mx::array>& spans, mx::StreamOrDevice s) const {
  const mx::array low = ops::linear(x, A, {}, {.spans = spans, .out_dtype = mx::float32}, s);  // (..., r)
  return {.u = mx::multiply(low, mx::array(scale), s), .V = B};
}

mx::array Lora::product(mx::StreamOrDevice s) const {
  const mx::array columns = mx::transpose(A, s);  // (in, r)
  const mx::array out = ops::linear(B, columns, {}, {.out_dtype = mx::float32}, s);
  return mx::multiply(out, mx::array(scale), s);
}

void Lora::visit(const std::string& path, const ParameterVisitor& visitor) {
  visitor(joined(path, "lora_A.weight"), A);
  visitor(joined(path, "lora_B.weight"), B);
}

}  // namespace mamba::nn
