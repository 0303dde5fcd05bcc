#include "mamba/ops/dispatch.h"

#include <mlx/allocator.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string_view>
#include <vector>

#include "mamba/base/error.h"
#include "mamba/base/warning.h"

namespace mamba::ops {

namespace mx = mlx::core;

namespace {

bool last_axis_contiguous(const mx::array& a) {
  return a.ndim() == 0 || a.size() <= 1 || a.shape(-1) == 1 || a.strides().back() == 1;
}

// Copies any strided array, element by element along the last axis. Slow and rarely taken: inputs made by our own
// layers are slices along the last axis at most.
void copy_strided(const mx::array& in, mx::array& out) {
  const size_t item = in.itemsize();
  const auto* source = static_cast<const char*>(in.data<void>());
  auto* target = out.data<char>();
  const int axes = static_cast<int>(in.ndim());
  const int64_t inner = axes == 0 ? 1 : in.shape(-1);
  const int64_t inner_stride = axes == 0 ? 1 : in.strides().back();
  const int64_t outer = inner == 0 ? 0 : static_cast<int64_t>(in.size()) / inner;
  std::vector<int> index(static_cast<size_t>(std::max(axes - 1, 0)), 0);
  for (int64_t row = 0; row < outer; ++row) {
    int64_t offset = 0;
    for (size_t axis = 0; axis < index.size(); ++axis) {
      offset += index[axis] * in.strides()[axis];
    }
    for (int64_t i = 0; i < inner; ++i) {
      std::memcpy(target, source + (offset + i * inner_stride) * static_cast<int64_t>(item), item);
      target += item;
    }
    for (size_t axis = index.size(); axis-- > 0;) {
      if (++index[axis] < in.shape()[axis]) {
        break;
      }
      index[axis] = 0;
    }
  }
}

mx::array copied(const mx::array& in, mx::cpu::CommandEncoder& encoder) {
  mx::array out(in.shape(), in.dtype(), nullptr, {});
  allocate(out);
  encoder.add_temporary(out);
  encoder.set_input_array(in);
  encoder.set_output_array(out);
  encoder.dispatch([in = mx::array::unsafe_weak_copy(in), out = mx::array::unsafe_weak_copy(out)]() mutable {
    copy_strided(in, out);
  });
  return out;
}

std::atomic<bool> gpu_paths{false};

}  // namespace

bool on_cpu(const mx::Stream& stream) {
  return stream.device == mx::Device::cpu && !gpu_paths;
}

void take_gpu_paths(bool taken) {
  gpu_paths = taken;
}

void report_missing_kernel(const char* op, const mx::Stream& stream) {
  std::ostringstream device;
  device << stream.device;
  const char* required = std::getenv("MAMBA_REQUIRE_KERNELS");
  check(required == nullptr || std::string_view(required) != "1",
        "[{}] has no kernel for {} yet, and MAMBA_REQUIRE_KERNELS=1 forbids the slow path", op, device.str());
  warn_once(fmt::format("{} has no kernel for {} yet: it runs as plain MLX operations, more slowly", op, device.str()));
}

mx::array readable_rows(const mx::array& in, mx::cpu::CommandEncoder& encoder) {
  return last_axis_contiguous(in) ? in : copied(in, encoder);
}

mx::array row_contiguous(const mx::array& in, mx::cpu::CommandEncoder& encoder) {
  return in.flags().row_contiguous ? in : copied(in, encoder);
}

void allocate(mx::array& out) {
  out.set_data(mx::allocator::malloc(out.nbytes()));
}

bool is_free(const mx::array& a) {
  // A buffer that MLX does not own, such as a mapped file, has size 0.
  const bool free = a.is_donatable() && a.buffer_size() >= a.nbytes();
  return free && a.flags().row_contiguous && a.data_size() == a.size();
}

bool take_over(const mx::array& in, mx::array& out) {
  if (!is_free(in)) {
    return false;
  }
  out.copy_shared_buffer(in);
  return true;
}

void take_over_or_allocate(const std::vector<mx::array>& inputs, size_t first, std::vector<mx::array>& outputs) {
  // Each output has a list of the inputs, and those of the others, which MLX is about to clear, would hold them.
  for (mx::array& out : outputs) {
    if (&out.inputs() != &inputs && !out.is_tracer()) {
      out.inputs().clear();
    }
  }
  for (size_t i = first; i < outputs.size(); ++i) {
    if (!take_over(inputs[i], outputs[i])) {
      allocate(outputs[i]);
    }
  }
}

float* workspace(int64_t floats, mx::cpu::CommandEncoder& encoder) {
  // Two axes, since one of more than INT_MAX floats cannot be written down.
  constexpr int64_t kRow = 1024;
  mx::array memory({static_cast<int>((floats + kRow - 1) / kRow), static_cast<int>(kRow)}, mx::float32, nullptr, {});
  allocate(memory);
  encoder.add_temporary(memory);
  return memory.data<float>();
}

void check_shape(const char* op, const char* name, const mx::array& a, std::initializer_list<int> expected) {
  bool same = a.ndim() == expected.size();
  size_t axis = 0;
  for (auto it = expected.begin(); same && it != expected.end(); ++it, ++axis) {
    same = *it < 0 || a.shape()[axis] == *it;
  }
  check(same, "[{}] {} must be {} but got {}", op, name, shown(mx::Shape(expected)), shown(a.shape()));
}

void check_float(const char* op, const char* name, const mx::array& a) {
  const bool known = a.dtype() == mx::float32 || a.dtype() == mx::bfloat16 || a.dtype() == mx::float16;
  check(known, "[{}] {} must be float32, bfloat16 or float16 but is {}", op, name, shown(a.dtype()));
}

}  // namespace mamba::ops

fmt::format_context::iterator fmt::formatter<mamba::ops::ShownShape>::format(const mamba::ops::ShownShape& shown,
                                                                             fmt::format_context& context) const {
  const auto& shape = shown.shape;
  const std::string text =
      fmt::format("({}{})", fmt::join(shape.begin(), shape.end(), ", "), shape.size() == 1 ? "," : "");
  return fmt::formatter<std::string_view>::format(text, context);
}

fmt::format_context::iterator fmt::formatter<mamba::ops::ShownDtype>::format(const mamba::ops::ShownDtype& shown,
                                                                             fmt::format_context& context) const {
  std::ostringstream text;
  text << shown.dtype;
  return fmt::formatter<std::string_view>::format(text.str(), context);
}
