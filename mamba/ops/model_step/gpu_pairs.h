// GPU kernel, in the dialect of ops/gpu: gpu_step.h's step for up to 64 sequences of a model whose channels are 64 for
// each of kPairs pairs of groups, and its width half of them: 1.4b's, where 128 groups fill the device. This file has
// what brings weights and hands on numbers; gpu_pairs_parts.h and gpu_pairs_phases.h, the rest of the same body, what
// multiplies.
//
// A fork of gpu_many.h, which takes 1.5 times as long there: in that one a barrier of all groups follows each of four
// phases, whose left sides each group reads from the second cache. Here
//
//   a pair has 64 channels: u and z of in_proj, each group summing one half of its length, of which each gets the
//   other's
//       part of its 32 channels through shared memory; their convolution; the columns of x_proj, summed over all pairs
//       in two steps, parts to those who add them and dt, B and C to all; dt_proj, the state's step and y, which all
//       need; and 32 rows of out_proj, again in halves of the length. h stays in registers.
//   one warp brings weights and states, as gpu_many.h's fillers do: the device's own copies of blocks, laid out as
//       products with both sides in shared memory want them. Weights are 64 rows or the columns of such a product,
//       never in registers.
//   one warp hands on: it sends what the others have made, tells those who wait for it by a count, and brings what this
//       group needs as soon as the counts are there. No thread that multiplies waits in a barrier of all groups.
//
// What is shared by a pair is waited for by arrivals alone, since releases of more than a group are as slow as a write
// to memory is: 1,500 cycles and more while weights stream, five times a layer. Rows beyond the
// batch hold whatever is there, which reaches no other row.
constexpr int kWarps = 16;
constexpr int kThreads = 32 * kWarps;
constexpr int kRows = 64;
constexpr int kStates = 16;
constexpr int kTaps = 4;
constexpr int kBefore = kTaps - 1;
constexpr int kOwn = 32;  // channels of a group, and rows of out_proj of a pair
constexpr int kChannels = 2 * kOwn * kPairs;
constexpr int kWidth = kOwn * kPairs;
constexpr int kWideRank = (kRank + 63) / 64 * 64;
constexpr int kProjected = kRank + 2 * kStates;
constexpr int kColumns = kProjected / 2;  // of x_proj, of a group
constexpr int kBlock = kRows * 32;        // numbers of 64 rows of a left side
constexpr int kSlot = 4 * kBlock;
constexpr int kSlots = 8;
constexpr int kUnits = 4;  // of a left side, four blocks each
constexpr int kInSlots = kPairs / 4;
constexpr int kInUnits = kPairs / 8;
constexpr int kOutUnits = kPairs / 4;
constexpr int kStateSlots = 8;
constexpr int kSlotRows = kRows / kStateSlots;
constexpr int kSummed = (kRows + kPairs - 1) / kPairs;  // sequences whose dt, B and C a pair adds up
constexpr float kLog2e = 1.44269504f;
// Of a left side's room, where other things lie while no left side is there, in numbers of T.
constexpr int kSumsPlace = 2 * kSlot;
constexpr int kDtPlace = kUnits * kSlot - 2 * kRows * kOwn;
MAMBA_SHARED_MORE(unsigned char, room, kRoom);
MAMBA_SHARED_PTR(T) slots = (MAMBA_SHARED_PTR(T))mamba_aligned_room(room);
MAMBA_SHARED_PTR(T) left = slots + kSlots * kSlot;
MAMBA_SHARED_PTR(T) own_u = left + kUnits * kSlot;  // of the pair, a block for each group
MAMBA_SHARED_PTR(T) own_z = own_u + 2 * kBlock;     // then y
MAMBA_SHARED_PTR(T) own_x = own_z + kBlock;
MAMBA_SHARED_PTR(float) squares_in = (MAMBA_SHARED_PTR(float))(own_x + kOwn * 32);
MAMBA_SHARED_PTR(float) own_squares = squares_in + kPairs * kRows;
MAMBA_SHARED_PTR(float) scales = own_squares + kOwn;
MAMBA_SHARED_PTR(float) square_parts = scales + kRows;
MAMBA_SHARED(MambaArrival, arrivals, 2 * kSlots + 2 * kUnits + 12);
MAMBA_SHARED_PTR(MambaArrival) filled = arrivals;
MAMBA_SHARED_PTR(MambaArrival) freed = filled + kSlots;
MAMBA_SHARED_PTR(MambaArrival) unit_filled = freed + kSlots;
MAMBA_SHARED_PTR(MambaArrival) unit_freed = unit_filled + kUnits;
MAMBA_SHARED_PTR(MambaArrival) squares_there = unit_freed + kUnits;
MAMBA_SHARED_PTR(MambaArrival) parts_made = squares_there + 1;  // of dt, B and C
MAMBA_SHARED_PTR(MambaArrival) parts_there = squares_there + 2;
MAMBA_SHARED_PTR(MambaArrival) sums_made = squares_there + 3;
MAMBA_SHARED_PTR(MambaArrival) sums_there = squares_there + 4;
MAMBA_SHARED_PTR(MambaArrival) y_made = squares_there + 5;
MAMBA_SHARED_PTR(MambaArrival) x_made = squares_there + 6;
MAMBA_SHARED_PTR(MambaArrival) in_done = squares_there + 7;  // by both groups of the pair
MAMBA_SHARED_PTR(MambaArrival) in_there = squares_there + 8;
MAMBA_SHARED_PTR(MambaArrival) u_there = squares_there + 9;
MAMBA_SHARED_PTR(MambaArrival) out_done = squares_there + 10;
MAMBA_SHARED_PTR(MambaArrival) out_there = squares_there + 11;
const int layers = A_shape[0];
const int batch = ssm_shape[1];
const int words = output_shape[0];
const float eps = mamba_float_of_bits(kEpsBits);
int thread = MAMBA_THREAD;
int lane = thread % 32;
int warp = thread / 32;
const int me = MAMBA_GROUP_X;
const int half = me % 2;
const int pair = me / 2;
const int word_turns = (words - pair * 128 + 128 * kPairs - 1) / (128 * kPairs);
// What groups hand on: x, y and dt in blocks as own_x, own_z and products have them, and B and C behind dt.
const auto x_all = numbers;
const auto y_all = x_all + kRows * kWidth;
const auto dt_all = y_all + kRows * kChannels;
const auto squares_all = floats;
const auto parts_all = squares_all + kPairs * kRows;
const auto B_C_all = parts_all + 2 * kRows * kPairs * kColumns;
// Counts, apart from one another: a half of x, of y, of those that add up parts, and of those that have.
const auto counts = MAMBA_WRITABLE(int, counter) + 64;
constexpr int kApart = 64;
const int count_before = int(counts[2 * kApart]);
const int x_before = int(counts[0]);
if (thread == 0) {
  for (int i = 0; i < kSlots; ++i) {
    mamba_begin(filled + i, 1);
    mamba_begin(freed + i, kThreads);
  }
  for (int i = 0; i < kUnits; ++i) {
    mamba_begin(unit_filled + i, 1);
    mamba_begin(unit_freed + i, kThreads);
  }
  mamba_begin(squares_there, 1);
  mamba_begin(parts_made, kThreads / 2);
  mamba_begin(parts_there, 1);
  mamba_begin(sums_made, kThreads / 2);
  mamba_begin(sums_there, 1);
  mamba_begin(y_made, kThreads);
  mamba_begin(x_made, kThreads);
  mamba_begin(in_done, kThreads + kWarps);
  mamba_begin(in_there, kThreads / 2 + 1);
  mamba_begin(u_there, kThreads + 1);
  mamba_begin(out_done, kThreads + kWarps);
  mamba_begin(out_there, kThreads / 2 + 1);
}
// Partners and counts are there.
MAMBA_GRID_BARRIER(counter);

