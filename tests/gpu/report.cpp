// gpu_report [equality|bench|all] [FILTER]: one JSON object on standard output; exit code 1 where an op or model on the
// GPU differs from the CPU by more than its bound.
#include "report.h"

#include <fmt/format.h>
#include <mlx/device.h>

#include <exception>

int main(int argc, char** argv) {
  using namespace mamba;  // NOLINT(google-build-using-namespace)
  const std::string what = argc > 1 ? argv[1] : "all";
  const std::string filter = argc > 2 ? argv[2] : "";
  try {
    if (!mlx::core::is_available(mlx::core::Device::gpu)) {
      fmt::print(stderr, "gpu_report: error: MLX finds no GPU here\n");
      return 1;
    }
    Json report = Json::object();
    bool ok = true;
    if (what != "bench") {
      report["equality"] = gpu_report::equality(filter);
      for (const auto& [name, entry] : report["equality"].items()) {
        ok = ok && entry.at("ok").get<bool>();
      }
    }
    if (what != "equality") {
      report["benchmarks"] = gpu_report::benchmarks(filter);
    }
    report["ok"] = ok;
    fmt::print("{}\n", report.dump(1));
    return ok ? 0 : 1;
  } catch (const std::exception& error) {
    fmt::print(stderr, "gpu_report: error: {}\n", error.what());
    return 1;
  }
}
