// Functions that kernels share, in the dialect.

// softplus(x) = max(x, 0) + log(1 + e), e = exp(-|x|). The logarithm is e times a polynomial, right to 1.5e-7: exact
// where e is tiny, as log(1 + e) is not, and NaN where x is.
MAMBA_FN float mamba_softplus(float x) {
  const float e = mamba_exp2(-1.44269504f * mamba_abs(x));
  float p = 0.00536482409f;
  p = mamba_fma(p, e, -0.0300657917f);
  p = mamba_fma(p, e, 0.0792045370f);
  p = mamba_fma(p, e, -0.137538031f);
  p = mamba_fma(p, e, 0.191536546f);
  p = mamba_fma(p, e, -0.248571634f);
  p = mamba_fma(p, e, 0.333213240f);
  p = mamba_fma(p, e, -0.499996483f);
  p = mamba_fma(p, e, 1.0f);
  return mamba_fma(p, e, mamba_max(x, 0.0f));
}

MAMBA_FN float mamba_time_step(float raw, bool softplus) {
  return softplus ? mamba_softplus(raw) : raw;
}

MAMBA_FN float mamba_sigmoid(float x) {
  return mamba_reciprocal(1.0f + mamba_exp2(-1.44269504f * x));
}

MAMBA_FN float mamba_silu(float x) {
  return x * mamba_sigmoid(x);
}

// z[i] becomes silu(z[i]). Two share the reciprocal of a product, whose factors are bounded so that it is finite: from
// -43 on a silu comes out as 2e-19 of its argument, however much less it is.
template <int kCount>
MAMBA_FN void mamba_silus(MAMBA_PRIVATE float (&z)[kCount]) {
  MAMBA_UNROLL
  for (int i = 0; i < kCount / 2 * 2; i += 2) {
    const float a = 1.0f + mamba_exp2(mamba_min(-1.44269504f * z[i], 62.0f));
    const float b = 1.0f + mamba_exp2(mamba_min(-1.44269504f * z[i + 1], 62.0f));
    const float both = mamba_reciprocal(a * b);
    z[i] *= both * b;
    z[i + 1] *= both * a;
  }
  if (kCount % 2 == 1) {
    z[kCount - 1] = mamba_silu(z[kCount - 1]);
  }
}

MAMBA_FN int mamba_clamped(int x, int lowest, int highest) {
  return x > highest ? highest : (x < lowest ? lowest : x);
}

// The first `left` of kCount numbers that lie `apart`, `behind` in place of others. `whole`: side by side, as load()
// wants them, and all or none of them are left.
template <typename T, int kCount, typename From>
MAMBA_FN void mamba_fetch(MAMBA_PRIVATE MambaNumbers<T, kCount>& to, From from, int apart, int left, bool whole,
                          float behind = 0.0f) {
  if (whole && left > 0) {
    to.load(from);
  } else {
    MAMBA_UNROLL
    for (int i = 0; i < kCount; ++i) {
      to.set(i, i < left ? T(from[i * apart]) : T(behind));
    }
  }
}

