// Fresh parameters, distributed exactly as the official implementation draws them.
#pragma once

#include <cstdint>

#include "mamba/models/mamba.h"

namespace mamba::models {

// Fills every parameter of `model`, float32. The same seed gives the same values on one version of MLX.
//
//   A_log         log(1..N) in each channel                 (S4D-Real, paper section 3.6)
//   D, norms      1
//   dt_proj       weight U(-s, s), s = dt_scale / sqrt(R) (or constant s); bias = softplus^-1(dt),
//                 dt = exp(U(log dt_min, log dt_max)), at least dt_init_floor
//   out_proj      U(-1/sqrt(D), 1/sqrt(D)), divided by sqrt(n_layer) when rescale_prenorm_residual
//   embeddings    N(0, initializer_range)
//   other linear  U(-1/sqrt(in), 1/sqrt(in)), biases 0; conv1d U(-1/sqrt(K), 1/sqrt(K)), its bias too
//                 (PyTorch's defaults)
void initialize(MambaLM& model, uint64_t seed);

}  // namespace mamba::models
