// The parts of tests/gpu's report.
#pragma once

#include <string>

#include "mamba/base/json.h"

namespace mamba::gpu_report {

// One line of JSON on standard output as soon as it is known: what a time limit cuts off is the rest.
void report(const std::string& part, const std::string& name, Json entry);

// Each op and a model on the GPU beside the CPU: largest error, its bound, "ok". `filter`: part of a name. False where
// something is not ok.
bool equality(const std::string& filter);

// 100 steps of training and greedy text, on the GPU beside the CPU.
bool trajectories(const std::string& filter);

// The benchmark table.
void benchmarks(const std::string& filter);

}  // namespace mamba::gpu_report
