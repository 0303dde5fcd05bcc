// gpu_report equality|trajectory|bench [FILTER]: lines of JSON on standard output; exit code 1 where something on the
// GPU differs from the CPU by more than its bound.
#include "report.h"

#include <fmt/format.h>
#include <mlx/device.h>

#include <cstdio>
#include <cstdlib>
#include <exception>

#include "mamba/ops/gpu/kernel.h"

namespace mamba::gpu_report {

void report(const std::string& part, const std::string& name, Json entry) {
  entry["part"] = part;
  entry["name"] = name;
  if (const char* at_a_time = std::getenv("MLX_MAX_OPS_PER_BUFFER")) {
    entry["operations_at_a_time"] = at_a_time;
  }
  fmt::print("{}\n", entry.dump());
  std::fflush(stdout);
}

}  // namespace mamba::gpu_report

int main(int argc, char** argv) {
  using namespace mamba;  // NOLINT(google-build-using-namespace)
  const std::string what = argc > 1 ? argv[1] : "";
  const std::string filter = argc > 2 ? argv[2] : "";
  ops::gpu::launch_singly();  // as the program does
  try {
    if (!mlx::core::is_available(mlx::core::Device::gpu)) {
      fmt::print(stderr, "gpu_report: error: MLX finds no GPU here\n");
      return 1;
    }
    if (what == "equality") {
      return gpu_report::equality(filter) ? 0 : 1;
    }
    if (what == "trajectory") {
      return gpu_report::trajectories(filter) ? 0 : 1;
    }
    if (what == "bench") {
      gpu_report::benchmarks(filter);
      return 0;
    }
    fmt::print(stderr, "gpu_report: error: '{}' is not a part: use equality, trajectory or bench\n", what);
    return 2;
  } catch (const std::exception& error) {
    fmt::print(stderr, "gpu_report: error: {}\n", error.what());
    return 1;
  }
}
