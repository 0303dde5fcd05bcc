// For tests: lets model_step run on CPU streams.
#pragma once

namespace mamba::ops::step {

void use_host_model_kernel();

}  // namespace mamba::ops::step
