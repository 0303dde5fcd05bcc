// Products of rows with weights that come through a ring of slots in shared memory, in the dialect. Not on Metal, where
// no launch asks for them. A slot has kLines lines of each of some rows of weights; all lines lie on 16 bytes and are
// whole. What fills slots depends on no other group, so they are filled as far ahead as there is room, across barriers.

// Lines from one row of a slot to the next: two rows' lines of a block lie in different banks.
template <int kLines>
constexpr int kRowLines = kLines % 8 == 0 ? kLines + 4 : kLines;

// Asks for `lines` lines of each of `rows` rows of weights, `length` numbers apart, as one of `workers` that do so.
template <typename T, int kLines, typename Weights>
MAMBA_FN void mamba_fill_slot(MAMBA_SHARED_PTR(MambaLine<T>) slot, Weights weights, int rows, int lines, int length,
                              MAMBA_SHARED_PTR(MambaArrivals) arrivals, int worker, int workers) {
  const int bytes = lines * 16;
  if (worker < rows) {
    mamba_announce(arrivals, (rows - worker + workers - 1) / workers * bytes);
  }
  MAMBA_NO_UNROLL
  for (int row = worker; row < rows; row += workers) {
    mamba_copy_ahead(slot + row * kRowLines<kLines>, weights + row * length, bytes, arrivals);
  }
}

// A SIMD group's lines of 16 rows of x, those of its blocks of a slot: block `part` and each kParts-th from there on.
template <typename T, int kBlocks, int kParts, typename Rows>
MAMBA_FN void mamba_row_lines(Rows x, int rows, int length, int k, int part, int lane,
                              MAMBA_PRIVATE MambaLine<T> (&low)[kBlocks], MAMBA_PRIVATE MambaLine<T> (&high)[kBlocks]) {
  constexpr int kLine = 16 / int(sizeof(T));
  const int row = lane / 4;
  MAMBA_UNROLL
  for (int i = 0; i < kBlocks; ++i) {
    const int from = k + ((part + i * kParts) * 4 + lane % 4) * kLine;
    low[i] = mamba_line<T, true>(x + (row * length + from), row < rows ? length - from : 0);
    high[i] = mamba_line<T, true>(x + ((row + 8) * length + from), row + 8 < rows ? length - from : 0);
  }
}

// A ring of slots. Slot `next` is used next, when its arrivals are in turn `turn`.
template <typename T>
struct MambaRing {
  MAMBA_SHARED_PTR(MambaLine<T>) slots;
  MAMBA_SHARED_PTR(MambaArrivals) arrivals;
  int next;
  int turn;
};
// The next slot, once what was asked for is there.
template <int kSlots, int kSlotLines, typename T>
MAMBA_FN MAMBA_SHARED_PTR(MambaLine<T>) mamba_next_slot(MAMBA_PRIVATE MambaRing<T>& ring) {
  const auto slot = ring.slots + ring.next * kSlotLines;
  mamba_await(ring.arrivals + ring.next, ring.turn);
  ++ring.next;
  if (ring.next == kSlots) {
    ring.next = 0;
    ring.turn ^= 1;
  }
  return slot;
}

// The products of 16 rows of x with 8 kTiles rows of weights, `length` long: sums[n] as mamba_tile_product() has them,
// of the blocks that are `part` of kParts. The weights come in the ring's next slots; kAhead are used at a time, and
// then told to done(count). meanwhile() is done when x is on its way. The length is of whole blocks.
template <typename T, int kTiles, int kLines, int kParts, int kAhead, int kSlots, int kSlotLines, typename Rows,
          typename Meanwhile, typename Done>
MAMBA_FN void mamba_ring_product(Rows x, int rows, int length, int part, int lane, MAMBA_PRIVATE MambaRing<T>& ring,
                                 Meanwhile meanwhile, Done done, MAMBA_PRIVATE float (&sums)[kTiles][4]) {
  constexpr int kLine = 16 / int(sizeof(T));
  constexpr int kBlocks = kLines / 4 / kParts;
  constexpr int kStep = kLines * kLine;
  MAMBA_UNROLL
  for (int n = 0; n < kTiles; ++n) {
    MAMBA_UNROLL
    for (int i = 0; i < 4; ++i) {
      sums[n][i] = 0.0f;
    }
  }
  MambaLine<T> low[kAhead][kBlocks];
  MambaLine<T> high[kAhead][kBlocks];
  MAMBA_UNROLL
  for (int d = 0; d < kAhead; ++d) {
    mamba_row_lines<T, kBlocks, kParts>(x, rows, length, d * kStep, part, lane, low[d], high[d]);
  }
  meanwhile();
  MAMBA_NO_UNROLL
  for (int k = 0; k < length; k += kAhead * kStep) {
    int used = 0;
    MAMBA_UNROLL
    for (int d = 0; d < kAhead; ++d) {
      if (k + d * kStep < length) {
        const auto slot = mamba_next_slot<kSlots, kSlotLines>(ring);
        ++used;
        MAMBA_UNROLL
        for (int i = 0; i < kBlocks; ++i) {
          const int block = part + i * kParts;
          if (k + d * kStep + block * 4 * kLine < length) {
            MambaLine<T> right[kTiles];
            MAMBA_UNROLL
            for (int n = 0; n < kTiles; ++n) {
              right[n] = slot[(8 * n + lane / 4) * kRowLines<kLines> + block * 4 + lane % 4];
            }
            mamba_tile_products(sums, low[d][i], high[d][i], right, lane);
          }
        }
      }
    }
    if (k + kAhead * kStep < length) {
      MAMBA_UNROLL
      for (int d = 0; d < kAhead; ++d) {
        mamba_row_lines<T, kBlocks, kParts>(x, rows, length, k + (kAhead + d) * kStep, part, lane, low[d], high[d]);
      }
    }
    done(used);
  }
}

// Where column `column` of a row of kColumns lies when tiles are staged: a tile's rows in different banks.
template <int kColumns>
MAMBA_FN int mamba_stage_place(int row, int column) {
  return row * kColumns + (column ^ (kColumns % 32 == 0 ? row % 4 * 8 : kColumns % 32 == 16 ? row / 2 % 2 * 8 : 0));
}

// Leaves 16 rows of tiles in `stage`, as mamba_stage_place() has them.
template <int kTiles>
MAMBA_FN void mamba_stage_rows(MAMBA_PRIVATE float (&sums)[kTiles][4], MAMBA_SHARED_PTR(float) stage, int lane) {
  MAMBA_UNROLL
  for (int n = 0; n < kTiles; ++n) {
    MAMBA_UNROLL
    for (int half = 0; half < 2; ++half) {
      mamba_store2(stage + mamba_stage_place<8 * kTiles>(lane / 4 + half * 8, 8 * n + lane % 4 * 2), sums[n][2 * half],
                   sums[n][2 * half + 1]);
    }
  }
}
