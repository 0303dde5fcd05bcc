#include "mamba/ops/gpu/compile.h"

#include <fmt/format.h>
#include <mlx/fast_primitives.h>
#include <mlx/version.h>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <future>
#include <map>
#include <mutex>
#include <optional>
#include <semaphore>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "mamba/base/file.h"
#include "mamba/ops/gpu/driver.h"

namespace mamba::embedded {
std::string_view gpu_cuda_types();
}  // namespace mamba::embedded

namespace mamba::ops::gpu {

namespace mx = mlx::core;
namespace fs = std::filesystem;

namespace {

// NVRTC, which MLX has loaded like the driver.
struct Compiler {
  using Program = void*;
  int (*create)(Program*, const char*, const char*, int, const char* const*, const char* const*);
  int (*destroy)(Program*);
  int (*add_name)(Program, const char*);
  int (*compile)(Program, int, const char* const*);
  int (*lowered_name)(Program, const char*, const char**);
  int (*size)(Program, size_t*);
  int (*code)(Program, char*);
  std::string architecture;

  static std::optional<Compiler> find() {
    Compiler c{.create = loaded<int(Program*, const char*, const char*, int, const char* const*, const char* const*)>(
                   "nvrtcCreateProgram"),
               .destroy = loaded<int(Program*)>("nvrtcDestroyProgram"),
               .add_name = loaded<int(Program, const char*)>("nvrtcAddNameExpression"),
               .compile = loaded<int(Program, int, const char* const*)>("nvrtcCompileProgram"),
               .lowered_name = loaded<int(Program, const char*, const char**)>("nvrtcGetLoweredName"),
               .size = loaded<int(Program, size_t*)>("nvrtcGetCUBINSize"),
               .code = loaded<int(Program, char*)>("nvrtcGetCUBIN"),
               .architecture = {}};
    const int major = device_attribute(DeviceAttribute::kMajor);
    const int minor = device_attribute(DeviceAttribute::kMinor);
    if (c.create == nullptr || c.destroy == nullptr || c.add_name == nullptr || c.compile == nullptr ||
        c.lowered_name == nullptr || c.size == nullptr || c.code == nullptr || major == 0) {
      return std::nullopt;
    }
    c.architecture = fmt::format("--gpu-architecture=sm_{}{}{}", major, minor, major >= 9 ? "a" : "");
    return c;
  }

  struct Result {
    std::string code, lowered_name;
  };

  std::optional<Result> run(const std::string& source, const std::string& name) const {
    const std::string types(embedded::gpu_cuda_types());
    const char* const headers[] = {types.c_str(), "namespace cooperative_groups {}\n"};
    const char* const header_names[] = {"mlx/backend/cuda/device/utils.cuh", "cooperative_groups.h"};
    const char* const options[] = {"--device-as-default-execution-space", architecture.c_str()};
    Program program = nullptr;
    if (create(&program, source.c_str(), "kernel.cu", 2, headers, header_names) != 0) {
      return std::nullopt;
    }
    Result result;
    size_t bytes = 0;
    const char* lowered = nullptr;
    const bool ok = add_name(program, name.c_str()) == 0 && compile(program, 2, options) == 0 &&
                    lowered_name(program, name.c_str(), &lowered) == 0 && size(program, &bytes) == 0 && bytes > 0;
    if (ok) {
      result.lowered_name = lowered;
      result.code.resize(bytes);
    }
    const bool have = ok && code(program, result.code.data()) == 0;
    destroy(&program);
    return have ? std::optional(std::move(result)) : std::nullopt;
  }
};

// As MLX finds it.
fs::path folder() {
  const char* const chosen = std::getenv("MLX_PTX_CACHE_DIR");
  return chosen != nullptr ? fs::path(chosen) : fs::temp_directory_path() / "mlx" / mx::version() / "ptx";
}

// Whether MLX will find the code.
bool compile(const std::string& module, const std::string& source, const std::string& name) {
  static const std::optional<Compiler> compiler = Compiler::find();
  static std::counting_semaphore<> free(std::max(1u, std::thread::hardware_concurrency()));
  const fs::path path = folder() / (module + ".ptx");
  std::error_code ignored;
  if (!compiler || fs::exists(path, ignored)) {
    return compiler.has_value();
  }
  free.acquire();
  std::optional<Compiler::Result> result;
  try {
    result = compiler->run(source, name);
    if (result) {
      make_directories(path.parent_path());
      // MLX looks for the code, so that comes last.
      write_file(fs::path(path).replace_extension(".txt"), name + "\t" + result->lowered_name + "\n");
      write_file(path, result->code);
    }
  } catch (const std::exception&) {
    // A folder that cannot be written: MLX compiles for itself.
    result.reset();
  }
  free.release();
  return result.has_value();
}

class CompiledAhead : public mx::Primitive {
 public:
  CompiledAhead(std::shared_ptr<mx::Primitive> kernel, std::shared_ptr<mx::Primitive> brief,
                std::shared_future<bool> compiled)
      : Primitive(kernel->stream()),
        kernel_(std::move(kernel)),
        brief_(std::move(brief)),
        compiled_(std::move(compiled)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    kernel_->eval_cpu(inputs, outputs);
  }

  void eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    (compiled_.get() ? brief_ : kernel_)->eval_gpu(inputs, outputs);
  }

  const char* name() const override { return "CompiledAhead"; }

 private:
  std::shared_ptr<mx::Primitive> kernel_, brief_;
  std::shared_future<bool> compiled_;
};

}  // namespace

std::shared_ptr<mx::Primitive> compiled_ahead(std::shared_ptr<mx::Primitive> kernel,
                                              std::shared_ptr<mx::Primitive> brief) {
  for (const auto& primitive : {kernel, brief}) {
    if (std::string_view(primitive->name()) != "CustomKernel") {
      return kernel;
    }
  }
  const auto state = static_cast<const mx::fast::CustomKernel&>(*kernel).state();
  const auto brief_state = static_cast<const mx::fast::CustomKernel&>(*brief).state();
  const std::string& kernel_name = std::get<0>(state);
  const std::string module = fmt::format("{}_{:x}", kernel_name, std::hash<std::string>{}(std::get<1>(brief_state)));
  constexpr size_t kLongestName = 245;  // longer ones are folders for MLX
  if (module.size() > kLongestName) {
    return kernel;
  }
  static std::mutex mutex;
  static std::map<std::string, std::shared_future<bool>> compiled;
  const std::lock_guard<std::mutex> lock(mutex);
  std::shared_future<bool>& future = compiled[module];
  if (!future.valid()) {
    future =
        std::async(std::launch::async, compile, module, std::get<1>(state), "mlx::core::cu::" + kernel_name).share();
  }
  return std::make_shared<CompiledAhead>(std::move(kernel), std::move(brief), future);
}

}  // namespace mamba::ops::gpu
