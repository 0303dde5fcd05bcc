#include "mamba/ops/gpu/kernel.h"

#include <mlx/allocator.h>
#include <mlx/backend/cpu/encoder.h>
#include <mlx/backend/cuda/cuda.h>
#include <mlx/backend/metal/metal.h>
#include <mlx/ops.h>
#include <mlx/primitives.h>

#include <cstdlib>
#include <variant>

#include "mamba/base/error.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/gpu/compile.h"

namespace mamba::embedded {
std::string_view gpu_dialect_cuda();
std::string_view gpu_dialect_metal();
std::string_view gpu_lines_cuda();
std::string_view gpu_math();
std::string_view gpu_streams_cuda();
std::string_view gpu_tiles();
std::string_view gpu_ring();
std::string_view gpu_pairs_cuda();
}  // namespace mamba::embedded

namespace mamba::ops::gpu {

namespace mx = mlx::core;

namespace {

// MLX declares those of Metal's attributes that the body itself names.
constexpr std::string_view kMetalPrologue =
    "const uint3 mamba_thread = thread_position_in_threadgroup;\n"
    "const uint3 mamba_group = threadgroup_position_in_grid;\n"
    "const uint3 mamba_groups = threadgroups_per_grid;\n";

std::string stripped(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    line = line.substr(0, line.find("//"));
    const size_t first = line.find_first_not_of(' ');
    if (first == std::string_view::npos) {
      continue;
    }
    line.remove_prefix(first);
    out.append(line.substr(0, line.find_last_not_of(' ') + 1)).push_back('\n');
  }
  return out;
}

using HostBody = void (*)(const host::Launch&);

std::map<std::string, HostBody>& host_bodies() {
  static std::map<std::string, HostBody> bodies;
  return bodies;
}

int64_t key_of(const mx::fast::TemplateArg& value) {
  if (std::holds_alternative<mx::Dtype>(value)) {
    return static_cast<int64_t>(std::get<mx::Dtype>(value).val());
  }
  return std::holds_alternative<bool>(value) ? std::get<bool>(value) : std::get<int>(value);
}

// A kernel on a CPU stream.
class HostKernel : public mx::Primitive {
 public:
  HostKernel(mx::Stream stream, HostBody body, std::vector<std::string> inputs, std::vector<std::string> outputs,
             const Grid& grid, const Constants& constants, bool in_pairs)
      : Primitive(stream),
        body_(body),
        inputs_(std::move(inputs)),
        outputs_(std::move(outputs)),
        grid_(grid),
        in_pairs_(in_pairs) {
    for (const auto& [name, value] : constants) {
      constants_[name] = static_cast<int>(key_of(value));
    }
  }

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    for (mx::array& out : outputs) {
      allocate(out);
    }
    host::Launch launch{
        {},       {}, constants_, {grid_.groups[0], grid_.groups[1], grid_.groups[2]}, grid_.threads, grid_.shared_more,
        in_pairs_};
    // What this reads is computed on the stream's own thread, in order.
    mx::cpu::CommandEncoder& encoder = mx::cpu::get_command_encoder(stream());
    const auto held = std::make_shared<std::pair<std::vector<mx::array>, std::vector<mx::array>>>();
    for (size_t i = 0; i < inputs.size(); ++i) {
      held->first.push_back(mx::array::unsafe_weak_copy(inputs[i]));
    }
    for (mx::array& out : outputs) {
      held->second.push_back(mx::array::unsafe_weak_copy(out));
    }
    for (size_t i = 0; i < inputs.size(); ++i) {
      launch.inputs[inputs_[i]] = &held->first[i];
    }
    for (size_t i = 0; i < outputs.size(); ++i) {
      launch.outputs[outputs_[i]] = &held->second[i];
    }
    encoder.dispatch([body = body_, launch, held] { body(launch); });
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw Error("a kernel on the host cannot run on a GPU");
  }

  const char* name() const override { return "HostKernel"; }

 private:
  HostBody body_;
  std::vector<std::string> inputs_, outputs_;
  Grid grid_;
  bool in_pairs_;
  std::map<std::string, int, std::less<>> constants_;
};

// What MLX looks for in a source to see which arguments a kernel has, and a mark of all that is compiled.
std::string brief_source(const std::string& header, const std::string& source, const std::vector<std::string>& inputs) {
  std::string brief = fmt::format("// {:x}", std::hash<std::string>{}(header + source));
  for (const std::string& name : inputs) {
    for (const char* const part : {"_shape", "_strides", "_ndim"}) {
      if (source.find(name + part) != std::string::npos) {
        brief += " " + name + part;
      }
    }
  }
  return brief + "\n";
}

}  // namespace

Kernel::Kernel(std::string name, std::string_view source, std::vector<std::string> inputs,
               std::vector<std::string> outputs, int cuda_registers, bool in_pairs)
    : name_(std::move(name)),
      inputs_(std::move(inputs)),
      outputs_(std::move(outputs)),
      source_(stripped(source)),
      cuda_registers_(cuda_registers),
      in_pairs_(in_pairs) {}

Kernel::Makers Kernel::makers(int shared_more) const {
  if (mx::metal::is_available()) {
    return {mx::fast::metal_kernel(name_, inputs_, outputs_, std::string(kMetalPrologue) + source_,
                                   stripped(joined({embedded::gpu_dialect_metal(), embedded::gpu_math()})),
                                   /*ensure_row_contiguous=*/false),
            nullptr};
  }
  std::string header = stripped(
      joined({embedded::gpu_dialect_cuda(), embedded::gpu_lines_cuda(), embedded::gpu_math(),
              embedded::gpu_streams_cuda(), embedded::gpu_tiles(), embedded::gpu_ring(), embedded::gpu_pairs_cuda()}));
  if (cuda_registers_ > 0) {
    // MLX writes the kernel's declaration, whose only word that can be extended is this.
    header += fmt::format("#undef __global__\n#define __global__ __attribute__((global)) __maxnreg__({}){}\n",
                          cuda_registers_, in_pairs_ ? " __cluster_dims__(2, 1, 1)" : "");
  }
  const auto make = [&](const std::string& source, const std::string& before) {
    return mx::fast::cuda_kernel(name_, inputs_, outputs_, source, before, /*ensure_row_contiguous=*/false,
                                 shared_more);
  };
  return {make(source_, header), make(brief_source(header, source_, inputs_), "")};
}

