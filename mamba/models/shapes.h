// The sizes in which Mamba-1 was published: state-spaces/mamba-130m and its larger kin.
#pragma once

#include <string>
#include <vector>

#include "mamba/models/config.h"

namespace mamba::models {

// "130m", "370m", "790m", "1.4b", "2.8b"
std::vector<std::string> shape_names();

// Their configuration. Throws UsageError for other names.
Config published_shape(const std::string& name);

}  // namespace mamba::models
