// GPU kernel, in the dialect of ops/gpu: gpu_step.h's step for more than 8 sequences, where weights are shared by many
// products and states are most of what is read. This file has what comes before the phases;
// gpu_numbers.h and gpu_many_phases.h are the rest of the same body.
//
// Weights of in_proj, out_proj and the logits, and the states, go through one ring of kSlots slots in shared memory
// (gpu/ring.h), in the order in which this group uses them. Nothing in it waits for another group, so kFillers SIMD
// groups of their own fill it ahead of the barriers between phases, and memory is busy while the others wait, multiply
// and add up. No fillers, as in tests on the host: those who use a slot fill it anew.
//
// A group has 16 k..RowParts rows of a product and 8 k..Tiles of weights; its SIMD groups share the rows in
// k..RowParts parts, and a slot's length in as many as are left of them, k..Blocks blocks to each.
//
// A source of its own because one sequence wants the opposite: nothing is used twice there, so lines go straight to
// registers. What limits this one is instructions: 16 SIMD groups share a multiprocessor's four schedulers, and 100
// instructions more in a phase of all of them are 0.2 us. So indices within a layer are 32 bits wide, and what can be
// worked out once a task is not worked out for each slot.
constexpr int kWarps = kThreads / 32;
constexpr int kInParts = kWarps / kInRowParts;
constexpr int kInRows = 16 * kInRowParts;
constexpr int kInColumns = 8 * kInTiles;
constexpr int kInLines = 4 * kInParts * kInBlocks;  // of a row of weights in a slot
constexpr int kInChunks = (kInColumns + 31) / 32;
constexpr int kInUnits = (kInRows * kInChunks + kWarps - 1) / kWarps;
constexpr int kOutParts = kWarps / kOutRowParts;
constexpr int kOutRows = 16 * kOutRowParts;
constexpr int kOutColumns = 8 * kOutTiles;
constexpr int kOutLines = 4 * kOutParts * kOutBlocks;
constexpr int kOutChunks = (kOutColumns + 31) / 32;
constexpr int kOutUnits = (kOutRows * kOutChunks + kWarps - 1) / kWarps;
constexpr int kWordParts = kWarps / kWordRowParts;
constexpr int kWordRows = 16 * kWordRowParts;
constexpr int kWordColumns = 8 * kWordTiles;
constexpr int kWordLines = 4 * kWordParts * kWordBlocks;
constexpr int kLargerTiles = kInTiles > kOutTiles ? kInTiles : kOutTiles;
constexpr int kStageColumns = 8 * (kLargerTiles > kWordTiles ? kLargerTiles : kWordTiles);
constexpr int kStage = kWarps * 16 * kStageColumns;
// States: a lane's line of each of some sequences is in a slot, and a turn takes kStateSlots.
constexpr int kPer = 4;
constexpr int kSlotStates = kSlotLines / kThreads < kSequences ? kSlotLines / kThreads : kSequences;
constexpr int kStateSlots = (kSequences + kSlotStates - 1) / kSlotStates;
constexpr int kBefore = kTaps - 1;
constexpr int kSize = int(sizeof(T));
constexpr int kLine = 16 / kSize;
constexpr int kInStep = kInLines * kLine;
constexpr int kOutStep = kOutLines * kLine;
constexpr int kWordStep = kWordLines * kLine;
constexpr float kLog2e = 1.44269504f;
constexpr int kScales = (kInRows + kWarps - 1) / kWarps;
constexpr int kEarlyUnits = 4;  // whose inputs of the convolution a lane has registers for
constexpr int kInSection = 0;
constexpr int kStateSection = 1;
constexpr int kOutSection = 2;
constexpr int kWordSection = 3;
MAMBA_SHARED(float, scales, kMostRows);
MAMBA_SHARED_MORE(float, stage, kStage + kSlots * kSlotLines * int(sizeof(MambaLine<T>)) / 4);
MAMBA_SHARED(MambaArrivals, arrivals, kSlots);
MAMBA_SHARED(MambaArrivals, freed, kSlots);
MambaRing<T> ring = {(MAMBA_SHARED_PTR(MambaLine<T>))(stage + kStage), arrivals, 0, 0};
const int layers = A_shape[0];
const int batch = ssm_shape[1];
const int channels = A_shape[1];
constexpr int states = 4 * kPer;
const int rank = dt_proj_shape[2];
const int width = out_proj_shape[1];
const int words = output_shape[0];
const int projected = rank + 2 * states;
const float eps = mamba_float_of_bits(kEpsBits);
int thread = MAMBA_THREAD;
int lane = thread % 32;
int warp = thread / 32;
const int me = MAMBA_GROUP_X;
const int all = MAMBA_GROUPS_X;
const int in_tasks = (2 * channels + kInColumns - 1) / kInColumns;
const int in_total = in_tasks * ((batch + kInRows - 1) / kInRows);
const int pieces = (channels + 7) / 8;
const int state_tasks = pieces * ((batch + kSequences - 1) / kSequences);
const int state_turns = (state_tasks + kWarps * all - 1) / (kWarps * all);
const int out_tasks = (width + kOutColumns - 1) / kOutColumns;
const int out_total = out_tasks * ((batch + kOutRows - 1) / kOutRows);
const int word_rows = (batch + kWordRows - 1) / kWordRows;
const int word_total = (words + kWordColumns - 1) / kWordColumns * word_rows;
const int squares_apart = out_tasks * kOutChunks;  // parts of a row's sum of squares