// The sum of `v` over kLanes neighbouring lanes, which all get it.
template <int kLanes>
MAMBA_FN float mamba_lane_sum(float v) {
  MAMBA_UNROLL
  for (int bit = kLanes / 2; bit >= 1; bit /= 2) {
    v += MAMBA_SHUFFLE_XOR(v, bit);
  }
  return v;
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

// Sums `v` over those lanes of a SIMD group of 32 that differ in bits kLow, 2 kLow, ... kHigh of their index. While
// there are sums to hand out the lanes share them; afterwards v[0 ... n) of a lane are those from mamba_spread_first()
// on.
template <int kCount, int kLow, int kHigh>
MAMBA_FN void mamba_sum_and_spread(MAMBA_PRIVATE float (&v)[kCount], int lane) {
  int count = kCount;
  MAMBA_UNROLL
  for (int bit = kHigh; bit >= kLow; bit /= 2) {
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

template <int kCount, int kLow, int kHigh>
MAMBA_FN int mamba_spread_first(int lane) {
  int count = kCount;
  int first = 0;
  MAMBA_UNROLL
  for (int bit = kHigh; bit >= kLow; bit /= 2) {
    if (count > 1) {
      count /= 2;
      first += (lane & bit) != 0 ? count : 0;
    }
  }
  return first;
}

// kCount neighbouring numbers of `a`, or with `both` of a + b.
template <typename T, int kCount, typename A, typename B>
MAMBA_FN void mamba_load_sums(A a, B b, bool both, MAMBA_PRIVATE float (&v)[kCount]) {
  MambaNumbers<T, kCount> numbers;
  MambaNumbers<T, kCount> more;
  numbers.load(a);
  if (both) {
    more.load(b);
  }
  MAMBA_UNROLL
  for (int i = 0; i < kCount; ++i) {
    v[i] = numbers.get(i) + (both ? more.get(i) : 0.0f);
  }
}

// Integers in the order of the floats.
MAMBA_FN unsigned int mamba_ordered(float x) {
  const int bits = mamba_bits_of_float(x);
  return (unsigned int)(bits < 0 ? ~bits : bits ^ (int)0x80000000);
}

// The sum, and the largest, of `v` over a group of kThreads, in the same order every time. `scratch`: kThreads / 32
// floats that are free again afterwards.
template <int kThreads>
MAMBA_FN float mamba_group_sum(float v, int thread, MAMBA_SHARED_PTR(float) scratch) {
  v = mamba_lane_sum<32>(v);
  if (thread % 32 == 0) {
    scratch[thread / 32] = v;
  }
  MAMBA_BARRIER();
  float total = 0.0f;
  MAMBA_UNROLL
  for (int i = 0; i < kThreads / 32; ++i) {
    total += scratch[i];
  }
  MAMBA_BARRIER();
  return total;
}

template <int kThreads>
MAMBA_FN float mamba_group_max(float v, int thread, MAMBA_SHARED_PTR(float) scratch) {
  MAMBA_UNROLL
  for (int bit = 16; bit >= 1; bit /= 2) {
    v = mamba_max(v, MAMBA_SHUFFLE_XOR(v, bit));
  }
  if (thread % 32 == 0) {
    scratch[thread / 32] = v;
  }
  MAMBA_BARRIER();
  float largest = scratch[0];
  MAMBA_UNROLL
  for (int i = 1; i < kThreads / 32; ++i) {
    largest = mamba_max(largest, scratch[i]);
  }
  MAMBA_BARRIER();
  return largest;
}

// Of numbers their maximum and sum 2^(number - maximum), and those of others: of them all.
MAMBA_FN void mamba_join_powers(MAMBA_PRIVATE float& maximum, MAMBA_PRIVATE float& sum, float other_maximum,
                                float other_sum) {
  const float larger = mamba_max(maximum, other_maximum);
  sum = sum * mamba_exp2(maximum - larger) + other_sum * mamba_exp2(other_maximum - larger);
  maximum = larger;
}
// Likewise of the lanes of a SIMD group, which all get them.
MAMBA_FN void mamba_join_lanes(MAMBA_PRIVATE float& maximum, MAMBA_PRIVATE float& sum) {
  MAMBA_UNROLL
  for (int bit = 16; bit >= 1; bit /= 2) {
    const float other_maximum = MAMBA_SHUFFLE_XOR(maximum, bit);
    const float other_sum = MAMBA_SHUFFLE_XOR(sum, bit);
    mamba_join_powers(maximum, sum, other_maximum, other_sum);
  }
}

// kCount numbers, `apart` from one another, of those that are left; `behind` in place of what lies behind the last.
template <int kCount, typename From>
MAMBA_FN void mamba_load_apart(From from, int apart, int left, float behind, MAMBA_PRIVATE float (&out)[kCount]) {
  MAMBA_UNROLL
  for (int i = 0; i < kCount; ++i) {
    out[i] = i * apart < left ? float(from[i * apart]) : behind;
  }
}

// The dot product of `count` weights and as many numbers: a SIMD group's work, whose lanes all get it. kLoads of a
// lane's weights are in flight at a time.
template <typename Weights, typename Numbers>
MAMBA_FN float mamba_dot(Weights weights, Numbers x, int count, int lane) {
  constexpr int kLoads = 12;
  float dot = 0.0f;
  MAMBA_NO_UNROLL
  for (int from = lane; from < count; from += 32 * kLoads) {
    float w[kLoads];
    MAMBA_UNROLL
    for (int j = 0; j < kLoads; ++j) {
      const int k = from + 32 * j;
      w[j] = k < count ? float(weights[k]) : 0.0f;
    }
    MAMBA_UNROLL
    for (int j = 0; j < kLoads; ++j) {
      const int k = from + 32 * j;
      dot = k < count ? mamba_fma(w[j], float(x[k]), dot) : dot;
    }
  }
  return mamba_lane_sum<32>(dot);
}

// One position of a channel's convolution, before its activation. `before` and `after`: the channel's last inputs,
// oldest first, `apart` and `channels` apart.
template <int kTaps, typename T, typename Weights, typename Before, typename After>
MAMBA_FN float mamba_conv_step(Weights weight, Before before, int apart, After after, int channels, T newest,
                               float bias, bool has_before) {
  float sum = mamba_fma(float(weight[kTaps - 1]), float(newest), bias);
  MAMBA_UNROLL
  for (int k = 0; k < kTaps - 1; ++k) {
    const T value = has_before ? T(before[k * apart]) : T(0.0f);
    sum = mamba_fma(float(weight[k]), float(value), sum);
    if (k > 0) {
      after[(k - 1) * channels] = value;
    }
  }
  if (kTaps > 1) {
    after[(kTaps - 2) * channels] = newest;
  }
  return sum;
}

MAMBA_FN bool mamba_is_finite(float x) {
  return (mamba_bits_of_float(x) & 0x7f800000) != 0x7f800000;
}

// A finite x as the sum of two numbers of 11 bits, which TF32 holds: its upper bits, and what they leave, rounded.
MAMBA_FN float mamba_high_part(float x) {
  return mamba_float_of_bits(int(uint32_t(mamba_bits_of_float(x)) & 0xffffe000u));
}
MAMBA_FN float mamba_low_part(float x) {
  const float rest = x - mamba_high_part(x);
  return mamba_float_of_bits(int((uint32_t(mamba_bits_of_float(rest)) + 0x1000u) & 0xffffe000u));
}

// Any x likewise, for products of three parts: `last` is the high part where it is multiplied with a high part. What is
// not finite stands there alone, since 0 x infinity would be no number; what is too small for a high part stands there
// too, since times infinity it is one.
struct MambaParts {
  float low, high, last;
};
MAMBA_FN MambaParts mamba_parts(float x) {
  const bool finite = mamba_is_finite(x);
  MambaParts parts;
  parts.high = finite ? mamba_high_part(x) : 0.0f;
  parts.low = finite ? mamba_low_part(x) : 0.0f;
  if (parts.high == 0.0f && parts.low != 0.0f) {
    parts.high = parts.low;
    parts.low = 0.0f;
  }
  parts.last = finite ? parts.high : (x == x ? x : mamba_not_a_number());
  return parts;
}
