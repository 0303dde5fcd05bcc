// What the tests of the scan share: problems made from a seed, and their arrays by name.
#pragma once

#include <mlx/array.h>
#include <mlx/ops.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "mamba/ops/cpu/test_arrays.h"
#include "mamba/ops/selective_scan/selective_scan.h"

namespace mamba::ops::testing {

struct ScanCase {
  int batch, length, channels, states;
};

inline std::ostream& operator<<(std::ostream& out, const ScanCase& c) {
  return out << "B" << c.batch << " L" << c.length << " D" << c.channels << " N" << c.states;
}

// The next of the seeds that make a problem's arrays differ.
inline uint64_t next_seed(uint64_t& seed) {
  return seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
}

// With everything there is but spans and resets. `seed` goes on to what has not been used.
inline SelectiveScanInputs scan_inputs(const ScanCase& c, mlx::core::Dtype dtype, uint64_t& seed) {
  namespace mx = mlx::core;
  const auto key = [&] { return next_seed(seed); };
  const mx::Shape wide = {c.batch, c.length, c.channels};
  const mx::Shape narrow = {c.batch, c.length, c.states};
  mx::array A = mx::negative(mx::exp(normal({c.channels, c.states}, key())));
  A.eval();
  return {.u = normal(wide, key(), 1.0f, 0.0f, dtype),
          .delta = normal(wide, key(), 1.5f, -1.0f, dtype),
          .A = A,
          .B = normal(narrow, key(), 1.0f, 0.0f, dtype),
          .C = normal(narrow, key(), 1.0f, 0.0f, dtype),
          .D = normal({c.channels}, key()),
          .z = normal(wide, key(), 2.0f, 0.0f, dtype),
          .delta_bias = normal({c.channels}, key(), 0.5f),
          .initial_state = normal({c.batch, c.channels, c.states}, key())};
}

// Inputs, and the cotangents of y and of the state.
struct ScanProblem {
  SelectiveScanInputs in;
  mlx::core::array gy;
  mlx::core::array gstate;
};

inline ScanProblem scan_problem(const ScanCase& c, mlx::core::Dtype dtype, uint64_t seed) {
  SelectiveScanInputs in = scan_inputs(c, dtype, seed);
  mlx::core::array gy = normal({c.batch, c.length, c.channels}, next_seed(seed), 1.0f, 0.0f, dtype);
  mlx::core::array gstate = normal({c.batch, c.channels, c.states}, next_seed(seed));
  return {std::move(in), std::move(gy), std::move(gstate)};
}

// The arrays that can be differentiated and are there, in a fixed order.
inline std::vector<std::pair<std::string, mlx::core::array*>> named_arrays(SelectiveScanInputs& in) {
  std::vector<std::pair<std::string, mlx::core::array*>> all = {
      {"u", &in.u}, {"delta", &in.delta}, {"A", &in.A}, {"B", &in.B}, {"C", &in.C}};
  const auto add = [&](const char* name, std::optional<mlx::core::array>& a) {
    if (a) {
      all.emplace_back(name, &*a);
    }
  };
  add("D", in.D);
  add("z", in.z);
  add("delta_bias", in.delta_bias);
  add("initial_state", in.initial_state);
  return all;
}

using ScanFn = std::function<SelectiveScanOutputs(const SelectiveScanInputs&)>;

// `scan` as a function {y, state} of the problem's named arrays, and these: what mlx::core::vjp takes.
struct ScanOfArrays {
  std::vector<mlx::core::array> primals;
  std::function<std::vector<mlx::core::array>(const std::vector<mlx::core::array>&)> run;
};

inline ScanOfArrays of_arrays(const ScanProblem& problem, const ScanFn& scan) {
  ScanOfArrays out;
  SelectiveScanInputs copy = problem.in;
  for (const auto& [name, a] : named_arrays(copy)) {
    out.primals.push_back(*a);
  }
  out.run = [in = problem.in, scan](const std::vector<mlx::core::array>& values) {
    SelectiveScanInputs own = in;
    size_t next = 0;
    for (const auto& [name, a] : named_arrays(own)) {
      *a = values[next++];
    }
    const SelectiveScanOutputs result = scan(own);
    return std::vector<mlx::core::array>{result.y, result.state};
  };
  return out;
}

inline mlx::core::array wide(const mlx::core::array& a) {
  return mlx::core::astype(a, mlx::core::float64, mlx::core::Device::cpu);
}

inline SelectiveScanInputs in_float64(SelectiveScanInputs in) {
  for (const auto& [name, a] : named_arrays(in)) {
    *a = wide(*a);
  }
  return in;
}

inline ScanProblem in_float64(const ScanProblem& problem) {
  return {in_float64(problem.in), wide(problem.gy), wide(problem.gstate)};
}

}  // namespace mamba::ops::testing
