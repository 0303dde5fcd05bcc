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
