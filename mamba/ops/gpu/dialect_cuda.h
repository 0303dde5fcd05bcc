// The words of kernel source on NVIDIA's GPUs. Text that is compiled at run time, in front of a kernel.
#define MAMBA_FN __device__ __forceinline__
#define MAMBA_PRIVATE
#define MAMBA_UNROLL _Pragma("unroll")
#define MAMBA_NO_UNROLL _Pragma("unroll 1")
#define MAMBA_SHARED(type, name, count) __shared__ type name[count]
#define MAMBA_SHARED_PTR(type) type*
#define MAMBA_BARRIER() __syncthreads()
// The same, and what the group wrote to arrays is seen by all of its threads.
#define MAMBA_DEVICE_BARRIER() __syncthreads()
// All groups of the launch, which must fit on the device at once. `counter`: an input, one int32 that only these use.
#define MAMBA_GRID_BARRIER(counter) mamba_grid_barrier((unsigned int*)(counter))
#define MAMBA_PREFETCH(at) mamba_prefetch(at)
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
MAMBA_FN void mamba_prefetch(const void* at) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
}
// The first group adds what turns the highest bit over once all have come, so the counter is ready for the next barrier
// without being reset. Groups that were not all on the device would wait for ever: after some seconds it is an error.
MAMBA_FN void mamba_grid_barrier(unsigned int* counter) {
  __syncthreads();
  if (threadIdx.x == 0) {
    const unsigned int groups = gridDim.x;
    const unsigned int mine = blockIdx.x == 0 ? 0x80000000u - (groups - 1u) : 1u;
    __threadfence();
    const unsigned int before = atomicAdd(counter, mine);
    unsigned int polls = 0;
    while (((before ^ *(volatile unsigned int*)counter) & 0x80000000u) == 0u) {
      if (++polls == 0x1000000u) {
        __trap();
      }
    }
    __threadfence();
  }
  __syncthreads();
}
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
MAMBA_FN float mamba_abs(float x) {
  return fabsf(x);
}
