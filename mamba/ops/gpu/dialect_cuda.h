// The words of kernel source on NVIDIA's GPUs. Text that is compiled at run time, in front of a kernel.
#define MAMBA_FN __device__ __forceinline__
#define MAMBA_PRIVATE
#define MAMBA_UNROLL _Pragma("unroll")
#define MAMBA_NO_UNROLL _Pragma("unroll 1")
#define MAMBA_SHARED(type, name, count) __shared__ type name[count]
// The same, the only one of a kernel that is launched with so much (Grid): more than 48 KB may be had like this.
#define MAMBA_SHARED_MORE(type, name, count)                         \
  extern __shared__ __align__(16) unsigned char mamba_shared_more[]; \
  type* const name = (type*)mamba_shared_more
#define MAMBA_SHARED_PTR(type) type*
// An input that the kernel writes to, by arrangement with whoever else reads it (Kernel).
#define MAMBA_WRITABLE(type, name) ((type*)(name))
#define MAMBA_BARRIER() __syncthreads()
// The same, and what the group wrote to arrays is seen by all of its threads.
#define MAMBA_DEVICE_BARRIER() __syncthreads()
// All groups of the launch, which must fit on the device at once. `counter`: an input, one int32 that only these use.
#define MAMBA_GRID_BARRIER(counter) mamba_grid_barrier((unsigned int*)(counter))
#define MAMBA_PREFETCH(at, bytes) mamba_prefetch(at, bytes)
#define MAMBA_SIMD_BARRIER() __syncwarp()
// The first `threads` of a group, for kernels whose others do something else: nothing but these barriers waits for all.
#define MAMBA_BARRIER_OF(threads) asm volatile("bar.sync 1, %0;" ::"n"(threads) : "memory")
#define MAMBA_GRID_BARRIER_OF(threads, counter)  \
  {                                              \
    MAMBA_BARRIER_OF(threads);                   \
    mamba_meet_groups((unsigned int*)(counter)); \
    MAMBA_BARRIER_OF(threads);                   \
  }
// What numbers of an array are in registers.
#define MAMBA_ELEMENT(array) decltype(mamba_element_of(array))
#define MAMBA_SHUFFLE(value, lane) __shfl_sync(0xffffffffu, value, lane)
#define MAMBA_SHUFFLE_XOR(value, mask) __shfl_xor_sync(0xffffffffu, value, mask)
#define MAMBA_THREAD int(threadIdx.x)
#define MAMBA_GROUP_X int(blockIdx.x)
#define MAMBA_GROUP_Y int(blockIdx.y)
#define MAMBA_GROUP_Z int(blockIdx.z)
#define MAMBA_GROUPS_X int(gridDim.x)
#define MAMBA_GROUPS_Z int(gridDim.z)

MAMBA_FN float mamba_float_of_bits(int bits) {
  return __int_as_float(bits);
}
MAMBA_FN int mamba_bits_of_float(float x) {
  return __float_as_int(x);
}
// x, of which the compiler knows only that it is not negative: what is made of it is not moved out of loops.
MAMBA_FN int mamba_anew(int x) {
  asm volatile("" : "+r"(x));
  __builtin_assume(x >= 0);
  return x;
}
// Whole pieces of 16 bytes, from such a piece on.
MAMBA_FN void mamba_prefetch(const void* at, int bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"((size_t)at & ~size_t(15)), "r"(bytes & ~15));
#else
  for (int i = 0; i < bytes; i += 128) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"((const char*)at + i));
  }
#endif
}
// The first group adds what turns the highest bit over once all have come, so the counter is ready for the next barrier
// without being reset. Groups that were not all on the device would wait for ever: after some seconds it is an error.
// Release and acquire cost 1.0 us on an H100, fences around a relaxed counter 1.3.
MAMBA_FN void mamba_meet_groups(unsigned int* counter) {
  if (threadIdx.x == 0) {
    const unsigned int groups = gridDim.x;
    const unsigned int mine = blockIdx.x == 0 ? 0x80000000u - (groups - 1u) : 1u;
    unsigned int before;
    unsigned int now;
    unsigned int polls = 0;
    asm volatile("atom.add.release.gpu.u32 %0, [%1], %2;" : "=r"(before) : "l"(counter), "r"(mine) : "memory");
    do {
      if (++polls == 0x1000000u) {
        __trap();
      }
      asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(now) : "l"(counter) : "memory");
    } while (((before ^ now) & 0x80000000u) == 0u);
  }
}
MAMBA_FN void mamba_grid_barrier(unsigned int* counter) {
  __syncthreads();
  mamba_meet_groups(counter);
  __syncthreads();
}
template <typename T>
MAMBA_FN T mamba_element_of(const T*);
MAMBA_FN float mamba_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// The reciprocal to a step or two of float32; that of infinity is 0.
MAMBA_FN float mamba_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
MAMBA_FN float mamba_rsqrt(float x) {
  return rsqrtf(x);
}
MAMBA_FN float mamba_log2(float x) {
  return __log2f(x);
}
MAMBA_FN float mamba_not_a_number() {
  return __int_as_float(0x7fc00000);
}
MAMBA_FN float mamba_sqrt(float x) {
  return sqrtf(x);
}
MAMBA_FN float mamba_fma(float a, float b, float c) {
  return fmaf(a, b, c);
}
MAMBA_FN float mamba_max(float a, float b) {
  return fmaxf(a, b);
}
// Of NaN and a number the number.
MAMBA_FN float mamba_min(float a, float b) {
  return fminf(a, b);
}
MAMBA_FN float mamba_abs(float x) {
  return fabsf(x);
}

