#include "mamba/base/temporary_directory.h"

#include <stdlib.h>  // NOLINT(modernize-deprecated-headers): mkdtemp is POSIX

#include <cerrno>
#include <cstring>

#include "mamba/base/error.h"

namespace mamba {

TemporaryDirectory::TemporaryDirectory() {
  std::string pattern = (std::filesystem::temp_directory_path() / "mlx-mamba-XXXXXX").string();
  check(::mkdtemp(pattern.data()) != nullptr, "{}: no temporary folder can be made there: {}", pattern,
        std::strerror(errno));
  path_ = pattern;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace mamba
