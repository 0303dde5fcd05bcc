// Functions that kernels share, in the dialect.

// softplus(x) = max(x, 0) + log(1 + e), e = exp(-|x|). The logarithm is 2 atanh(e / (2 + e)), whose argument is at
// most 1/3: exact where e is tiny, as log(1 + e) is not, and NaN where x is.
MAMBA_FN float mamba_softplus(float x) {
  const float e = mamba_exp2(-1.44269504f * mamba_abs(x));
  const float s = e * mamba_reciprocal(2.0f + e);
  const float q = s * s;
  float p = 1.0f / 13.0f;
  p = mamba_fma(p, q, 1.0f / 11.0f);
  p = mamba_fma(p, q, 1.0f / 9.0f);
  p = mamba_fma(p, q, 1.0f / 7.0f);
  p = mamba_fma(p, q, 1.0f / 5.0f);
  p = mamba_fma(p, q, 1.0f / 3.0f);
  p = mamba_fma(p, q, 1.0f);
  return mamba_max(x, 0.0f) + 2.0f * s * p;
}

MAMBA_FN float mamba_sigmoid(float x) {
  return mamba_reciprocal(1.0f + mamba_exp2(-1.44269504f * x));
}

MAMBA_FN float mamba_silu(float x) {
  return x * mamba_sigmoid(x);
}

// Sums `v` over the kLanes neighbouring lanes that share a channel, and leaves each with its own part of the sums:
// afterwards v[0 ... kCount / kLanes) of lane s are those of v[s * kCount / kLanes ...).
template <int kCount, int kLanes>
MAMBA_FN void mamba_sum_and_split(MAMBA_PRIVATE float (&v)[kCount], int lane) {
  int count = kCount;
  MAMBA_UNROLL
  for (int bit = kLanes / 2; bit >= 1; bit /= 2) {
    count /= 2;
    const bool upper = (lane & bit) != 0;
    MAMBA_UNROLL
    for (int i = 0; i < kCount / 2; ++i) {
      if (i < count) {
        const float sent = upper ? v[i] : v[count + i];
        const float kept = upper ? v[count + i] : v[i];
        v[i] = kept + MAMBA_SHUFFLE_XOR(sent, bit);
      }
    }
  }
}

// Sums `v` over those lanes of a SIMD group of 32 that differ in bits kLow, 2 kLow, ... 16 of their index. While there
// are sums to hand out the lanes share them; afterwards v[0 ... n) of a lane are those from mamba_spread_first() on.
template <int kCount, int kLow>
MAMBA_FN void mamba_sum_and_spread(MAMBA_PRIVATE float (&v)[kCount], int lane) {
  int count = kCount;
  MAMBA_UNROLL
  for (int bit = 16; bit >= kLow; bit /= 2) {
    if (count > 1) {
      count /= 2;
      const bool upper = (lane & bit) != 0;
      MAMBA_UNROLL
      for (int i = 0; i < kCount / 2; ++i) {
        if (i < count) {
          const float sent = upper ? v[i] : v[count + i];
          const float kept = upper ? v[count + i] : v[i];
          v[i] = kept + MAMBA_SHUFFLE_XOR(sent, bit);
        }
      }
    } else {
      v[0] += MAMBA_SHUFFLE_XOR(v[0], bit);
    }
  }
}

template <int kCount, int kLow>
MAMBA_FN int mamba_spread_first(int lane) {
  int count = kCount;
  int first = 0;
  MAMBA_UNROLL
  for (int bit = 16; bit >= kLow; bit /= 2) {
    if (count > 1) {
      count /= 2;
      first += (lane & bit) != 0 ? count : 0;
    }
  }
  return first;
}