MAMBA_FN float4 mamba_load4(const float* from) {
  return *(const float4*)from;
}
// To an array. The compiler may make four stores of one, which take six times as long.
MAMBA_FN void mamba_store4(float* to, float4 value) {
  asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(value.x), "f"(value.y), "f"(value.z),
               "f"(value.w)
               : "memory");
}

MAMBA_FN void mamba_store2(float* to, float first, float second) {
  *(float2*)to = make_float2(first, second);
}

MAMBA_FN float mamba_number_of(unsigned int word, int, const float*) {
  return __uint_as_float(word);
}
MAMBA_FN float mamba_number_of(unsigned int word, int half, const __nv_bfloat16*) {
  return __uint_as_float(half == 0 ? word << 16 : word & 0xffff0000u);
}
MAMBA_FN float mamba_number_of(unsigned int word, int half, const __half*) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"((unsigned short)(half == 0 ? word : word >> 16)));
  return x;
}
// Numbers that fill a word, rounded at once.
MAMBA_FN unsigned int mamba_word_of(float first, float, const float*) {
  return __float_as_uint(first);
}
MAMBA_FN unsigned int mamba_word_of(float first, float second, const __nv_bfloat16*) {
  unsigned int word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  return word;
}
MAMBA_FN unsigned int mamba_word_of(float first, float second, const __half*) {
  unsigned int word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  return word;
}
// kCount neighbouring numbers, as they are.
template <typename T, int kCount>
struct MambaNumbers {
  static constexpr int kPerWord = 4 / int(sizeof(T));
  static constexpr int kBytes = kCount * int(sizeof(T)) < 16 ? kCount * int(sizeof(T)) : 16;
  static constexpr int kWords = kCount < kPerWord ? 1 : kCount / kPerWord;
  struct alignas(kBytes < 4 ? 4 : kBytes) Words {
    unsigned int at[kWords];
  };
  Words words;

  // Whether load() and store() may be used `from` there on, and `step` further on.
  static MAMBA_FN bool whole(const T* from, int64_t step) {
    return ((size_t)from | (size_t)(step * int(sizeof(T)))) % kBytes == 0;
  }
  MAMBA_FN void load(const T* from) {
    if (kBytes < 4) {
      set(0, *from);
    } else {
      words = *(const Words*)from;
    }
  }
  MAMBA_FN void store(T* to) const {
    if (kBytes < 4) {
      *to = *(const T*)&words;
    } else {
      *(Words*)to = words;
    }
  }
  MAMBA_FN void set(int i, T number) {
    if (kPerWord == 1) {
      words.at[i] = *(const unsigned int*)&number;
    } else {
      const unsigned int bits = *(const unsigned short*)&number;
      unsigned int& word = words.at[i / 2];
      word = kCount == 1 ? bits : i % 2 == 0 ? (word & 0xffff0000u) | bits : (word & 0xffffu) | (bits << 16);
    }
  }
  MAMBA_FN void round(const float (&from)[kCount]) {
    MAMBA_UNROLL
    for (int i = 0; i < kWords; ++i) {
      const int second = kPerWord * i + 1;
      words.at[i] = mamba_word_of(from[kPerWord * i], second < kCount ? from[second] : 0.0f, (const T*)nullptr);
    }
  }
  MAMBA_FN float get(int i) const { return mamba_number_of(words.at[i / kPerWord], i % kPerWord, (const T*)nullptr); }
};

