// GPU kernel, in the dialect of ops/gpu: one row of the table (rows, K) to a group, which sums the rows of dy (count,
// K) whose token it is. `sorted` (count,): the tokens in ascending order, `order` (count,): where each stands in dy.
// kHasBase: the sum starts from the row of `base` (rows, K). T: the dtype of the result.
constexpr int kLoads = 4;  // in flight
const int width = dy_shape[1];
const int count = dy_shape[0];
const int row = MAMBA_GROUP_X;
int first = 0;
for (int size = count; size > 0;) {
  const int half = size / 2;
  const bool below = int(sorted[first + half]) < row;
  first = below ? first + half + 1 : first;
  size = below ? size - half - 1 : half;
}
for (int c = MAMBA_THREAD; c < width; c += kThreads) {
  float sum = kHasBase ? float(base[int64_t(row) * width + c]) : 0.0f;
  for (int i = first; i < count && int(sorted[i]) == row; i += kLoads) {
    float value[kLoads];
    MAMBA_UNROLL
    for (int j = 0; j < kLoads; ++j) {
      const bool mine = i + j < count && int(sorted[i + j]) == row;
      value[j] = mine ? float(dy[int64_t(int(order[i + j])) * width + c]) : 0.0f;
    }
    MAMBA_UNROLL
    for (int j = 0; j < kLoads; ++j) {
      sum += value[j];
    }
  }
  out[int64_t(row) * width + c] = T(sum);
}
