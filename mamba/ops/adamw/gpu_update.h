// GPU kernel, in the dialect of ops/gpu: one step of AdamW of one array. All are (count,), and there is one row of
// factors. gpu_step.h is the rest of the same body.
const int64_t skipped = 0;
const int row = 0;
const float factor = kHasScale ? float(scale[0]) : 1.0f;
auto to_parameter = new_parameter;
auto to_m = new_m;
auto to_v = new_v;
auto to_average = new_average;
const int64_t stride = int64_t(MAMBA_GROUPS_X) * kThreads;
const int64_t begin = int64_t(MAMBA_GROUP_X) * kThreads;
const int64_t end = int64_t(parameter_shape[0]);
