// Times one way of computing a selective scan; bench/compare_mambapy.py runs the ways in turn.
//
//   selective_scan_compare_bench loop|blelloch|kernel forward|backward LENGTH [runs] [channels] [states]
//
// loop: plain MLX operations, one position at a time. blelloch: plain MLX operations, all positions at once. kernel:
// selective_scan. backward is forward and backward, with the gradients of u, delta, A, B, C and D. One row of a batch,
// float32, no gate, delta as it is, on the CPU. Runs that begin in the first half second are warm-up; each of those
// after them gives a line of JSON.
#include <fmt/format.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <string>
#include <vector>

#include "mamba/base/memory.h"
#include "mamba/ops/cpu/test_arrays.h"
#include "mamba/ops/selective_scan/blelloch.h"
#include "mamba/ops/selective_scan/reference.h"
#include "mamba/ops/selective_scan/selective_scan.h"

namespace mx = mlx::core;
using namespace mamba;       // NOLINT(google-build-using-namespace)
using namespace mamba::ops;  // NOLINT(google-build-using-namespace)
using mamba::ops::testing::normal;

namespace {

using Scan = std::function<SelectiveScanOutputs(const SelectiveScanInputs&, mx::StreamOrDevice)>;

Scan scan_named(const std::string& name) {
  if (name == "loop") return selective_scan_reference;
  if (name == "blelloch") return selective_scan_blelloch;
  if (name == "kernel") return selective_scan;
  return nullptr;
}

constexpr auto kWarmUp = std::chrono::milliseconds(500);

double processor_seconds() {
  return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "";
  const std::string pass = argc > 2 ? argv[2] : "";
  const auto number = [&](int i, int otherwise) { return argc > i ? std::atoi(argv[i]) : otherwise; };
  const int length = number(3, 0);
  const int runs = number(4, 2);
  const int channels = number(5, 1536);
  const int states = number(6, 16);
  const Scan scan = scan_named(name);
  if (!scan || (pass != "forward" && pass != "backward") || length < 1 || runs < 1 || channels < 1 || states < 1) {
    std::fputs(
        "usage: selective_scan_compare_bench loop|blelloch|kernel forward|backward LENGTH [runs] [channels] "
        "[states]\n",
        stderr);
    return 2;
  }
  keep_freed_memory();
  mx::set_default_device(mx::Device::cpu);
  // dt around 0.05 and A = -1 ... -N: what a model starts with.
  const mx::Shape wide = {1, length, channels};
  const mx::Shape narrow = {1, length, states};
  const mx::array dt = mx::exp(normal(wide, 2, 0.5f, -3.0f));
  const mx::array A =
      mx::contiguous(mx::negative(mx::broadcast_to(mx::arange(1, states + 1, mx::float32), {channels, states})));
  const std::vector<mx::array> primals = {normal(wide, 1),      dt, A, normal(narrow, 3), normal(narrow, 4),
                                          normal({channels}, 5)};
  const mx::array gy = normal(wide, 6);
  mx::eval(primals);
  const auto outputs = [&](const std::vector<mx::array>& a) -> std::vector<mx::array> {
    return {scan({.u = a[0], .delta = a[1], .A = a[2], .B = a[3], .C = a[4], .D = a[5], .delta_softplus = false},
                 mx::Device::cpu)
                .y};
  };
  const auto begin = std::chrono::steady_clock::now();
  bool warm = false;
  for (int run = 0; run < runs;) {
    const double processor = processor_seconds();
    const auto start = std::chrono::steady_clock::now();
    std::vector<mx::array> results;
    if (pass == "forward") {
      results = outputs(primals);
    } else {
      auto [y, gradients] = mx::vjp(outputs, primals, {gy});
      results = std::move(gradients);
      results.push_back(y[0]);
    }
    mx::eval(results);
    const auto end = std::chrono::steady_clock::now();
    const std::chrono::duration<double> seconds = end - start;
    if (!warm) {
      warm = end - begin > kWarmUp;
      continue;
    }
    ++run;
    fmt::print(R"({{"scan": "{}", "pass": "{}", "length": {}, "channels": {}, "states": {}, "seconds": {:.6f}, )"
               R"("processor_seconds": {:.6f}, "peak_mb": {}}})"
               "\n",
               name, pass, length, channels, states, seconds.count(), processor_seconds() - processor,
               peak_memory_bytes() / 1'000'000);
    std::fflush(stdout);
  }
}
