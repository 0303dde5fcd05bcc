// GPU kernel, in the dialect of ops/gpu: a token of one sequence through a whole model, from its id to the logits. A
// fork of gpu_step.h, which takes 1.28 times as long for 1.4b's shape and 1.15 times for 130m's, and serves where there
// is less shared memory (the 32 KB of Metal are far too few) or where rows are not whole lines: between its barriers
// memory has nothing to do.
//
// Some lanes bring the rows of weights that are the group's own into a ring of kSlots slots in shared memory, as far
// ahead as there is room, across phases and layers, since weights depend on nothing. So a step is one stream of all
// weights, and what groups wait for one another lies beneath it. No more than kInFlight slots are under way at once:
// more than memory needs to be busy is in the way of what groups wait for. They hand numbers on without barriers: each
// is posted with its layer, and whoever needs it takes it as soon as it is there:
//
//   h          from the rows of out_proj (at first: the embedding), to all groups, which make x of it by themselves
//   u          from the rows of in_proj with their convolution, to the groups that have rows of x_proj
//   dt, B, C   from the rows of x_proj, a group's threads sharing each, to all groups
//   y          from dt_proj, the state's step and the gate, of the channels whose u and z the group has made, to all
//
// A number's place is used again a layer later. Whoever posts there has taken numbers that depended on all groups'
// having taken the ones before; so every group must have channels and rows of out_proj of its own.
//
// This file has what brings weights, and what the phases are made of; gpu_one_phases.h, the rest of the same body, has
// the phases.
constexpr int kWarps = kThreads / 32;
constexpr int kSize = int(sizeof(T));
constexpr int kLine = 16 / kSize;
constexpr int kMostRows = 32;  // of a SIMD group
constexpr float kLog2e = 1.44269504f;
const int kInPieces = (kWidth + kSlot - 1) / kSlot;
const int kOutPieces = (kChannels + kSlot - 1) / kSlot;
const int projected = kRank + 2 * kStates;
const int layers = A_shape[0];
const int words = output_shape[0];
const float eps = mamba_float_of_bits(kEpsBits);
const int thread = MAMBA_THREAD;
const int lane = thread % 32;
const int warp = thread / 32;
const int me = MAMBA_GROUP_X;
const int all = MAMBA_GROUPS_X;

// What the kernel is launched with is as much as all of this takes.
MAMBA_SHARED_MORE(unsigned char, room, kRoom);
MAMBA_SHARED_PTR(T) ring = (MAMBA_SHARED_PTR(T))room;
MAMBA_SHARED_PTR(T) x = ring + kSlots * kSlot;
MAMBA_SHARED_PTR(T) y = x + kWidth;
MAMBA_SHARED_PTR(T) x_rows = y + kChannels;                // of x_proj
MAMBA_SHARED_PTR(T) dt_rows = x_rows + kRows * kChannels;  // of dt_proj
MAMBA_SHARED_PTR(float) own_states = (MAMBA_SHARED_PTR(float))(dt_rows + kOwn * kRank);
MAMBA_SHARED_PTR(float) own_rates = own_states + kOwn * kStates;
MAMBA_SHARED(float, own_u, kOwn);
MAMBA_SHARED(float, own_z, kOwn);
MAMBA_SHARED(float, own_bias, kOwn);
MAMBA_SHARED(float, own_skip, kOwn);
MAMBA_SHARED(float, dt_B_C, kRank + 2 * kStates);
MAMBA_SHARED(float, squares, kWarps);
MAMBA_SHARED(float, parts, kRows* kWarps);
MAMBA_SHARED(MambaArrival, arrivals, 2 * kSlots + 2);
MAMBA_SHARED_PTR(MambaArrival) filled = arrivals;            // of each slot
MAMBA_SHARED_PTR(MambaArrival) emptied = arrivals + kSlots;  // likewise
MAMBA_SHARED_PTR(MambaArrival) layer_filled = arrivals + 2 * kSlots;
MAMBA_SHARED_PTR(MambaArrival) layer_emptied = layer_filled + 1;

const auto x_mail = mail;
const auto u_mail = x_mail + 2 * kWidth;
const auto dt_mail = u_mail + 2 * kChannels;
const auto y_mail = dt_mail + 2 * projected;

