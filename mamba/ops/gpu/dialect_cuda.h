// The words of kernel source on NVIDIA's GPUs. Text that is compiled at run time, in front of a kernel.
#define MAMBA_FN __device__ __forceinline__
#define MAMBA_PRIVATE
#define MAMBA_UNROLL _Pragma("unroll")
#define MAMBA_NO_UNROLL _Pragma("unroll 1")
#define MAMBA_SHARED(type, name, count) __shared__ type name[count]
#define MAMBA_SHARED_PTR(type) type*
#define MAMBA_BARRIER() __syncthreads()
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
