// What the kernel of flat.h takes. Private to this folder.
#pragma once

#include <cstddef>

namespace mamba::ops::adamw_detail {

// Gradients of a launch on CUDA, a power of two.
constexpr size_t kFlatItems = 64;

}  // namespace mamba::ops::adamw_detail
