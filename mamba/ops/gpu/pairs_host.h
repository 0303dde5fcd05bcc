// The words of pairs_cuda.h on the host, where copies, products and what is handed over are there at once. Part of
// dialect_host.h.
#pragma once

#define MAMBA_SHARED_FENCE() ((void)0)
#define MAMBA_ARRAY_FENCE() ((void)0)

MAMBA_FN unsigned char* mamba_aligned_room(unsigned char* room) {
  return room;
}
template <typename T>
MAMBA_FN T* mamba_at_partner(T* at) {
  return static_cast<T*>(mamba::ops::gpu::host::at_partner(at));
}
MAMBA_FN void mamba_arrive_at_partner(MambaArrival* arrival) {
  mamba_arrive(mamba_at_partner(arrival));
}
MAMBA_FN void mamba_hand4(float* to, float first, float second, float third, float fourth, MambaArrival* arrival) {
  float* const there = mamba_at_partner(to);
  there[0] = first;
  there[1] = second;
  there[2] = third;
  there[3] = fourth;
  mamba_count(mamba_at_partner(arrival), 16);
}
template <typename T>
MAMBA_FN void mamba_hand2(T* to, T first, T second, MambaArrival* arrival) {
  T* const there = mamba_at_partner(to);
  there[0] = first;
  there[1] = second;
  mamba_count(mamba_at_partner(arrival), 2 * sizeof(T));
}

template <typename T, typename To>
MAMBA_FN void mamba_send(const To& to, const T* from, int count) {
  mamba::check(count > 0 && count * sizeof(T) % 16 == 0, "a GPU kernel sends {} numbers", count);
  for (int i = 0; i < count; ++i) {
    to[i] = float(from[i]);
  }
}
MAMBA_FN void mamba_end_sends() {}
MAMBA_FN void mamba_await_sends() {}
template <int kLeft>
MAMBA_FN void mamba_await_sources() {}

template <typename Count>
MAMBA_FN void mamba_tell(const Count& count) {
  count[0] = int(count[0]) + 1;
}
template <typename Count>
MAMBA_FN void mamba_tell_sent(const Count& count) {
  mamba_tell(count);
}
template <typename Count>
MAMBA_FN void mamba_await_told(const Count& count, int wanted) {
  mamba::ops::gpu::host::wait_until([&] { return int(count[0]) - wanted >= 0; });
}

MAMBA_FN int mamba_block_place(int row, int k) {
  return row * 32 + (k ^ ((row >> 1 & 3) << 3));
}
MAMBA_FN void mamba_begin_products() {}
MAMBA_FN void mamba_end_products() {}
template <int kLeft, int kCount>
MAMBA_FN void mamba_await_products(float (&)[kCount]) {}
MAMBA_FN int mamba_weights_place(int row, int k) {
  return row * 64 + (k ^ ((row & 7) << 3));
}
// Number `at(row, column, k)` of a product's sides, of a thread's sums.
template <int kCount, typename At>
MAMBA_FN void mamba_add_products(float (&sums)[kCount], const At& at) {
  const int lane = MAMBA_THREAD % 32;
  for (int i = 0; i < kCount; ++i) {
    const int row = MAMBA_THREAD / 32 % 4 * 16 + lane / 4 + i / 2 % 2 * 8;
    const int column = i / 4 * 8 + lane % 4 * 2 + i % 2;
    for (int k = 0; k < 32; ++k) {
      sums[i] += at(row, column, k);
    }
  }
}
template <int kCount, typename T>
MAMBA_FN void mamba_product_of_weights(float (&sums)[kCount], const T* weights, int half, const T* block) {
  mamba_add_products(sums, [&](int row, int column, int k) {
    return float(weights[mamba_weights_place(row, 32 * half + k)]) * float(block[mamba_block_place(column, k)]);
  });
}
template <int kCount, typename T>
MAMBA_FN void mamba_product_with_weights(float (&sums)[kCount], const T* block, const T* weights, int half) {
  mamba_add_products(sums, [&](int row, int column, int k) {
    return float(block[mamba_block_place(row, k)]) * float(weights[mamba_weights_place(column, 32 * half + k)]);
  });
}
template <int kRows, typename Maps, typename T, typename From>
MAMBA_FN void mamba_bring_rows(T* to, const Maps&, int, const From& from, int k, int row, int length, int rows,
                               MambaArrival* arrival) {
  for (int r = 0; r < kRows; ++r) {
    for (int i = 0; i < 64; ++i) {
      const bool there = row + r < rows && k + i < length;
      to[mamba_weights_place(r, i)] = T(there ? float(from[int64_t(row + r) * length + k + i]) : 0.0f);
    }
  }
  mamba_count(arrival, kRows * 64 * static_cast<int64_t>(sizeof(T)));
}
template <typename Maps, typename T, typename From>
MAMBA_FN void mamba_bring_twins(T* to, const Maps&, const From& from, int k, int eight, int layer, int length,
                                int channels, MambaArrival* arrival) {
  for (int r = 0; r < 64; ++r) {
    const int64_t row = (int64_t(layer) * 2 + r / 8 % 2) * channels + (eight + r / 16) * 8 + r % 8;
    for (int i = 0; i < 64; ++i) {
      to[mamba_weights_place(r, i)] = T(float(from[row * length + k + i]));
    }
  }
  mamba_count(arrival, 64 * 64 * static_cast<int64_t>(sizeof(T)));
}
MAMBA_FN void mamba_keep4(float* to, float first, float second, float third, float fourth) {
  mamba_store4(to, make_float4(first, second, third, fourth));
}
template <typename To>
MAMBA_FN void mamba_store2(const To& to, float first, float second) {
  to[0] = first;
  to[1] = second;
}
