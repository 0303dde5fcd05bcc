// Kernels for GPUs: one source for CUDA and Metal, compiled by MLX at run time.
//
// A source is the body of a function, written in the dialect of dialect_{cuda,metal,host}.h and math.h. It finds its
// arrays under their names, with name_shape[axis] and name_strides[axis] where it mentions them, and constants under
// theirs. Inputs come with any strides. What varies from call to call (lengths, batches) belongs into shapes: each
// value of a constant is compiled anew.
#pragma once

#include <mlx/array.h>
#include <mlx/fast.h>
#include <mlx/stream.h>

#include <array>
#include <initializer_list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mamba/ops/gpu/host.h"

namespace mamba::ops::gpu {

using Constants = std::vector<std::pair<std::string, mlx::core::fast::TemplateArg>>;

struct Grid {
  std::array<int, 3> groups;  // each at least 1
  int threads;                // of a group: a multiple of 32
  int shared_more = 0;        // bytes of MAMBA_SHARED_MORE, on CUDA
};

// A source that is kept in parts, each of whole lines.
std::string joined(std::initializer_list<std::string_view> parts);

class Kernel {
 public:
  // `cuda_registers` bounds those of a thread, so that more threads fit; 0: the compiler's choice. `in_pairs`: groups 2
  // i and 2 i + 1 reach one another's shared memory (pairs_cuda.h).
  Kernel(std::string name, std::string_view source, std::vector<std::string> inputs, std::vector<std::string> outputs,
         int cuda_registers = 0, bool in_pairs = false);

  // Nodes of the graph that give the outputs. Not differentiable.
  std::vector<mlx::core::array> operator()(const std::vector<mlx::core::array>& inputs,
                                           const std::vector<mlx::core::Shape>& shapes,
                                           const std::vector<mlx::core::Dtype>& dtypes, const Grid& grid,
                                           const Constants& constants, const mlx::core::Stream& stream) const;

 private:
  // MLX's functions that make a node: of the source, and of what stands for it (compile.h).
  struct Makers {
    mlx::core::fast::CustomKernelFunction whole, brief;
  };
  Makers makers(int shared_more) const;
  std::shared_ptr<mlx::core::Primitive> make_primitive(const std::vector<mlx::core::array>& inputs,
                                                       const std::vector<mlx::core::Shape>& shapes,
                                                       const std::vector<mlx::core::Dtype>& dtypes, const Grid& grid,
                                                       const Constants& constants,
                                                       const mlx::core::Stream& stream) const;

  std::string name_;
  std::vector<std::string> inputs_, outputs_;
  mutable std::map<int, Makers> makers_;  // by bytes of MAMBA_SHARED_MORE
  std::string source_;
  int cuda_registers_;
  bool in_pairs_;
  // A node's source is long and MLX assembles it anew for each; what runs in every step of generation comes from here.
  mutable std::mutex mutex_;
  mutable std::map<std::vector<int64_t>, std::shared_ptr<mlx::core::Primitive>> primitives_;
};

// For tests: what runs the kernel `name` on CPU streams. The launches themselves are then tested too.
void set_host_body(const std::string& name, void (*run)(const host::Launch& launch));

// MLX gathers launches into CUDA graphs. One with a product whose groups work together in two directions, as those of
// float32 numbers do, it makes anew each time and waits for. Called before anything runs on a GPU, this has kernels
// launched one by one instead, unless MLX_USE_CUDA_GRAPHS says something else.
void launch_singly();

// `a` itself where its values are known to lie row by row, else a node that makes them. A node costs the host about as
// much as a small kernel costs the device.
mlx::core::array contiguous(const mlx::core::array& a, const mlx::core::Stream& stream);

// Whether `a`, of float32, is what mx::zeros gives, as the gradients of results are of which nothing depends: then a
// kernel need not read it. False where that cannot be told without evaluating it.
bool known_zero(const mlx::core::array& a);

}  // namespace mamba::ops::gpu
