// Quantising a model's weights to 8 or 4 bits, in MLX's affine format.
#pragma once

#include <mlx/array.h>

#include <cstdint>
#include <string>
#include <vector>

#include "mamba/base/progress.h"
#include "mamba/models/mamba.h"

namespace mamba::quant {

struct Settings {
  int bits = 8;         // 8 or 4
  int group_size = 64;  // 32, 64 or 128
  // Modules that stay float, by the ends of their paths: "lm_head", "in_proj", "layers.0.mixer.x_proj". Where the
  // output layer is tied to the embeddings, "lm_head" means these.
  std::vector<std::string> keep = {};
  // Look how far each matrix is from what it was: takes as much time again.
  bool measure_errors = false;
};

// What became of one matrix.
struct MatrixReport {
  std::string path;  // "backbone.layers.0.mixer.in_proj"
  mlx::core::Shape shape;
  bool quantized = false;
  std::string reason;  // why not
  uint64_t bytes_before = 0;
  uint64_t bytes_after = 0;
  // Of a quantised one, when measured: root of the mean square, as a fraction of the weights' own, and the largest.
  double relative_error = 0;
  double largest_error = 0;
};

struct Report {
  std::vector<MatrixReport> matrices;  // in the model's order
  uint64_t bytes_before = 0;           // of all parameters
  uint64_t bytes_after = 0;
};

// Quantises the embeddings, in_proj, x_proj, dt_proj, out_proj and the output layer of each block, except for those
// that `keep` names and those whose columns the group size does not divide. Convolution, A_log, D, norms and biases
// are no matrices and stay float. Scales are stored in the weights' dtype, those of float32 weights in float16, whose
// rounding is small beside that of 8 bits. Works matrix by matrix: the floats of one go before the next one's
// turn. The model goes on computing in the dtype it did (MambaLM::dtype()), and comes prepared for inference.
//
// Throws UsageError for bits and group sizes that there are not, for `keep` without a meaning, for a model that is
// quantised already, and when nothing would be quantised, all before anything changes. What `progress` throws leaves a
// model of both kinds.
Report quantize(models::MambaLM& model, const Settings& settings, const ProgressFn& progress = {});

// "8 bits, groups of 64; float stay dt_proj (24 of 97: 48 columns are no multiple of 64)": one line for people.
std::string summary(const Report& report, const Settings& settings);

}  // namespace mamba::quant
