// What kernel source for CUDA needs of the types that MLX's header of device code has: in its place, when we compile.
// Arrays and numbers lie in memory as there.
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;

// Rounded as the lower of two: one alone would be rounded where exponentials are made, at a quarter of the speed.
struct alignas(2) __nv_bfloat16 {
  unsigned short bits;
  __nv_bfloat16() = default;
  __device__ __nv_bfloat16(float x) {
    unsigned int both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(0.0f), "f"(x));
    bits = (unsigned short)both;
  }
  __device__ operator float() const { return __uint_as_float((unsigned int)bits << 16); }
};

struct alignas(2) __half {
  unsigned short bits;
  __half() = default;
  __device__ __half(float x) {
    unsigned int both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(0.0f), "f"(x));
    bits = (unsigned short)both;
  }
  __device__ operator float() const {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
  }
};

namespace mlx {
namespace core {
namespace cu {

template <typename T>
struct PerAxis {
  T values[10];
  __device__ T operator[](int i) const { return values[i]; }
};
using Shape = PerAxis<int32_t>;
using Strides = PerAxis<int64_t>;

}  // namespace cu
}  // namespace core
}  // namespace mlx
