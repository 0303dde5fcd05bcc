// GPU kernel, in the dialect of ops/gpu: one step of AdamW for up to kArrays arrays, a power of two, that lie side by
// side in parameter, m, v, average and copy (all,). A group takes kChunk elements of one. table (kArrays, 4) int32 has
// of each the first group that works on it, where it begins, in units of kAlign, its size and its row of factors (rows,
// 10). gradient0, ... are (count,) each. The source goes on with `gradient = gradienti` where `mine` is i, and then
// gpu_step.h.
//
// Where kInPlace, results overwrite what they are made of, but for the parameter where there is no copy.
int mine = 0;
for (int half = kArrays / 2; half > 0; half /= 2) {
  if (int(table[4 * (mine + half)]) <= MAMBA_GROUP_X) {
    mine += half;
  }
}
const int64_t skipped = int64_t(int(table[4 * mine + 1])) * kAlign;
const int64_t size = int(table[4 * mine + 2]);
const int row = 10 * int(table[4 * mine + 3]);
const float factor = float(scale[0]);
auto to_parameter = kInPlace && kHasCopy ? MAMBA_WRITABLE(float, parameter) : new_parameter;
auto to_m = kInPlace ? MAMBA_WRITABLE(float, m) : new_m;
auto to_v = kInPlace ? MAMBA_WRITABLE(float, v) : new_v;
auto to_average = kInPlace ? MAMBA_WRITABLE(float, average) : new_average;
const int64_t stride = kThreads;
const int64_t begin = int64_t(MAMBA_GROUP_X - int(table[4 * mine])) * kChunk;
const int64_t end = begin + kChunk < size ? begin + kChunk : size;
auto gradient = gradient0;