// Sixteen bytes of numbers.
template <typename T>
struct MambaLine {
  uint4 bits;
};
template <typename T>
MAMBA_FN MambaLine<T> mamba_no_line() {
  return {make_uint4(0u, 0u, 0u, 0u)};
}
// As many of its numbers as are left, then zeros. kWhole: all or none, and they lie on 16 bytes.
template <typename T, bool kWhole>
MAMBA_FN MambaLine<T> mamba_line(const T* from, int left) {
  MambaLine<T> line = mamba_no_line<T>();
  if (kWhole) {
    if (left > 0) {
      line.bits = *(const uint4*)from;
    }
    return line;
  }
  unsigned int words[4] = {0u, 0u, 0u, 0u};
  MAMBA_UNROLL
  for (int i = 0; i < 16 / int(sizeof(T)); ++i) {
    if (i < left) {
      words[i * int(sizeof(T)) / 4] |= sizeof(T) == 4
                                           ? ((const unsigned int*)from)[i]
                                           : (unsigned int)((const unsigned short*)from)[i] << (16 * (i % 2));
    }
  }
  line.bits = make_uint4(words[0], words[1], words[2], words[3]);
  return line;
}
// The same of what is constant for the launch and read once: it does not push other lines out of the first cache.
template <typename T, bool kWhole>
MAMBA_FN MambaLine<T> mamba_weight_line(const T* from, int left) {
  if (!kWhole) {
    return mamba_line<T, false>(from, left);
  }
  MambaLine<T> line = mamba_no_line<T>();
  asm("{\n"
      ".reg .pred any;\n"
      "setp.gt.s32 any, %5, 0;\n"
      "@any ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];\n"
      "}"
      : "+r"(line.bits.x), "+r"(line.bits.y), "+r"(line.bits.z), "+r"(line.bits.w)
      : "l"(from), "r"(left));
  return line;
}

// What arrives in a piece of shared memory is counted in its MambaArrivals: bytes are asked for by mamba_copy_ahead(),
// as many announced by mamba_announce(), and mamba_arrivals_told() after that, by `tellers` threads, makes it a turn.
// Whoever awaits a turn, 0 and 1 by turns, sees what came in it. Threads have passed a barrier since their last use of
// what was there before. Bytes: 16 or a multiple, lying on 16. Compute capability 9.
typedef unsigned long long MambaArrivals;
MAMBA_FN unsigned int mamba_shared_address(const void* at) {
  return (unsigned int)__cvta_generic_to_shared(at);
}
// By one thread, with a barrier before others use them.
MAMBA_FN void mamba_begin_arrivals(MambaArrivals* arrivals, int tellers) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\nfence.mbarrier_init.release.cluster;" ::"r"(
                   mamba_shared_address(arrivals)),
               "r"(tellers)
               : "memory");
}
MAMBA_FN void mamba_announce(MambaArrivals* arrivals, int bytes) {
  asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(mamba_shared_address(arrivals)),
               "r"(bytes)
               : "memory");
}
MAMBA_FN void mamba_arrivals_told(MambaArrivals* arrivals) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(mamba_shared_address(arrivals)) : "memory");
}
template <typename From>
MAMBA_FN void mamba_copy_ahead(void* to, const From* from, int bytes, MambaArrivals* arrivals) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   mamba_shared_address(to)),
               "l"(from), "r"(bytes), "r"(mamba_shared_address(arrivals))
               : "memory");
}
MAMBA_FN void mamba_await(MambaArrivals* arrivals, int turn) {
  unsigned int there;
  do {
    asm volatile(
        "{\n"
        ".reg .pred there;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 there, [%1], %2;\n"
        "selp.u32 %0, 1, 0, there;\n"
        "}"
        : "=r"(there)
        : "r"(mamba_shared_address(arrivals)), "r"(turn)
        : "memory");
  } while (there == 0u);
}
// Four floats that came as a line.
template <typename T>
MAMBA_FN float4 mamba_floats_of(const MambaLine<T>& line) {
  return make_float4(__uint_as_float(line.bits.x), __uint_as_float(line.bits.y), __uint_as_float(line.bits.z),
                     __uint_as_float(line.bits.w));
}

template <typename T>
MAMBA_FN float mamba_line_number(MambaLine<T> line, int i) {
  constexpr int kPerWord = 4 / int(sizeof(T));
  const int word = i / kPerWord;
  return mamba_number_of(word == 0   ? line.bits.x
                         : word == 1 ? line.bits.y
                         : word == 2 ? line.bits.z
                                     : line.bits.w,
                         i % kPerWord, (const T*)nullptr);
}
// A lane of 16 x 8 sums of products: of rows lane / 4 and 8 more, columns 2 (lane % 4) and the next. Neighbours of four
// have rows lane / 4 and 8 more of the left side, lane / 4 of the right.
#define MAMBA_PRODUCT(type, first, second)                                                                             \
  asm("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                                                           \
      ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "                                                            \
      "{%0, %1, %2, %3};"                                                                                              \
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])                                                     \
      : "r"(low.bits.first), "r"(high.bits.first), "r"(low.bits.second), "r"(high.bits.second), "r"(right.bits.first), \
        "r"(right.bits.second))
