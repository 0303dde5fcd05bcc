// From quantised weights back to floats.
#pragma once

#include <mlx/dtype.h>

#include "mamba/models/mamba.h"

namespace mamba::models {

// Makes every quantised matrix of `model` floats of `dtype`: what its codes stand for, rounded once. Adapters stay.
void dequantize(MambaLM& model, mlx::core::Dtype dtype);

}  // namespace mamba::models
