// Words of kernels whose groups bring weights into shared memory far ahead of their use and hand numbers to one another
// without barriers: on NVIDIA's GPUs from compute capability 9 on. Follows dialect_cuda.h.

// On the host groups run one after another, and wait here for what is posted. All groups must pass it.
#define MAMBA_ALL_POSTED()

// Phases that threads wait for, one after another: each ends with mamba_arrive() by each of `tellers` threads, or one
// mamba_expect() and that many bytes' being brought. One thread begins it, before a barrier.
typedef MambaArrivals MambaArrival;
MAMBA_FN void mamba_begin(MambaArrival* arrival, int tellers) {
  mamba_begin_arrivals(arrival, tellers);
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
MAMBA_FN void mamba_arrive(MambaArrival* arrival) {
  mamba_arrivals_told(arrival);
}
MAMBA_FN void mamba_expect(MambaArrival* arrival, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(mamba_shared_address(arrival)), "r"(bytes)
               : "memory");
}
// `count` numbers, which fill and lie on pieces of 16 bytes, as do those before them. mamba_await(arrival, parity)
// waits until a phase is complete: the first has parity 0, the next 1, and so on.
template <typename T>
MAMBA_FN void mamba_bring(T* to, const T* from, int count, MambaArrival* arrival) {
  mamba_copy_ahead(to, from, count * int(sizeof(T)), arrival);
}

// A number for all groups is posted with the round that it belongs to, in one piece of twice its size, and taken once
// its round is there. `mail` has two floats for each number, which must have been 0 before; rounds are below 65536.
template <typename T>
MAMBA_FN void mamba_post(float* mail, int i, T value, int round) {
  if constexpr (sizeof(T) == 4) {
    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"((uint64_t*)mail + i),
                 "l"(((uint64_t)(unsigned int)round << 32) | __float_as_uint(value))
                 : "memory");
  } else {
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"((unsigned int*)mail + i),
                 "r"(((unsigned int)*(const unsigned short*)&value << 16) | (unsigned int)round)
                 : "memory");
  }
}
// How many numbers are taken at once.
template <typename T>
MAMBA_FN constexpr int mamba_taken() {
  return 8 / int(sizeof(T));
}
// kPieces pieces of so many neighbours, from number `first` on, `apart` from one another, those that lie below `count`;
// `first` and `count` are multiples of what is taken at once. Who has asked in vain pauses for so many ns: many that
// ask all the time are in the way of what they wait for.
template <typename T, int kPieces>
MAMBA_FN void mamba_take(const float* mail, int first, int apart, int count, int round,
                         float (&values)[kPieces * mamba_taken<T>()], int pause) {
  constexpr int kTaken = mamba_taken<T>();
  unsigned int words[kPieces][4];
  bool there = false;
  for (unsigned int polls = 0; !there; ++polls) {
    if (polls == 0x1000000u) {
      __trap();
    }
    if (polls > 0u) {
      __nanosleep(pause);
    }
    MAMBA_UNROLL
    for (int k = 0; k < kPieces; ++k) {
      if (first + k * apart < count) {
        const float* const at = mail + (first + k * apart) * (2 * int(sizeof(T)) / 4);
        if constexpr (sizeof(T) == 4) {
          uint64_t one;
          uint64_t other;
          asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];" : "=l"(one), "=l"(other) : "l"(at) : "memory");
          words[k][0] = (unsigned int)one;
          words[k][1] = (unsigned int)(one >> 32);
          words[k][2] = (unsigned int)other;
          words[k][3] = (unsigned int)(other >> 32);
        } else {
          asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                       : "=r"(words[k][0]), "=r"(words[k][1]), "=r"(words[k][2]), "=r"(words[k][3])
                       : "l"(at)
                       : "memory");
        }
      }
    }
    there = true;
    MAMBA_UNROLL
    for (int k = 0; k < kPieces; ++k) {
      MAMBA_UNROLL
      for (int i = 0; i < kTaken; ++i) {
        const unsigned int found = sizeof(T) == 4 ? words[k][2 * i + 1] : words[k][i] & 0xffffu;
        there = there && (first + k * apart >= count || found == (unsigned int)round);
      }
    }
  }
  MAMBA_UNROLL
  for (int k = 0; k < kPieces; ++k) {
    MAMBA_UNROLL
    for (int i = 0; i < kTaken; ++i) {
      values[k * kTaken + i] =
          sizeof(T) == 4 ? __uint_as_float(words[k][2 * i]) : mamba_number_of(words[k][i], 1, (const T*)nullptr);
    }
  }
}
