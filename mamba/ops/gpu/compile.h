// Kernels for CUDA are compiled here, many at a time and once for all runs.
//
// MLX compiles a kernel when it first runs: a second or several each, one after another, anew in every process. But it
// looks into a folder of compiled ones first ($MLX_PTX_CACHE_DIR, else mlx/<version>/ptx in the folder for temporary
// files), and there we put ours.
#pragma once

#include <mlx/primitives.h>

#include <memory>

namespace mamba::ops::gpu {

// `kernel`, a node that mx::fast::cuda_kernel() made, as a node that waits for its compiled kernel when it runs.
// Compilation starts here. Where anything about it fails MLX compiles as ever.
//
// `brief`: a node with the same arguments whose source names what it stands for (brief_source), and nothing else. It is
// the one that runs, as MLX hashes a node's source each time, 10 us for 50 KB, to find what was compiled from it.
std::shared_ptr<mlx::core::Primitive> compiled_ahead(std::shared_ptr<mlx::core::Primitive> kernel,
                                                     std::shared_ptr<mlx::core::Primitive> brief);

}  // namespace mamba::ops::gpu
