// AdamW's step, after gpu_update.h or gpu_flat_begin.h: of elements `begin` to `end` of an array those that the thread
// has, stride apart. The array lies `skipped` behind the beginnings of all but the gradient. `factors` from `row` on
// are those of Factors in kernel.h in their order.
const float beta1 = float(factors[row]);
const float one_minus_beta1 = float(factors[row + 1]);
const float beta2 = float(factors[row + 2]);
const float one_minus_beta2 = float(factors[row + 3]);
const float keep = float(factors[row + 4]);
const float step_size = float(factors[row + 5]);
const float inverse_root = 1.0f / float(factors[row + 6]);
const float eps = float(factors[row + 7]);
const float average_decay = float(factors[row + 8]);
const float one_minus_average_decay = float(factors[row + 9]);
constexpr int kPer = 4;
for (int64_t first = begin + MAMBA_THREAD; first < end; first += kPer * stride) {
  float p[kPer];
  float g[kPer];
  float first_moment[kPer];
  float second_moment[kPer];
  float mean[kPer];
  // Of all before anything is stored: for all that the compiler knows it is stored over them.
  MAMBA_UNROLL
  for (int i = 0; i < kPer; ++i) {
    const int64_t at = first + i * stride;
    if (at < end) {
      g[i] = float(gradient[at]);
      p[i] = float(parameter[skipped + at]);
      first_moment[i] = float(m[skipped + at]);
      second_moment[i] = float(v[skipped + at]);
      mean[i] = kHasAverage ? float(average[skipped + at]) : 0.0f;
    }
  }
  MAMBA_UNROLL
  for (int i = 0; i < kPer; ++i) {
    const int64_t at = first + i * stride;
    if (at < end) {
      const float scaled = factor * g[i];
      first_moment[i] = mamba_fma(beta1, first_moment[i], one_minus_beta1 * scaled);
      second_moment[i] = mamba_fma(beta2, second_moment[i], one_minus_beta2 * scaled * scaled);
      const float root = mamba_sqrt(second_moment[i]) * inverse_root + eps;
      const float moved = mamba_fma(keep, p[i], -step_size * first_moment[i] / root);
      to_m[skipped + at] = first_moment[i];
      to_v[skipped + at] = second_moment[i];
      to_parameter[skipped + at] = moved;
      if (kHasAverage) {
        to_average[skipped + at] = mamba_fma(average_decay, mean[i], one_minus_average_decay * moved);
      }
      if (kHasCopy) {
        copy[skipped + at] = T(moved);
      }
    }
  }
}
