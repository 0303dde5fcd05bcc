// Lines of 16 bytes, what arrives in shared memory, and products of lines on tensor cores, on NVIDIA's GPUs. Follows
// dialect_cuda.h.

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
