// GPU kernel, in the dialect of ops/gpu: the token of row MAMBA_GROUP_X. Thread t has words t, t + kThreads, ...
//
// Thresholds of top-k and top-p are found without sorting: floats become integers of the same order, and the largest
// integer whose words, with all above it, are enough in number or weight is found bit by bit from the top.
constexpr float kLog2e = 1.44269504f;
constexpr float kLn2 = 0.69314718f;
constexpr int kWarps = kThreads / 32;
constexpr int kLoads = 8;
MAMBA_SHARED(float, scratch, kWarps);
MAMBA_SHARED(float, result, 1);
const int words = logits_shape[1];
const int thread = MAMBA_THREAD;
const int lane = thread % 32;
const int row = MAMBA_GROUP_X;
const int64_t first = int64_t(row) * words;
const float temperature = float(settings[5 * row]);
const float top_k = float(settings[5 * row + 1]);
const float top_p = float(settings[5 * row + 2]);
const float min_p = float(settings[5 * row + 3]);
const float penalty = float(settings[5 * row + 4]);
if (thread == 0) {
  result[0] = 0.0f;
}

// One pass for the largest score, the first word that has it, and the sum of the exponentials, which is scaled down
// whenever a larger one turns up. kLoads words are on their way at a time.
float largest = -3.4e38f;
float top = -3.4e38f;
float sum = 0.0f;
int first_top = words;
MAMBA_NO_UNROLL
for (int from = thread; from < words; from += kThreads * kLoads) {
  float raw[kLoads];
  bool used[kLoads];
  mamba_load_apart(logits + (first + from), kThreads, words - from, -3.4e38f, raw);
  MAMBA_UNROLL
  for (int j = 0; j < kLoads; ++j) {
    const int i = from + j * kThreads;
    used[j] = kHasSeen && i < words && int(seen[first + i]) != 0;
  }
  float of_these = raw[0];
  MAMBA_UNROLL
  for (int j = 1; j < kLoads; ++j) {
    of_these = mamba_max(of_these, raw[j]);
  }
  if (of_these > largest) {
    sum *= mamba_exp2(kLog2e * (largest - of_these));
    largest = of_these;
  }
  MAMBA_UNROLL
  for (int j = 0; j < kLoads; ++j) {
    const int i = from + j * kThreads;
    if (i < words) {
      sum += mamba_exp2(kLog2e * (raw[j] - largest));
      float score = raw[j];
      if (kHasSeen) {
        seen_after[first + i] = used[j] ? 1 : 0;
        score = used[j] ? (score < 0.0f ? score * penalty : score / penalty) : score;
      }
      if (temperature > 0.0f) {
        score = score / temperature;
        scores[first + i] = score;
      }
      first_top = score > top || first_top == words ? i : first_top;
      top = mamba_max(top, score);
    }
  }
}
const float my_top = top;
const float my_largest = largest;
largest = mamba_group_max<kThreads>(largest, thread, scratch);
top = mamba_group_max<kThreads>(top, thread, scratch);
sum = mamba_group_sum<kThreads>(sum * mamba_exp2(kLog2e * (my_largest - largest)), thread, scratch);