std::shared_ptr<mx::Primitive> Kernel::make_primitive(const std::vector<mx::array>& inputs,
                                                      const std::vector<mx::Shape>& shapes,
                                                      const std::vector<mx::Dtype>& dtypes, const Grid& grid,
                                                      const Constants& constants, const mx::Stream& stream) const {
  if (stream.device == mx::Device::cpu) {
    const auto it = host_bodies().find(name_);
    check(it != host_bodies().end(), "[{}] this kernel runs on GPUs only", name_);
    return std::make_shared<HostKernel>(stream, it->second, inputs_, outputs_, grid, constants, in_pairs_);
  }
  Makers& makers_of_shared = makers_[grid.shared_more];
  if (!makers_of_shared.whole) {
    makers_of_shared = makers(grid.shared_more);
  }
  const auto [x, y, z] = grid.groups;
  const std::tuple<int, int, int> threads = {x * grid.threads, y, z};
  const auto made_by = [&](const mx::fast::CustomKernelFunction& make) {
    return make(inputs, shapes, dtypes, threads, {grid.threads, 1, 1}, constants, std::nullopt, false, stream)[0]
        .primitive_ptr();
  };
  std::shared_ptr<mx::Primitive> whole = made_by(makers_of_shared.whole);
  return makers_of_shared.brief ? compiled_ahead(std::move(whole), made_by(makers_of_shared.brief)) : whole;
}

std::vector<mx::array> Kernel::operator()(const std::vector<mx::array>& inputs, const std::vector<mx::Shape>& shapes,
                                          const std::vector<mx::Dtype>& dtypes, const Grid& grid,
                                          const Constants& constants, const mx::Stream& stream) const {
  check(inputs.size() == inputs_.size() && shapes.size() == outputs_.size() && dtypes.size() == outputs_.size(),
        "[{}] got {} inputs and {} outputs instead of {} and {}", name_, inputs.size(), shapes.size(), inputs_.size(),
        outputs_.size());
  std::vector<int64_t> key = {stream.index,    static_cast<int64_t>(stream.device.type),
                              grid.groups[0],  grid.groups[1],
                              grid.groups[2],  grid.threads,
                              grid.shared_more};
  for (const mx::array& in : inputs) {
    check(in.ndim() > 0, "[{}] a kernel's inputs have at least one axis", name_);
    // Metal keeps small inputs in another address space.
    key.push_back(static_cast<int64_t>(in.dtype().val()) * 2 + (in.size() < 8 ? 1 : 0));
  }
  for (const mx::Dtype& dtype : dtypes) {
    key.push_back(static_cast<int64_t>(dtype.val()));
  }
  for (const auto& [name, value] : constants) {
    key.push_back(key_of(value));
    check(key.back() >= 0, "[{}] {} is {}: a kernel's constants are part of its name and not negative", name_, name,
          key.back());
  }
  std::shared_ptr<mx::Primitive> primitive;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    constexpr size_t kMost = 512;  // grids differ with every length
    if (primitives_.size() >= kMost) {
      primitives_.clear();
    }
    std::shared_ptr<mx::Primitive>& slot = primitives_[key];
    if (slot == nullptr) {
      slot = make_primitive(inputs, shapes, dtypes, grid, constants, stream);
    }
    primitive = slot;
  }
  return mx::array::make_arrays(shapes, dtypes, primitive, inputs);
}

std::string joined(std::initializer_list<std::string_view> parts) {
  std::string all;
  for (const std::string_view part : parts) {
    all += part;
  }
  return all;
}

void set_host_body(const std::string& name, void (*run)(const host::Launch&)) {
  host_bodies()[name] = run;
}

void launch_singly() {
  setenv("MLX_USE_CUDA_GRAPHS", "0", 0);
}

namespace {

bool known_contiguous(const mx::array& a) {
  if (a.status() != mx::array::Status::unscheduled) {
    return a.flags().row_contiguous;
  }
  if (!a.has_primitive()) {
    return false;
  }
  const std::string_view name = a.primitive().name();
  // What tracing puts around arrays, and what gives its results row by row.
  if (name == "Copy" || name == "StopGradient" || name == "Reshape") {
    return known_contiguous(a.inputs()[0]);
  }
  return name == "Matmul" || name == "AddMM" || name == "Concatenate" || name == "CompiledAhead" ||
         name == "CustomKernel" || name == "HostKernel" || name == "PartOf";
}

}  // namespace

mx::array contiguous(const mx::array& a, const mx::Stream& stream) {
  return known_contiguous(a) ? a : mx::contiguous(a, false, stream);
}

bool known_zero(const mx::array& a) {
  if (a.dtype() != mx::float32) {
    return false;
  }
  if (!a.has_primitive()) {
    return a.size() == 1 && a.status() == mx::array::Status::available && a.data<float>()[0] == 0.0f;
  }
  const std::string_view name = a.primitive().name();
  return (name == "Full" || name == "Broadcast" || name == "Copy" || name == "StopGradient") &&
         known_zero(a.inputs()[0]);
}

}  // namespace mamba::ops::gpu