// A group has neighbouring channels, rows of out_proj and words, its SIMD groups each kWarps-th of them: lane j of a
// SIMD group keeps what belongs to the j-th.
const int channel = int(int64_t(kChannels) * me / all);
const int own = int(int64_t(kChannels) * (me + 1) / all) - channel;
const int row = int(int64_t(kWidth) * me / all);
const int rows = int(int64_t(kWidth) * (me + 1) / all) - row;
const int word = int(int64_t(words) * me / all);
const int own_words = int(int64_t(words) * (me + 1) / all) - word;
const int mine = warp + kWarps * lane;

// The rest of a layer; and into the device's cache what is loaded from its arrays in passing.
const auto bring_layer = [&](int layer) {
  int projections = 0;
  for (int n = me; n < projected; n += all) {
    ++projections;
  }
  mamba_expect(layer_filled, (projections * kChannels + own * kRank) * kSize + own * kStates * 8);
  for (int i = 0; i < projections; ++i) {
    mamba_bring(x_rows + i * kChannels, x_proj + (int64_t(layer) * projected + me + i * all) * kChannels, kChannels,
                layer_filled);
  }
  const int64_t at = int64_t(layer) * kChannels + channel;
  mamba_bring(dt_rows, dt_proj + at * kRank, own * kRank, layer_filled);
  mamba_bring(own_states, ssm + at * kStates, own * kStates, layer_filled);
  mamba_bring(own_rates, A + at * kStates, own * kStates, layer_filled);
  for (int k = 0; k < kTaps - 1; ++k) {
    MAMBA_PREFETCH(conv + ((int64_t(layer) * (kTaps - 1) + k) * kChannels + channel), own * kSize + 15);
  }
  MAMBA_PREFETCH(conv_weight + at * kTaps, own * kTaps * kConvSize);
  MAMBA_PREFETCH(conv_bias + at, own * kConvSize + 15);
  MAMBA_PREFETCH(dt_bias + at, own * 4 + 15);
  MAMBA_PREFETCH(D + at, own * 4 + 15);
  mamba_fetch_ahead(norm + int64_t(layer) * kWidth, kWidth, kNormSize, me, all);
};

// The dot product of `left` and a row that begins in piece `piece` of the stream.
const auto dot_of = [&](const MAMBA_SHARED_PTR(T) left, int length, int piece) {
  float dot = 0.0f;
  for (int from = 0; from < length; from += kSlot) {
    const int count = length - from < kSlot ? length - from : kSlot;
    const int slot = piece % kSlots;
    mamba_await(filled + slot, piece / kSlots % 2);
    for (int i = lane * kLine; i < count; i += 32 * kLine) {
      dot =
          mamba_line_dot(mamba_line<T, true>(left + from + i, 1), mamba_line<T, true>(ring + slot * kSlot + i, 1), dot);
    }
    // Each lane tells, though one of them would do: racecheck sees no order between lanes.
    mamba_arrive(emptied + slot);
    ++piece;
  }
  dot = mamba_lane_sum<32>(dot);
  return dot;
};
// The j-th of `count` rows that the SIMD group has, `from` <= j < `to`, each in so many pieces: lane j's dot. A slot
// says only whether what came last came an odd or even number of times before; so nobody is further ahead of another
// than the ring is long.
int piece = 0;    // the first of a phase
int stretch = 0;  // at most so many pieces since all threads have met
const auto dots_of = [&](const MAMBA_SHARED_PTR(T) left, int length, int pieces, int count, int from, int to,
                         MAMBA_PRIVATE float& dot) {
  for (int j = from; j < to && kWarps * j < count; ++j) {
    stretch += kWarps * pieces;
    if (stretch > kSlots) {
      MAMBA_BARRIER_OF(kThreads);
      stretch = kWarps * pieces;
    }
    if (warp + kWarps * j < count) {
      const float one = dot_of(left, length, piece + (warp + kWarps * j) * pieces);
      dot = lane == j - from / kMostRows * kMostRows ? one : dot;
    }
  }
};
// x of h, and the factor of the norm.
const auto take_x = [&](const auto& weights, int round) {
  constexpr int kPieces = 2;
  constexpr int kTaken = mamba_taken<float>();
  float square = 0.0f;
  for (int from = kTaken * thread; from < kWidth; from += kTaken * kThreads * kPieces) {
    float weight[kTaken * kPieces];
    float h[kTaken * kPieces];
    MAMBA_UNROLL
    for (int k = 0; k < kTaken * kPieces; ++k) {
      const int i = from + k / kTaken * (kTaken * kThreads) + k % kTaken;
      weight[k] = i < kWidth ? float(weights[i]) : 0.0f;
    }
    mamba_take<float, kPieces>(x_mail, from, kTaken * kThreads, kWidth, round, h, kPause);
    MAMBA_UNROLL
    for (int k = 0; k < kTaken * kPieces; ++k) {
      const int i = from + k / kTaken * (kTaken * kThreads) + k % kTaken;
      if (i < kWidth) {
        x[i] = T(h[k] * weight[k]);
        square = mamba_fma(h[k], h[k], square);
      }
    }
  }
  square = mamba_lane_sum<32>(square);
  if (lane == 0) {
    squares[warp] = square;
  }
  MAMBA_BARRIER_OF(kThreads);
  return mamba_rsqrt(mamba_sum_staged<kWarps>(squares, 1) / float(kWidth) + eps);
};

