// Inside models: spans of the rows of a batch.
#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <optional>

#include "mamba/models/mamba.h"

namespace mamba::models {

// Throws Error unless there is one for each of `batch` rows of `length` positions, in which it lies.
void check_spans(const Spans& spans, int batch, int length);

// (B, 2) int32, as ops take them.
std::optional<mlx::core::array> to_array(const std::optional<Spans>& spans, mlx::core::StreamOrDevice s);

}  // namespace mamba::models
