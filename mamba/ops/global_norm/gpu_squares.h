// GPU kernel, in the dialect of ops/gpu: each group's share of an array's sum of squares, `part` (arrays, groups), for
// several arrays (count,) at once: groups (.., i) work on array i, for which the source goes on with
// MAMBA_ADD_SQUARES(i, its size) and then MAMBA_SUM_SQUARES.
constexpr int kSimds = kThreads / 32;
MAMBA_SHARED(float, sums, kSimds);
const int64_t first = int64_t(MAMBA_GROUP_X) * kThreads + MAMBA_THREAD;
const int64_t stride = int64_t(MAMBA_GROUPS_X) * kThreads;
float sum = 0.0f;
#define MAMBA_ADD_SQUARES(i, size)                               \
  if (MAMBA_GROUP_Y == i) {                                      \
    for (int64_t at = first; at < int64_t(size); at += stride) { \
      const float value = float(numbers##i[at]);                 \
      sum = mamba_fma(value, value, sum);                        \
    }                                                            \
  }
#define MAMBA_SUM_SQUARES                                                \
  sum = mamba_group_sum<kThreads>(sum, MAMBA_THREAD, sums);              \
  if (MAMBA_THREAD == 0) {                                               \
    part[int64_t(MAMBA_GROUP_Y) * MAMBA_GROUPS_X + MAMBA_GROUP_X] = sum; \
  }