if (warp == kWarps) {
  // Brings weights and states. No more than kInFlight slots are on their way: more is in the way of what groups hand
  // on.
  if (lane == 0) {
    int n = 0;
    const auto begin = [&](int bytes) {
      const int slot = n % kSlots;
      if (n >= kSlots) {
        mamba_await(freed + slot, (n / kSlots - 1) % 2);
      }
      if (n >= kInFlight) {
        mamba_await(filled + (n - kInFlight) % kSlots, (n - kInFlight) / kSlots % 2);
      }
      mamba_expect(filled + slot, bytes);
      ++n;
      return slot;
    };
    for (int layer = 0; layer < layers; ++layer) {
      const int64_t channel = int64_t(layer) * kChannels + me * kOwn;
      MAMBA_NO_UNROLL
      for (int i = 0; i < kInSlots; ++i) {
        const int slot = begin(2 * kSlot);
        const int k = half * (kWidth / 2) + 64 * i;
        mamba_bring_twins(slots + slot * kSlot, maps, in_proj, k, 8 * pair, layer, kWidth, kChannels, filled + slot);
        mamba_bring_twins(slots + slot * kSlot + kSlot / 2, maps, in_proj, k, 8 * pair + 4, layer, kWidth, kChannels,
                          filled + slot);
      }
      {
        const int slot = begin(kColumns * 64 * 2);
        mamba_bring_rows<kColumns>(slots + slot * kSlot, maps, 1, x_proj, 64 * pair,
                                   layer * kProjected + half * kColumns, kChannels, layers * kProjected, filled + slot);
      }
      {
        const int slot = begin(kOwn * kWideRank * 2 + kOwn * (kStates + 2) * 4);
        const auto to = slots + slot * kSlot;
        for (int k = 0; k < kRank; k += 64) {
          mamba_bring_rows<kOwn>(to + k * kOwn, maps, 2, dt_proj, k, int(channel), kRank, layers * kChannels,
                                 filled + slot);
        }
        const auto rates = (MAMBA_SHARED_PTR(float))(to + kOwn * kWideRank);
        mamba_bring(rates, A + channel * kStates, kOwn * kStates, filled + slot);
        mamba_bring(rates + kOwn * kStates, dt_bias + channel, kOwn, filled + slot);
        mamba_bring(rates + kOwn * (kStates + 1), D + channel, kOwn, filled + slot);
      }
      MAMBA_NO_UNROLL
      for (int i = 0; i < kStateSlots; ++i) {
        const int first = i * kSlotRows;
        const int rows = batch - first < 0 ? 0 : batch - first < kSlotRows ? batch - first : kSlotRows;
        const int slot = begin(rows * kOwn * kStates * 4);
        const auto to = (MAMBA_SHARED_PTR(float))(slots + slot * kSlot);
        for (int j = 0; j < rows; ++j) {
          mamba_bring(to + j * kOwn * kStates,
                      ssm + ((int64_t(layer) * batch + first + j) * kChannels + me * kOwn) * kStates, kOwn * kStates,
                      filled + slot);
        }
      }
      MAMBA_NO_UNROLL
      for (int i = 0; i < kPairs / 8; ++i) {
        const int slot = begin(2 * kSlot);
        for (int j = 0; j < 4; ++j) {
          mamba_bring_rows<kOwn>(slots + slot * kSlot + j * (kOwn * 64), maps, 3, out_proj,
                                 half * (kChannels / 2) + 256 * i + 64 * j, layer * kWidth + pair * kOwn, kChannels,
                                 layers * kWidth, filled + slot);
        }
      }
    }
    for (int turn = 0; turn < word_turns; ++turn) {
      MAMBA_NO_UNROLL
      for (int i = 0; i < kInSlots; ++i) {
        const int slot = begin(2 * kSlot);
        for (int j = 0; j < 2; ++j) {
          mamba_bring_rows<kRows>(slots + slot * kSlot + j * (kSlot / 2), maps, 4, output, half * (kWidth / 2) + 64 * i,
                                  (turn * kPairs + pair) * 128 + 64 * j, kWidth, words, filled + slot);
        }
      }
    }
  }
  return;
}

