// The parts of tests/gpu's report.
#pragma once

#include <string>

#include "mamba/base/json.h"

namespace mamba::gpu_report {

// Each op and a model on the GPU beside the CPU: {name: largest error, its bound, "ok"}. `filter`: part of a name.
Json equality(const std::string& filter);

// The benchmark table: {name: figures}.
Json benchmarks(const std::string& filter);

}  // namespace mamba::gpu_report
