// The words of kernel source on Apple's GPUs. Text that is compiled at run time, in front of a kernel; docs/metal.md
// lists what it uses of the Metal Shading Language. MLX declares the attributes that kernel source names.
#define MAMBA_FN inline
#define MAMBA_PRIVATE thread
#define MAMBA_UNROLL _Pragma("clang loop unroll(full)")
#define MAMBA_NO_UNROLL _Pragma("clang loop unroll(disable)")
#define MAMBA_SHARED(type, name, count) threadgroup type name[count]
// No launch asks for more there.
#define MAMBA_SHARED_MORE(type, name, count) MAMBA_SHARED(type, name, count)
#define MAMBA_SHARED_PTR(type) threadgroup type*
#define MAMBA_WRITABLE(type, name) mamba_writable(name)
#define MAMBA_BARRIER() threadgroup_barrier(mem_flags::mem_threadgroup)
#define MAMBA_DEVICE_BARRIER() threadgroup_barrier(mem_flags::mem_threadgroup | mem_flags::mem_device)
// Metal does not promise that all groups run at once: no launch asks for this there.
#define MAMBA_GRID_BARRIER(counter) MAMBA_DEVICE_BARRIER()
#define MAMBA_PREFETCH(at)
#define MAMBA_SHUFFLE(value, lane) simd_shuffle(value, ushort(lane))
#define MAMBA_SHUFFLE_XOR(value, mask) simd_shuffle_xor(value, ushort(mask))
#define MAMBA_THREAD int(mamba_thread.x)
#define MAMBA_GROUP_X int(mamba_group.x)
#define MAMBA_GROUP_Y int(mamba_group.y)
#define MAMBA_GROUP_Z int(mamba_group.z)
#define MAMBA_GROUPS_X int(mamba_groups.x)
#define MAMBA_GROUPS_Z int(mamba_groups.z)

template <typename T>
device T* mamba_writable(const device T* at) {
  return (device T*)at;
}
// What stands in for an absent input may lie here; nobody writes to it.
template <typename T>
device T* mamba_writable(const constant T*) {
  return nullptr;
}
MAMBA_FN float mamba_float_of_bits(int bits) {
  return as_type<float>(bits);
}
MAMBA_FN int mamba_bits_of_float(float x) {
  return as_type<int>(x);
}
MAMBA_FN float mamba_exp2(float x) {
  return metal::fast::exp2(x);
}
MAMBA_FN float mamba_reciprocal(float x) {
  return 1.0f / x;
}
MAMBA_FN float mamba_rsqrt(float x) {
  return metal::precise::rsqrt(x);
}
MAMBA_FN float mamba_log2(float x) {
  return metal::precise::log2(x);
}
MAMBA_FN float mamba_not_a_number() {
  return as_type<float>(0x7fc00000);
}
MAMBA_FN float mamba_sqrt(float x) {
  return metal::precise::sqrt(x);
}
MAMBA_FN float mamba_fma(float a, float b, float c) {
  return metal::fma(a, b, c);
}
MAMBA_FN float mamba_max(float a, float b) {
  return metal::max(a, b);
}
MAMBA_FN float mamba_min(float a, float b) {
  return metal::min(a, b);
}
MAMBA_FN float mamba_abs(float x) {
  return metal::abs(x);
}
MAMBA_FN float2 make_float2(float x, float y) {
  return float2(x, y);
}
MAMBA_FN float4 make_float4(float x, float y, float z, float w) {
  return float4(x, y, z, w);
}

// kCount neighbouring numbers, as they are.
template <typename T, int kCount>
struct MambaNumbers {
  T at[kCount];
  template <typename From>
  static bool whole(From, int64_t) {
    return true;
  }
  template <typename From>
  void load(From from) {
    for (int i = 0; i < kCount; ++i) {
      at[i] = from[i];
    }
  }
  template <typename To>
  void store(To to) const {
    for (int i = 0; i < kCount; ++i) {
      to[i] = at[i];
    }
  }
  void set(int i, T number) { at[i] = number; }
  void round(thread const float (&from)[kCount]) {
    for (int i = 0; i < kCount; ++i) {
      at[i] = T(from[i]);
    }
  }
  float get(int i) const { return float(at[i]); }
};
