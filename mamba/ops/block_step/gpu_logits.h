// GPU kernel, in the dialect of ops/gpu: logits of norm(h), a SIMD group to a word. The norm is a factor of the dot
// products.
const int words = weight_shape[0];
const int width = weight_shape[1];
const int batch = h_shape[0];
const int thread = MAMBA_THREAD;
const int lane = thread % 32;
for (int word = MAMBA_GROUP_X * (kThreads / 32) + thread / 32; word < words; word += MAMBA_GROUPS_X * (kThreads / 32)) {
  for (int b = 0; b < batch; b += kTile) {
    float dots[kTile];
    float squares[kTile];
    mamba_dots<kTile, true, 12>(weight + int64_t(word) * width, h + int64_t(b) * width, norm, width, width, batch - b,
                                lane, dots, squares);
    MAMBA_UNROLL
    for (int t = 0; t < kTile; ++t) {
      if (lane == t && b + t < batch) {
        logits[int64_t(b + t) * words + word] =
            dots[t] * mamba_rsqrt(squares[t] / float(width) + mamba_float_of_bits(kEpsBits));
      }
    }
  }
}