if (warp > kWarps + 1) {
  return;
}
if (warp == kWarps + 1) {
  // Hands on.
  int unit = 0;
  const auto bring_unit = [&](const auto& from) {
    const int at = unit % kUnits;
    if (unit >= kUnits) {
      mamba_await(unit_freed + at, (unit / kUnits - 1) % 2);
    }
    mamba_expect(unit_filled + at, 2 * kSlot);
    mamba_bring(left + at * kSlot, from, kSlot, unit_filled + at);
    ++unit;
  };
  const auto bring_x = [&]() {
    for (int u = 0; u < kInUnits; ++u) {
      bring_unit(x_all + (half * kInUnits + u) * kSlot);
    }
  };
  // Both halves' counts, by two lanes.
  const auto await_both = [&](int which, int wanted) {
    if (lane < 2) {
      mamba_await_told(counts + (which + lane) * kApart, wanted);
    }
    MAMBA_SIMD_BARRIER();
  };
  for (int layer = 0; layer <= layers; ++layer) {
    const int wanted_x = x_before + (layer + 1) * kPairs;
    const int wanted = count_before + (layer + 1) * kPairs;
    mamba_await(x_made, layer % 2);
    if (lane == 0) {
      mamba_send(x_all + pair * kBlock + half * (kOwn * 32), own_x, kOwn * 32);
      mamba_send(squares_all + pair * kRows + half * kOwn, own_squares, kOwn);
      mamba_end_sends();
      mamba_await_sends();
      mamba_tell_sent(counts + 2 * pair / kPairs * kApart);
    }
    if (layer == layers && word_turns == 0) {
      // Nobody would use what is brought.
      break;
    }
    if (lane == 0) {
      mamba_await_told(counts + half * kApart, wanted_x);
      MAMBA_ARRAY_FENCE();
      bring_x();
    }
    MAMBA_SIMD_BARRIER();
    await_both(0, wanted_x);
    if (lane == 0) {
      MAMBA_ARRAY_FENCE();
      mamba_expect(squares_there, kPairs * kRows * 4);
      mamba_bring(squares_in, squares_all, kPairs * kRows, squares_there);
    }
    if (layer == layers) {
      break;
    }
    mamba_await(parts_made, layer % 2);
    if (lane == 0) {
      mamba_tell(counts + (4 + half) * kApart);
      mamba_await_told(counts + (4 + half) * kApart, wanted);
      MAMBA_ARRAY_FENCE();
      const int rows = kRows - pair * kSummed < kSummed ? kRows - pair * kSummed : kSummed;
      mamba_expect(parts_there, rows > 0 ? rows * kPairs * kColumns * 4 : 0);
      if (rows > 0) {
        mamba_bring((MAMBA_SHARED_PTR(float))left, parts_all + (half * kRows + pair * kSummed) * (kPairs * kColumns),
                    rows * kPairs * kColumns, parts_there);
      }
    }
    MAMBA_SIMD_BARRIER();
    mamba_await(sums_made, layer % 2);
    if (lane == 0) {
      mamba_tell(counts + (6 + half) * kApart);
    }
    MAMBA_SIMD_BARRIER();
    await_both(6, wanted);
    if (lane == 0) {
      MAMBA_ARRAY_FENCE();
      mamba_expect(sums_there, kRows * kRank * 2 + kRows * 2 * kStates * 4);
      mamba_bring(left + kSumsPlace, dt_all, kRows * kRank, sums_there);
      mamba_bring((MAMBA_SHARED_PTR(float))(left + kSumsPlace + kRows * kRank), B_C_all, kRows * 2 * kStates,
                  sums_there);
    }
    MAMBA_SIMD_BARRIER();
    mamba_await(y_made, layer % 2);
    if (lane == 0) {
      mamba_send(y_all + me * kBlock, own_z, kBlock);
      mamba_end_sends();
      mamba_await_sends();
      mamba_tell_sent(counts + (2 + me / kPairs) * kApart);
      mamba_await_told(counts + (2 + half) * kApart, wanted);
      MAMBA_ARRAY_FENCE();
      for (int u = 0; u < kOutUnits; ++u) {
        bring_unit(y_all + (half * kOutUnits + u) * kSlot);
      }
    }
    MAMBA_SIMD_BARRIER();
  }
  for (int turn = 1; turn < word_turns; ++turn) {
    mamba_await(x_made, (layers + turn) % 2);
    if (lane == 0) {
      bring_x();
    }
    MAMBA_SIMD_BARRIER();
  }
  return;
}
