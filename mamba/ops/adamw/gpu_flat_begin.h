// GPU kernel, in the dialect of ops/gpu: one step of AdamW for up to kArrays arrays, a power of two, that lie side by
// side in parameter, m, v, average and copy (all,). A group takes kChunk elements of one. table (kArrays, 4) int32 has
// of each the first group that works on it, where it begins, in units of kAlign, its size and its row of factors (rows,
// 10), which are those of Factors in kernel.h in their order. gradient0, ... are (count,) each. The source goes on with
// `gradient = gradienti` where `mine` is i, and then gpu_flat_end.h.
//
// Where kInPlace, results overwrite what they are made of, but for the parameter where there is no copy.
int mine = 0;
for (int half = kArrays / 2; half > 0; half /= 2) {
  if (int(table[4 * (mine + half)]) <= MAMBA_GROUP_X) {
    mine += half;
  }
}
auto gradient = gradient0;
