// GPU kernel, in the dialect of ops/gpu: one step of AdamW, element by element. All are (count,); `factors` are those
// of Factors in kernel.h, in their order.
const float beta1 = float(factors[0]);
const float one_minus_beta1 = float(factors[1]);
const float beta2 = float(factors[2]);
const float one_minus_beta2 = float(factors[3]);
const float keep = float(factors[4]);
const float step_size = float(factors[5]);
const float inverse_root = 1.0f / float(factors[6]);
const float eps = float(factors[7]);
const float average_decay = float(factors[8]);
const float one_minus_average_decay = float(factors[9]);
const float factor = kHasScale ? float(scale[0]) : 1.0f;
const int64_t total = int64_t(parameter_shape[0]);
const int64_t stride = int64_t(MAMBA_GROUPS_X) * kThreads;
for (int64_t at = int64_t(MAMBA_GROUP_X) * kThreads + MAMBA_THREAD; at < total; at += stride) {
  const float g = factor * float(gradient[at]);
  const float first_moment = mamba_fma(beta1, float(m[at]), one_minus_beta1 * g);
  const float second_moment = mamba_fma(beta2, float(v[at]), one_minus_beta2 * g * g);
  const float root = mamba_sqrt(second_moment) * inverse_root + eps;
  const float moved = mamba_fma(keep, float(parameter[at]), -step_size * first_moment / root);
  new_m[at] = first_moment;
  new_v[at] = second_moment;
  new_parameter[at] = moved;
  if (kHasAverage) {
    new_average[at] = mamba_fma(average_decay, float(average[at]), one_minus_average_decay * moved);
  }
  if (kHasCopy) {
    copy[at] = T(moved);
  }
}
