// Which implementation an op takes, and how a CPU kernel sees its arrays.
#pragma once

#include <fmt/format.h>
#include <mlx/array.h>
#include <mlx/backend/cpu/encoder.h>
#include <mlx/stream.h>
#include <mlx/utils.h>

#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <vector>

namespace mamba::ops {

// True when `stream` runs on a CPU, where every op has a kernel.
bool on_cpu(const mlx::core::Stream& stream);

// For tests: what ops do on GPUs is done on CPU streams too, kernels as host C++ (gpu/host.h).
void take_gpu_paths(bool taken);

// Called where an op falls back to its reference for want of a kernel: one warning per op and device, or an Error
// when the environment says MAMBA_REQUIRE_KERNELS=1.
void report_missing_kernel(const char* op, const mlx::core::Stream& stream);

// For eval_cpu: `in` itself when its last axis is contiguous (other axes may have any strides, so slices of a wider
// array are read in place), else a row-contiguous temporary that the encoder fills before what is dispatched next.
mlx::core::array readable_rows(const mlx::core::array& in, mlx::core::cpu::CommandEncoder& encoder);

// The same, but every axis contiguous.
mlx::core::array row_contiguous(const mlx::core::array& in, mlx::core::cpu::CommandEncoder& encoder);

// For eval_cpu: allocates `out` row-contiguous.
void allocate(mlx::core::array& out);

// Whether `a` fills memory of MLX's row by row that nobody else needs.
bool is_free(const mlx::core::array& a);

// For eval_cpu: gives `out` the memory of `in`, of the same shape and dtype, when `in` fills it row by row and nobody
// else needs it; false, and `out` as before, otherwise.
bool take_over(const mlx::core::array& in, mlx::core::array& out);

// For eval_cpu: outputs[first], ... each take over the input of the same number, or are allocated.
void take_over_or_allocate(const std::vector<mlx::core::array>& inputs, size_t first,
                           std::vector<mlx::core::array>& outputs);

// For eval_cpu: memory for `floats` of them, undefined, until what is dispatched next has run.
float* workspace(int64_t floats, mlx::core::cpu::CommandEncoder& encoder);

// For messages: "(1536, 16)" and "float32" to fmt. Nothing is formatted before fmt asks, so a check that holds costs
// nothing. Refers to its argument.
struct ShownShape {
  const mlx::core::Shape& shape;
};
struct ShownDtype {
  mlx::core::Dtype dtype;
};
inline ShownShape shown(const mlx::core::Shape& shape) {
  return {shape};
}
inline ShownDtype shown(mlx::core::Dtype dtype) {
  return {dtype};
}

// Throws Error "[op] name must be <expected> but got <shape>" unless the shapes agree; -1 in `expected` is any size.
void check_shape(const char* op, const char* name, const mlx::core::array& a, std::initializer_list<int> expected);

// Throws unless the dtype is float32, bfloat16 or float16.
void check_float(const char* op, const char* name, const mlx::core::array& a);

}  // namespace mamba::ops

template <>
struct fmt::formatter<mamba::ops::ShownShape> : fmt::formatter<std::string_view> {
  fmt::format_context::iterator format(const mamba::ops::ShownShape& shown, fmt::format_context& context) const;
};

template <>
struct fmt::formatter<mamba::ops::ShownDtype> : fmt::formatter<std::string_view> {
  fmt::format_context::iterator format(const mamba::ops::ShownDtype& shown, fmt::format_context& context) const;
};
