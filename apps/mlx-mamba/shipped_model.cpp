#include "apps/mlx-mamba/shipped_model.h"

#ifdef __APPLE__
#include <mach-o/dyld.h>
#endif

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "mamba/base/error.h"

namespace mamba::cli {
namespace {

namespace fs = std::filesystem;

fs::path executable() {
  std::error_code error;
#ifdef __APPLE__
  uint32_t size = 0;
  _NSGetExecutablePath(nullptr, &size);
  std::string path(size, '\0');
  _NSGetExecutablePath(path.data(), &size);
  return fs::canonical(path.c_str(), error);
#else
  return fs::read_symlink("/proc/self/exe", error);
#endif
}

bool holds_model(const fs::path& folder) {
  std::error_code error;
  return fs::is_regular_file(folder / "config.json", error);
}

}  // namespace

fs::path shipped_model() {
  std::vector<fs::path> candidates;
  if (const char* assets = std::getenv("MLX_MAMBA_ASSETS"); assets != nullptr && *assets != '\0') {
    candidates = {fs::path(assets) / "shakespeare", assets};
  } else {
    if (const fs::path program = executable(); !program.empty()) {
      candidates.push_back(program.parent_path().parent_path() / "share/mlx-mamba/shakespeare");
    }
    candidates.emplace_back(MAMBA_SOURCE_ASSETS "/shakespeare");
  }
  std::string looked;
  for (const fs::path& candidate : candidates) {
    if (holds_model(candidate)) {
      return candidate;
    }
    looked += (looked.empty() ? "" : " and ") + candidate.string();
  }
  throw Error(
      fmt::format("the model that ships with the program is not there (looked in {}): "
                  "name another with --model, or set MLX_MAMBA_ASSETS to the folder that holds shakespeare/",
                  looked));
}

}  // namespace mamba::cli
