// Weights that were never trained, for measuring: a model of any size in seconds, without a file.
#pragma once

#include <mlx/dtype.h>

#include <memory>

#include "mamba/io/tensor_source.h"
#include "mamba/models/config.h"

namespace mamba::models {

// A checkpoint of a model of this configuration, whose tensors are made when they are loaded: at once in their dtype,
// so that memory holds nothing else. `dtype` is that of the weights; what keeps_precision() is float32. Where the
// configuration asks for quantisation, every matrix whose columns allow it holds codes, with scales in float16. Values
// are uniform and of the size that initialize() gives, so that activations are of ordinary size, and always the same.
std::unique_ptr<io::TensorSource> random_checkpoint(const Config& config, mlx::core::Dtype dtype);

}  // namespace mamba::models
