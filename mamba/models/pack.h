// Quantised matrices in the order in which a CPU's kernels read them (ops/quantized_linear/packed.h).
#pragma once

#include "mamba/models/mamba.h"

namespace mamba::models {

// Packs every quantised matrix that is not packed, all in memory of their own side by side. One after another, and what
// each was goes before the next comes, so memory never holds two of them twice. Matrices of floats, but for large ones,
// come to lie between them, where a step reads them.
void pack_matrices(MambaLM& model);

}  // namespace mamba::models
