// Golden cases of ops, as tools/make_golden_ops.py writes them.
#pragma once

#include <mlx/array.h>
#include <mlx/io.h>

#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

namespace mamba::ops::testing {

class GoldenCases {
 public:
  explicit GoldenCases(const std::string& op)
      : arrays_(mlx::core::load_safetensors(std::string(MAMBA_SOURCE_DIR) + "/tests/golden/ops/" + op + ".safetensors",
                                            mlx::core::Device::cpu)
                    .first) {}

  std::set<std::string> names() const {
    std::set<std::string> cases;
    for (const auto& [name, array] : arrays_) {
      cases.insert(name.substr(0, name.find('.')));
    }
    return cases;
  }

  // "in", "out", "cotangent" or "grad" of an argument or result.
  std::optional<mlx::core::array> find(const std::string& golden, const std::string& kind,
                                       const std::string& name) const {
    const auto it = arrays_.find(golden + "." + kind + "." + name);
    return it == arrays_.end() ? std::nullopt : std::optional(it->second);
  }

  mlx::core::array get(const std::string& golden, const std::string& kind, const std::string& name) const {
    return arrays_.at(golden + "." + kind + "." + name);
  }

 private:
  std::unordered_map<std::string, mlx::core::array> arrays_;
};

}  // namespace mamba::ops::testing