// What this group uses, task after task: its weights or states, where they begin in their layer, how many rows there
// are, and how many slots it takes. First the tasks of a layer, then the words'.
MAMBA_SHARED(int, plan, 4 * kMostTasks);
const auto tasks_of = [&](int total) { return me < total ? (total - me + all - 1) / all : 0; };
const int first_states = tasks_of(in_total);
const int first_out = first_states + state_turns;
const int first_words = first_out + tasks_of(out_total);
const int plan_end = first_words + tasks_of(word_total);
for (int i = thread; i < kSlots; i += kThreads + 32 * kFillers) {
  mamba_begin_arrivals(arrivals + i, kFillers > 0 ? kFillers : 1);
  mamba_begin_arrivals(freed + i, kThreads);
}
for (int i = thread; i < plan_end; i += kThreads + 32 * kFillers) {
  const bool is_in = i < first_states;
  const bool is_out = !is_in && i < first_words;
  const int task = me + (i - (is_in ? 0 : is_out ? first_out : first_words)) * all;
  int what = kStateSection;
  int from = i - first_states;
  int rows = 0;
  int slots = kStateSlots;
  if (is_in) {
    what = kInSection;
    from = task % in_tasks * kInColumns;
    rows = 2 * channels - from;
    slots = (width + kInStep - 1) / kInStep;
  } else if (i >= first_words) {
    what = kWordSection;
    from = task / word_rows * kWordColumns;
    rows = words - from;
    slots = (width + kWordStep - 1) / kWordStep;
  } else if (i >= first_out) {
    what = kOutSection;
    from = task % out_tasks * kOutColumns;
    rows = width - from;
    slots = (channels + kOutStep - 1) / kOutStep;
  }
  plan[4 * i] = what;
  plan[4 * i + 1] = from;
  plan[4 * i + 2] = rows;
  plan[4 * i + 3] = slots;
}
// A place in the plan, and the slot for what is there.
struct Place {
  int layer;
  int task;
  int part;
  int slot;
  int turn;
};
Place ask = {0, 0, 0, 0, 1};  // turn 1: of a slot that was never filled
const auto advance = [&](MAMBA_PRIVATE Place& at) {
  ++at.part;
  if (at.part == plan[4 * at.task + 3]) {
    at.part = 0;
    ++at.task;
    if (at.task == first_words && at.layer + 1 < layers) {
      at.task = 0;
      ++at.layer;
    }
  }
  ++at.slot;
  if (at.slot == kSlots) {
    at.slot = 0;
    at.turn ^= 1;
  }
};
// Asks for what a slot is for, as one of `workers` that do so: SIMD groups.
const auto fill = [&](MAMBA_PRIVATE const Place& at, int worker, int workers) {
  const int what = plan[4 * at.task];
  const int from = plan[4 * at.task + 1];
  const int rows = plan[4 * at.task + 2];
  const auto slot = ring.slots + at.slot * kSlotLines;
  const auto arrived = arrivals + at.slot;
  if (what == kInSection) {
    const int k = at.part * kInStep;
    mamba_fill_slot<T, kInLines>(slot, in_proj + ((2 * int64_t(at.layer) * channels + from) * width + k),
                                 rows < kInColumns ? rows : kInColumns,
                                 width - k < kInStep ? (width - k) / kLine : kInLines, width, arrived, worker, workers);
  } else if (what == kOutSection) {
    const int k = at.part * kOutStep;
    mamba_fill_slot<T, kOutLines>(
        slot, out_proj + ((int64_t(at.layer) * width + from) * channels + k), rows < kOutColumns ? rows : kOutColumns,
        channels - k < kOutStep ? (channels - k) / kLine : kOutLines, channels, arrived, worker, workers);
  } else if (what == kWordSection) {
    const int k = at.part * kWordStep;
    mamba_fill_slot<T, kWordLines>(
        slot, output + (int64_t(from) * width + k), rows < kWordColumns ? rows : kWordColumns,
        width - k < kWordStep ? (width - k) / kLine : kWordLines, width, arrived, worker, workers);
  } else {
    // A SIMD group's states of a sequence at a time.
    const auto of_layer = ssm + int64_t(at.layer) * batch * channels * states;
    MAMBA_NO_UNROLL
    for (int j = worker; j < kWarps * kSlotStates; j += workers) {
      const int task = (from * kWarps + j % kWarps) * all + me;
      const int r = at.part * kSlotStates + j / kWarps;
      const int b = task / pieces * kSequences + r;
      if (r < kSequences && b < batch) {
        mamba_announce(arrived, 512);
        mamba_copy_ahead(slot + j * 32, of_layer + (b * channels + task % pieces * 8) * states, 512, arrived);
      }
    }
  }
  MAMBA_SIMD_BARRIER();
  if (lane == 0) {
    mamba_arrivals_told(arrived);
  }
};
MAMBA_BARRIER();
if constexpr (kFillers > 0) {
  // SIMD groups of their own fill slots as they become free, and wait for nothing else. kInFlight slots are on their
  // way at a time: with more, what other phases read and write waits in memory's queues.
  if (thread >= kThreads) {
    Place behind = ask;
    for (int count = 1; ask.task < plan_end; ++count) {
      mamba_await(freed + ask.slot, ask.turn);
      fill(ask, thread - kThreads, 32 * kFillers);
      advance(ask);
      if (count >= kInFlight) {
        mamba_await(arrivals + behind.slot, behind.turn ^ 1);
        advance(behind);
      }
    }
    return;
  }
}
// The last `count` slots of the ring are free again.
const auto free_slots = [&](int count) {
  if constexpr (kFillers > 0) {
    // Each thread tells, though a lane of each SIMD group would do: racecheck sees no order between lanes.
    for (int i = 0; i < count; ++i) {
      mamba_arrivals_told(freed + (ring.next > i ? ring.next - 1 - i : ring.next - 1 - i + kSlots));
    }
  } else {
    MAMBA_BARRIER();
    for (int i = 0; i < count && ask.task < plan_end; ++i) {
      if (warp == i % kWarps) {
        fill(ask, lane, 32);
      }
      advance(ask);
    }
  }
};