if (temperature > 0.0f) {
  unsigned int floor_key = 0u;
  unsigned int tie_key = 0u;
  int tie_bound = words;
  if (top_k > 0.0f && top_k < float(words)) {
    MAMBA_NO_UNROLL
    for (int bit = 31; bit >= 0; --bit) {
      const unsigned int at_least = floor_key | (1u << bit);
      float count = 0.0f;
      MAMBA_NO_UNROLL
      for (int from = thread; from < words; from += kThreads * kLoads) {
        float score[kLoads];
        mamba_load_apart(scores + (first + from), kThreads, words - from, -3.4e38f, score);
        MAMBA_UNROLL
        for (int j = 0; j < kLoads; ++j) {
          count += from + j * kThreads < words && mamba_ordered(score[j]) >= at_least ? 1.0f : 0.0f;
        }
      }
      floor_key = mamba_group_sum<kThreads>(count, thread, scratch) >= top_k ? at_least : floor_key;
    }
  }
  if (top_p < 1.0f) {
    float all = 0.0f;
    for (int i = thread; i < words; i += kThreads) {
      const float score = float(scores[first + i]);
      all += mamba_ordered(score) >= floor_key ? mamba_exp2(kLog2e * (score - top)) : 0.0f;
    }
    const float enough = top_p * mamba_group_sum<kThreads>(all, thread, scratch);
    unsigned int key = 0u;
    MAMBA_NO_UNROLL
    for (int bit = 31; bit >= 0; --bit) {
      const unsigned int wanted = key | (1u << bit);
      const unsigned int at_least = wanted > floor_key ? wanted : floor_key;
      float mass = 0.0f;
      MAMBA_NO_UNROLL
      for (int from = thread; from < words; from += kThreads * kLoads) {
        float score[kLoads];
        mamba_load_apart(scores + (first + from), kThreads, words - from, -3.4e38f, score);
        MAMBA_UNROLL
        for (int j = 0; j < kLoads; ++j) {
          mass += from + j * kThreads < words && mamba_ordered(score[j]) >= at_least
                      ? mamba_exp2(kLog2e * (score[j] - top))
                      : 0.0f;
        }
      }
      key = mamba_group_sum<kThreads>(mass, thread, scratch) >= enough ? wanted : key;
    }
    floor_key = key > floor_key ? key : floor_key;
    tie_key = floor_key;
    // Of words with this very score, those with the lowest ids until it is enough.
    float above = 0.0f;
    float ties = 0.0f;
    float weight = 0.0f;
    for (int i = thread; i < words; i += kThreads) {
      const float score = float(scores[first + i]);
      const float w = mamba_exp2(kLog2e * (score - top));
      above += mamba_ordered(score) > tie_key ? w : 0.0f;
      ties += mamba_ordered(score) == tie_key ? 1.0f : 0.0f;
      weight = mamba_ordered(score) == tie_key ? w : weight;
    }
    above = mamba_group_sum<kThreads>(above, thread, scratch);
    ties = mamba_group_sum<kThreads>(ties, thread, scratch);
    weight = mamba_group_max<kThreads>(weight, thread, scratch);
    if (ties > 1.0f && above + (ties - 1.0f) * weight >= enough) {
      tie_bound = 0;
      MAMBA_NO_UNROLL
      for (int bit = 23; bit >= 0; --bit) {
        const int bound = tie_bound | (1 << bit);
        float below = 0.0f;
        for (int i = thread; i < words && i < bound; i += kThreads) {
          below += mamba_ordered(float(scores[first + i])) == tie_key ? 1.0f : 0.0f;
        }
        below = mamba_group_sum<kThreads>(below, thread, scratch);
        // The last of so many ties is kept while those before it are not enough.
        tie_bound = below < 1.5f || above + (below - 1.0f) * weight < enough ? bound : tie_bound;
      }
    }
  }
  float mass = 0.0f;
  for (int i = thread; i < words; i += kThreads) {
    const float score = float(scores[first + i]);
    const float w = mamba_exp2(kLog2e * (score - top));
    const unsigned int key = mamba_ordered(score);
    mass += key >= floor_key && (key != tie_key || i < tie_bound) && w >= min_p ? w : 0.0f;
  }
  // Sums in the order of the threads, so that one ends where the next begins.
  float inside = 0.0f;
  float before = 0.0f;
  MAMBA_NO_UNROLL
  for (int other = 0; other < 32; ++other) {
    before = other == lane ? inside : before;
    inside += MAMBA_SHUFFLE(mass, other);
  }
  if (lane == 0) {
    scratch[thread / 32] = inside;
  }
  MAMBA_BARRIER();
  float base = 0.0f;
  float total = 0.0f;
  for (int warp = 0; warp < kWarps; ++warp) {
    base = warp == thread / 32 ? total : base;
    total += scratch[warp];
  }
  const float target = float(draws[row * draws_strides[0]]) * total;
  if (base + before <= target && target < base + (before + mass)) {
    float left = target - (base + before);
    int chosen_word = -1;
    for (int i = thread; i < words; i += kThreads) {
      const float score = float(scores[first + i]);
      const float w = mamba_exp2(kLog2e * (score - top));
      const unsigned int key = mamba_ordered(score);
      if (left >= 0.0f && key >= floor_key && (key != tie_key || i < tie_bound) && w >= min_p) {
        chosen_word = i;
        left -= w;
      }
    }
    result[0] = float(chosen_word);
  }
} else {
  const float lowest = -mamba_group_max<kThreads>(-float(my_top == top ? first_top : words), thread, scratch);
  if (thread == 0) {
    result[0] = lowest;
  }
}
MAMBA_BARRIER();
const int word = result[0] < float(words) ? int(result[0]) : 0;
if (kHasSeen && word % kThreads == thread) {
  seen_after[first + word] = 1;
}
if (thread == 0) {
  chosen[2 * row] = word;
  chosen[2 * row + 1] = mamba_bits_of_float(float(logits[first + word]) - largest - kLn2 * mamba_log2(sum));
}
