// Between the tensors of a file and the parameters of a model: names, shapes, dtypes.
#pragma once

#include <mlx/dtype.h>

#include <optional>
#include <string>
#include <vector>

#include "mamba/io/save.h"
#include "mamba/io/tensor_source.h"
#include "mamba/models/mamba.h"

namespace mamba::models {

// The parameter path that a tensor's name stands for: Hugging Face's names are the paths themselves; state-spaces says
// "backbone.embedding.weight", and a bare backbone (MambaModel) leaves the first component out.
std::string parameter_path(const std::string& tensor_name);

// The shape that `config` gives to a parameter. Throws Error for a path that is no parameter.
mlx::core::Shape parameter_shape(const std::string& path, const Config& config);

// Small tensors on which the recurrence depends stay as they are when weights are narrowed to 16 bits: A_log, D, norms,
// biases, and the convolution.
bool keeps_precision(const std::string& path);

// Puts the tensors into `model`, each in its stored dtype, or, when it is another than `dtype`, in that (float32 where
// keeps_precision()). Quantised matrices stay as they are stored, and `dtype`, by default the
// configuration's, is what the model computes in. Throws
// Error that names file, tensor and what was expected for tensors missing, superfluous, misshapen or of other dtypes.
void load_parameters(const io::TensorSource& source, MambaLM& model, std::optional<mlx::core::Dtype> dtype = {});

// The model's parameters for writing, under Hugging Face's names; with `dtype` floats are converted as above. `model`
// must outlive the result.
std::vector<io::TensorToSave> parameters_to_save(MambaLM& model, std::optional<mlx::core::Dtype> dtype = {});

}  // namespace mamba::models