MAMBA_FN void mamba_tile_product(float (&sums)[4], MambaLine<__nv_bfloat16> low, MambaLine<__nv_bfloat16> high,
                                 MambaLine<__nv_bfloat16> right, int) {
  MAMBA_PRODUCT("bf16", x, y);
  MAMBA_PRODUCT("bf16", z, w);
}
MAMBA_FN void mamba_tile_product(float (&sums)[4], MambaLine<__half> low, MambaLine<__half> high,
                                 MambaLine<__half> right, int) {
  MAMBA_PRODUCT("f16", x, y);
  MAMBA_PRODUCT("f16", z, w);
}
// The same of a row of tiles: a half of the left side, which is four registers side by side, is used by all in turn.
template <int kTiles>
MAMBA_FN void mamba_tile_products(float (&tiles)[kTiles][4], MambaLine<__nv_bfloat16> low,
                                  MambaLine<__nv_bfloat16> high, const MambaLine<__nv_bfloat16> (&rights)[kTiles],
                                  int) {
  MAMBA_UNROLL
  for (int i = 0; i < 2 * kTiles; ++i) {
    float(&sums)[4] = tiles[i % kTiles];
    const MambaLine<__nv_bfloat16>& right = rights[i % kTiles];
    if (i < kTiles) {
      MAMBA_PRODUCT("bf16", x, y);
    } else {
      MAMBA_PRODUCT("bf16", z, w);
    }
  }
}
template <int kTiles>
MAMBA_FN void mamba_tile_products(float (&tiles)[kTiles][4], MambaLine<__half> low, MambaLine<__half> high,
                                  const MambaLine<__half> (&rights)[kTiles], int) {
  MAMBA_UNROLL
  for (int i = 0; i < 2 * kTiles; ++i) {
    float(&sums)[4] = tiles[i % kTiles];
    const MambaLine<__half>& right = rights[i % kTiles];
    if (i < kTiles) {
      MAMBA_PRODUCT("f16", x, y);
    } else {
      MAMBA_PRODUCT("f16", z, w);
    }
  }
}
#undef MAMBA_PRODUCT
// Each float32 as the sum of two numbers of 11 bits, three products of these: what is left out is 2^-21 of a product.
MAMBA_FN void mamba_tf32_product(float (&sums)[4], const unsigned int (&a)[4], unsigned int b0, unsigned int b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
MAMBA_FN unsigned int mamba_rest_of(unsigned int bits) {
  return __float_as_uint(__uint_as_float(bits) - __uint_as_float(bits & 0xffffe000u));
}
MAMBA_FN void mamba_tile_product(float (&sums)[4], MambaLine<float> low, MambaLine<float> high, MambaLine<float> right,
                                 int) {
  MAMBA_UNROLL
  for (int half = 0; half < 2; ++half) {
    const unsigned int a[4] = {half == 0 ? low.bits.x : low.bits.z, half == 0 ? high.bits.x : high.bits.z,
                               half == 0 ? low.bits.y : low.bits.w, half == 0 ? high.bits.y : high.bits.w};
    const unsigned int b[2] = {half == 0 ? right.bits.x : right.bits.z, half == 0 ? right.bits.y : right.bits.w};
    unsigned int a_large[4];
    unsigned int a_rest[4];
    MAMBA_UNROLL
    for (int i = 0; i < 4; ++i) {
      a_large[i] = a[i] & 0xffffe000u;
      a_rest[i] = mamba_rest_of(a[i]);
    }
    const unsigned int b_large[2] = {b[0] & 0xffffe000u, b[1] & 0xffffe000u};
    mamba_tf32_product(sums, a_rest, b_large[0], b_large[1]);
    mamba_tf32_product(sums, a_large, mamba_rest_of(b[0]), mamba_rest_of(b[1]));
    mamba_tf32_product(sums, a_large, b_large[0], b_large[1]);
  }
}
template <int kTiles>
MAMBA_FN void mamba_tile_products(float (&tiles)[kTiles][4], MambaLine<float> low, MambaLine<float> high,
                                  const MambaLine<float> (&rights)[kTiles], int lane) {
  MAMBA_UNROLL
  for (int n = 0; n < kTiles; ++n) {
    mamba_tile_product(tiles[n], low, high, rights[n], lane);
  }
}
