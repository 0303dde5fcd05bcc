// The words of streams_cuda.h on the host, where what is brought arrives at once. Part of dialect_host.h.
#pragma once

#define MAMBA_ALL_POSTED() mamba::ops::gpu::host::grid_barrier()

struct MambaArrival {
  int64_t expected;
  int64_t arrived;
  int phases;
  int tellers;
  int told;
};
MAMBA_FN void mamba_begin(MambaArrival* arrival, int tellers) {
  *arrival = {0, 0, 0, tellers, 0};
}
// More bytes are there. A phase ends when all have told and what they expect is there, which may come before they do.
MAMBA_FN void mamba_count(MambaArrival* arrival, int64_t bytes) {
  arrival->arrived += bytes;
  if (arrival->told == arrival->tellers && arrival->arrived == arrival->expected) {
    *arrival = {0, 0, arrival->phases + 1, arrival->tellers, 0};
  }
}
MAMBA_FN void mamba_expect(MambaArrival* arrival, int bytes) {
  mamba::check(arrival->told < arrival->tellers, "a GPU kernel expects {} bytes before others have come", bytes);
  ++arrival->told;
  arrival->expected += bytes;
  mamba_count(arrival, 0);
}
MAMBA_FN void mamba_arrive(MambaArrival* arrival) {
  mamba_expect(arrival, 0);
}
template <typename T, typename From>
MAMBA_FN void mamba_bring(T* to, const From& from, int count, MambaArrival* arrival) {
  mamba::check(count > 0 && count * sizeof(T) % 16 == 0, "a GPU kernel brings {} numbers", count);
  for (int i = 0; i < count; ++i) {
    to[i] = T(float(from[i]));
  }
  mamba_count(arrival, count * static_cast<int64_t>(sizeof(T)));
}
MAMBA_FN bool mamba_arrived(const MambaArrival* arrival, int parity) {
  return arrival->phases % 2 != parity;
}
MAMBA_FN void mamba_await(const MambaArrival* arrival, int parity) {
  mamba::ops::gpu::host::wait_until([&] { return mamba_arrived(arrival, parity); });
}

template <typename T, typename To>
MAMBA_FN void mamba_post(const To& mail, int i, T value, int round) {
  mail[2 * i] = float(value);
  mail[2 * i + 1] = float(round);
}
template <typename T>
constexpr int mamba_taken() {
  return 8 / int(sizeof(T));
}
template <typename T, int kPieces, typename From>
MAMBA_FN void mamba_take(const From& mail, int first, int apart, int count, int round,
                         float (&values)[kPieces * mamba_taken<T>()], int) {
  constexpr int kTaken = mamba_taken<T>();
  mamba::check(first % kTaken == 0 && count % kTaken == 0, "a GPU kernel takes numbers from {} to {}", first, count);
  for (int k = 0; k < kPieces * kTaken; ++k) {
    const int i = first + k / kTaken * apart + k % kTaken;
    values[k] = i < count ? float(mail[2 * i]) : 0.0f;
    mamba::check(i >= count || float(mail[2 * i + 1]) == float(round), "a GPU kernel takes what nobody has posted");
  }
}
