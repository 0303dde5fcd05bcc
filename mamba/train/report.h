// A run's report.html: one self-contained page with the losses, the speed, samples and settings.
#pragma once

#include <string>
#include <vector>

#include "mamba/base/json.h"

namespace mamba::train {

struct Sample {
  int64_t step = 0;  // steps done when it was written
  std::string prompt;
  std::string text;  // UTF-8
};

// `config` is the run's config.json, `metrics` the lines of metrics.jsonl.
std::string report_html(const std::string& title, const Json& config, const std::vector<Json>& metrics,
                        const std::vector<Sample>& samples);

}  // namespace mamba::train
