// GPU kernel, in the dialect of ops/gpu: one step of AdamW, element by element, for several arrays at once: groups
// (.., i) work on array i, for which the source goes on with MAMBA_UPDATE(i, its size). All are (count,); `factors` are
// those of Factors in kernel.h, in their order.
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
const int64_t first = int64_t(MAMBA_GROUP_X) * kThreads + MAMBA_THREAD;
const int64_t stride = int64_t(MAMBA_GROUPS_X) * kThreads;
#define MAMBA_UPDATE(i, size)                                                                                  \
  if (MAMBA_GROUP_Y == i) {                                                                                    \
    const int64_t total = int64_t(size);                                                                       \
    for (int64_t at = first; at < total; at += stride) {                                                       \
      const float g = factor * float(gradient##i[at]);                                                         \
      const float first_moment = mamba_fma(beta1, float(m##i[at]), one_minus_beta1 * g);                       \
      const float second_moment = mamba_fma(beta2, float(v##i[at]), one_minus_beta2 * g * g);                  \
      const float root = mamba_sqrt(second_moment) * inverse_root + eps;                                       \
      const float moved = mamba_fma(keep, float(parameter##i[at]), -step_size * first_moment / root);          \
      new_m##i[at] = first_moment;                                                                             \
      new_v##i[at] = second_moment;                                                                            \
      new_parameter##i[at] = moved;                                                                            \
      if (kHasAverage) {                                                                                       \
        new_average##i[at] = mamba_fma(average_decay, float(average##i[at]), one_minus_average_decay * moved); \
      }                                                                                                        \
      if (kHasCopy) {                                                                                          \
        copy##i[at] = T(moved);                                                                                \
      }                                                                                                        \
    }                                                                                                          \
  }
