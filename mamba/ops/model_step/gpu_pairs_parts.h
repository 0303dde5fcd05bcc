// What the phases of gpu_pairs.h are made of (gpu_pairs_phases.h, the rest of the same body), for the threads that
// multiply: 16 SIMD groups, in four fours for products.

// At the beginning of a phase: what is worked out from a thread's number is worked out there, not kept in registers.
int four = warp / 4;
int in_four = warp % 4;
const auto begin = [&]() {
  thread = mamba_anew(MAMBA_THREAD);
  lane = thread % 32;
  warp = thread / 32;
  four = warp / 4;
  in_four = warp % 4;
};
// Each thread tells for itself: racecheck sees no order between the lanes of a SIMD group otherwise.
const auto tell = [&](MAMBA_SHARED_PTR(MambaArrival) arrival) {
  MAMBA_SIMD_BARRIER();
  mamba_arrive(arrival);
};
// Both groups of the pair that this one has done with something, and waits until both have.
const auto meet_partner = [&](MAMBA_SHARED_PTR(MambaArrival) arrival, int parity) {
  tell(arrival);
  if (lane == 0) {
    mamba_arrive_at_partner(arrival);
  }
  mamba_await(arrival, parity);
};
int slot = 0;  // of all that were brought, the next
int unit = 0;  // likewise
const auto await_slot = [&](int i) { mamba_await(filled + i % kSlots, i / kSlots % 2); };
const auto await_unit = [&](int i) { mamba_await(unit_filled + i % kUnits, i / kUnits % 2); };

// At the end of out_proj a thread has numbers `out` and the next of row `out_row` of the group's half of the rows.
const auto out_of = [&]() { return warp / 2 % 4 * 8 + lane % 4 * 2; };
const auto out_row_of = [&]() { return warp / 8 * 16 + warp % 2 * 8 + lane / 4; };
Residual h[2];
// x and the squares of h, with the norm's weights.
const auto make_x = [&](float first, float second) {
  const int out = out_of();
  const int row = out_row_of();
  const float low = float(h[0]);
  const float high = float(h[1]);
  float square = mamba_fma(low, low, high * high);
  square += MAMBA_SHUFFLE_XOR(square, 1);
  square += MAMBA_SHUFFLE_XOR(square, 2);
  if (lane % 4 == 0) {
    square_parts[warp / 2 % 4 * kOwn + row] = square;
  }
  const int at = mamba_block_place(row, out);
  own_x[at] = T(low * first);
  own_x[at + 1] = T(high * second);
  MAMBA_BARRIER_OF(kThreads);
  if (thread < kOwn) {
    own_squares[thread] = square_parts[thread] + square_parts[kOwn + thread] + square_parts[2 * kOwn + thread] +
                          square_parts[3 * kOwn + thread];
  }
  MAMBA_SHARED_FENCE();
  tell(x_made);
};
// A half of in_proj's or the words' length: of the tile of 64 rows for the group four / 2 of the pair.
const auto multiply_in = [&](MAMBA_PRIVATE float (&sums)[32]) {
  MAMBA_UNROLL
  for (int i = 0; i < 32; ++i) {
    sums[i] = 0.0f;
  }
  MAMBA_NO_UNROLL
  for (int i = 0; i < kInSlots; ++i) {
    if (i % 2 == 0) {
      await_unit(unit);
    }
    await_slot(slot);
    mamba_begin_products();
    mamba_product_of_weights(sums, slots + slot % kSlots * kSlot + four / 2 * (kSlot / 2), four % 2,
                             left + unit % kUnits * kSlot + (i % 2 * 2 + four % 2) * kBlock);
    mamba_end_products();
    if (i > 0) {
      mamba_await_products<1>(sums);
      tell(freed + (slot - 1) % kSlots);
      if (i % 2 == 0) {
        tell(unit_freed + (unit - 1) % kUnits);
      }
    }
    ++slot;
    unit += i % 2;
  }
  mamba_await_products<0>(sums);
  tell(freed + (slot - 1) % kSlots);
  tell(unit_freed + (unit - 1) % kUnits);
};
// A norm's factors.
const auto make_scales = [&](int parity) {
  mamba_await(squares_there, parity);
  MAMBA_UNROLL
  for (int i = 0; i < kRows / kWarps; ++i) {
    const int row = warp * (kRows / kWarps) + i;
    float sum = 0.0f;
    for (int part = lane; part < kPairs; part += 32) {
      sum += squares_in[part * kRows + row];
    }
    sum = mamba_lane_sum<32>(sum);
    if (lane == 0) {
      scales[row] = mamba_rsqrt(sum / float(kWidth) + eps);
    }
  }
};
// Gives a tile's part to the group whose it is. There four parts lie one behind the other, each a line of every
// thread's sums of eight columns after another.
const auto give_in = [&](MAMBA_PRIVATE float (&sums)[32], int parity) {
  meet_partner(in_done, parity);
  const auto to = (MAMBA_SHARED_PTR(float))left + ((half * 2 + four % 2) * 8 * 128 + thread % 128) * 4;
  if (thread == 0) {
    mamba_expect(in_there, 2 * 8 * 128 * 16);
  }
  if (four / 2 == half) {
    MAMBA_UNROLL
    for (int q = 0; q < 8; ++q) {
      mamba_keep4(to + q * 512, sums[4 * q], sums[4 * q + 1], sums[4 * q + 2], sums[4 * q + 3]);
    }
    tell(in_there);
  } else {
    MAMBA_UNROLL
    for (int q = 0; q < 8; ++q) {
      mamba_hand4(to + q * 512, sums[4 * q], sums[4 * q + 1], sums[4 * q + 2], sums[4 * q + 3], in_there);
    }
  }
};
// The four parts' sums: of rows r and r + 8 of the tile, each in columns c and c + 1, c = column_of(i).
const auto column_of = [&](int i) { return 16 * four + 8 * i + lane % 4 * 2; };
const auto take_in = [&](int i, MAMBA_PRIVATE float (&sums)[4]) {
  MAMBA_UNROLL
  for (int k = 0; k < 4; ++k) {
    sums[k] = 0.0f;
  }
  MAMBA_UNROLL
  for (int part = 0; part < 4; ++part) {
    const float4 of = mamba_load4((MAMBA_SHARED_PTR(float))left + ((part * 8 + 2 * four + i) * 128 + thread % 128) * 4);
    sums[0] += of.x;
    sums[1] += of.y;
    sums[2] += of.z;
    sums[3] += of.w;
  }
};
