// A folder that goes away with its owner. For tests and for work that must not leave anything behind.
#pragma once

#include <filesystem>
#include <string>

namespace mamba {

class TemporaryDirectory {
 public:
  TemporaryDirectory();  // under the system's temporary folder; throws Error when that cannot be written
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

}  // namespace mamba
