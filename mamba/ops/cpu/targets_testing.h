// For tests of CPU kernels: every target that was compiled and that this processor runs, the one without vectors among
// them.
#pragma once

#include <gtest/gtest.h>

#include "mamba/ops/cpu/targets.h"
//
#include <hwy/targets.h>

namespace mamba::ops::testing {

// f(), with kernels of each target in turn.
template <typename F>
void on_each_target(const F& f) {
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    f();
  }
  hwy::SetSupportedTargetsForTest(0);
}

}  // namespace mamba::ops::testing
