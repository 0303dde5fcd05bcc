#include "apps/mlx-mamba/output_folder.h"

#include "mamba/base/error.h"

namespace mamba::cli {

namespace fs = std::filesystem;

fs::path output_folder(const std::optional<std::string>& out, const char* command) {
  if (!out || out->empty()) {
    throw UsageError(fmt::format("--out is missing: name the folder to write (see mlx-mamba {} --help)", command));
  }
  return *out;
}

void check_other_folder(const fs::path& out, const fs::path& source, const char* what) {
  std::error_code ignored;
  if (fs::equivalent(source, out, ignored)) {
    throw UsageError(fmt::format("--out {}: is the {} itself; name another folder", quote(out.string(), 200), what));
  }
}

}  // namespace mamba::cli
