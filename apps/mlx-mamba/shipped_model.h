// The small model that comes with the program.
#pragma once

#include <filesystem>

namespace mamba::cli {

// $MLX_MAMBA_ASSETS/shakespeare, or the folder itself when it holds a model; else where an installed program has it,
// ../share/mlx-mamba/shakespeare from the executable; else the source tree's. Throws Error naming these when there is
// none.
std::filesystem::path shipped_model();

}  // namespace mamba::cli