const int everyone = kThreads + 32 * (kBringers + 1);
for (int i = thread; i < 2 * kSlots + 2; i += everyone) {
  const bool is_emptied = i >= kSlots && i < 2 * kSlots;
  mamba_begin(arrivals + i, is_emptied ? 32 : i == 2 * kSlots + 1 ? kThreads : 1);
}
for (int i = me * everyone + thread; i < 2 * (kWidth + 2 * kChannels + projected); i += all * everyone) {
  mail[i] = 0.0f;
}
float h = warp < kWarps && mine < rows
              ? float(Residual(float(embeddings[int64_t(int(tokens[0])) * kWidth + row + mine])))
              : 0.0f;
MAMBA_GRID_BARRIER(counter);

// One lane of each of the SIMD groups that bring: kBringers of them take every kBringers-th piece, the last the rest.
if (warp == kWarps + kBringers) {
  for (int layer = 0; lane == 0 && layer < layers; ++layer) {
    if (layer > 0) {
      mamba_await(layer_emptied, (layer - 1) % 2);
    }
    bring_layer(layer);
  }
  return;
}
if (warp >= kWarps) {
  int first_piece = 0;
  int slot = warp - kWarps;
  int parity = 0;  // of what has been in the slot before
  bool again = false;
  MAMBA_NO_UNROLL
  for (int part = 0; lane == 0 && part <= 3 * layers; ++part) {
    const int layer = part / 3;
    const bool is_out = part % 3 == 2;
    const bool is_word = part == 3 * layers;
    const int count = is_word ? own_words : is_out ? rows : own;
    const int length = is_out ? kChannels : kWidth;
    const int of_row = is_out ? kOutPieces : kInPieces;
    const int64_t from = is_word  ? int64_t(word) * kWidth
                         : is_out ? (int64_t(layer) * kWidth + row) * kChannels
                                  : ((int64_t(layer) * 2 + part % 3) * kChannels + channel) * kWidth;
    MAMBA_NO_UNROLL
    for (int i = (warp - kWarps + kBringers - first_piece % kBringers) % kBringers; i < count * of_row;
         i += kBringers) {
      const int at = i % of_row * kSlot;
      const int numbers = length - at < kSlot ? length - at : kSlot;
      if (slot >= kInFlight) {
        mamba_await(filled + slot - kInFlight, again ? 1 - parity : 0);
      } else if (again) {
        mamba_await(filled + slot - kInFlight + kSlots, parity);
      }
      if (again) {
        mamba_await(emptied + slot, parity);
      }
      mamba_expect(filled + slot, numbers * kSize);
      mamba_bring(ring + slot * kSlot,
                  (is_word  ? output
                   : is_out ? out_proj
                            : in_proj) +
                      (from + i / of_row * length + at),
                  numbers, filled + slot);
      slot += kBringers;
      if (slot >= kSlots) {
        slot -= kSlots;
        parity = again ? 1 - parity : 0;
        again = true;
      }
    }
    first_piece += count * of_row;
  }
  return;
}
