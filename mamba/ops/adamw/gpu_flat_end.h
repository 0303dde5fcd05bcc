// The rest of the kernel that gpu_flat_begin.h begins.
const int64_t skipped = int64_t(int(table[4 * mine + 1])) * kAlign;
const int64_t size = int(table[4 * mine + 2]);
const int row = 10 * int(table[4 * mine + 3]);
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
const float factor = float(scale[0]);
auto to_parameter = kInPlace && kHasCopy ? MAMBA_WRITABLE(float, parameter) : new_parameter;
auto to_m = kInPlace ? MAMBA_WRITABLE(float, m) : new_m;
auto to_v = kInPlace ? MAMBA_WRITABLE(float, v) : new_v;
auto to_average = kInPlace ? MAMBA_WRITABLE(float, average) : new_average;
constexpr int kPer = 4;
const int64_t begin = int64_t(MAMBA_GROUP_X - int(table[4 * mine])) * kChunk;
const int64_t end = begin + kChunk < size ? begin + kChunk : size;
for (int64_t first = begin + MAMBA_THREAD; first < end; first += kPer * kThreads) {
  float p[kPer];
  float g[kPer];
  float first_moment[kPer];
  float second_moment[kPer];
  float mean[kPer];
  // Of all before anything is stored: for all that the compiler knows it is stored over them.
  MAMBA_UNROLL
  for (int i = 0; i < kPer; ++i) {
    const int64_t at = first + i * kThreads;
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
    const int64_t at = first + i * kThreads;
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
