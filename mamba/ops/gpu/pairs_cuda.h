// Words of kernels whose groups work in pairs, neighbours that reach one another's shared memory (Kernel), and of
// products whose both sides lie there: on NVIDIA's GPUs of compute capability 9.0. Follows streams_cuda.h.

// What threads wrote to shared memory before is seen by copies and products that begin after it.
#define MAMBA_SHARED_FENCE() asm volatile("fence.proxy.async.shared::cta;" ::: "memory")
// What others wrote to arrays, and this thread has learnt of, is seen by copies that it asks for after it.
#define MAMBA_ARRAY_FENCE() asm volatile("fence.proxy.async;" ::: "memory")

// The first place of `room` that lies on 1024 bytes, the same in both groups of a pair.
MAMBA_FN unsigned char* mamba_aligned_room(unsigned char* room) {
  return room + (1024u - mamba_shared_address(room) % 1024u) % 1024u;
}

// Where the partner has what this group has at `at`.
MAMBA_FN unsigned int mamba_at_partner(const void* at) {
  unsigned int rank;
  unsigned int there;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(mamba_shared_address(at)), "r"(rank ^ 1u));
  return there;
}
// Of the partner's arrival, which hands nothing over: only that this group has done with something.
MAMBA_FN void mamba_arrive_at_partner(MambaArrival* arrival) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(mamba_at_partner(arrival)) : "memory");
}
// 16 and 4 bytes into the partner's shared memory, which its `arrival` counts.
MAMBA_FN void mamba_hand4(float* to, float first, float second, float third, float fourth, MambaArrival* arrival) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
                   mamba_at_partner(to)),
               "f"(first), "f"(second), "f"(third), "f"(fourth), "r"(mamba_at_partner(arrival))
               : "memory");
}
MAMBA_FN void mamba_hand2(__nv_bfloat16* to, __nv_bfloat16 first, __nv_bfloat16 second, MambaArrival* arrival) {
  const unsigned int both = (unsigned int)*(const unsigned short*)&first | (unsigned int)*(const unsigned short*)&second
                                                                               << 16;
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%0], %1, [%2];" ::"r"(mamba_at_partner(to)),
               "r"(both), "r"(mamba_at_partner(arrival))
               : "memory");
}

// `count` numbers from shared memory to an array, in pieces of 16 bytes, after a MAMBA_SHARED_FENCE() of those who
// wrote them. What a thread has sent up to mamba_end_sends() is one group; mamba_await_sends() waits until no more than
// kLeft of its groups are on their way, mamba_await_sources() only until what they are copied from may be used again.
template <typename T>
MAMBA_FN void mamba_send(T* to, const T* from, int count) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(mamba_shared_address(from)),
               "r"(count * int(sizeof(T)))
               : "memory");
}
MAMBA_FN void mamba_end_sends() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
MAMBA_FN void mamba_await_sends() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}
template <int kLeft>
MAMBA_FN void mamba_await_sources() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kLeft) : "memory");
}

// Counts of what groups tell one another. mamba_tell(): what the group's threads wrote before, as far as this thread
// has learnt of it, is there for who has awaited it. mamba_tell_sent(): what this thread has sent and awaited, only.
MAMBA_FN void mamba_tell(int* count) {
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(count) : "memory");
}
MAMBA_FN void mamba_tell_sent(int* count) {
  asm volatile("red.relaxed.gpu.global.add.u32 [%0], 1;" ::"l"(count) : "memory");
}
MAMBA_FN void mamba_await_told(int* count, int wanted) {
  unsigned int now;
  unsigned int polls = 0;
  do {
    if (++polls == 0x1000000u) {
      __trap();
    }
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(count) : "memory");
  } while (int(now - (unsigned int)wanted) < 0);
}

// Where number k of row `row` lies in a block of rows of 32 numbers of 16 bits: products want lines of neighbouring
// rows in different banks. Blocks lie on 512 bytes.
MAMBA_FN int mamba_block_place(int row, int k) {
  return row * 32 + (k ^ ((row >> 1 & 3) << 3));
}
// Products of a block of 64 rows with one of kColumns rows, by 128 threads: a thread's sums[4 j + 2 i + h] is of row
// 16 (warp % 4) + lane / 4 + 8 i and column 8 j + 2 (lane % 4) + h. They begin with mamba_begin_products(), and are in
// groups that end with mamba_end_products(); mamba_await_products(): kLeft groups are not done at most.
MAMBA_FN void mamba_begin_products() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
MAMBA_FN void mamba_end_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kLeft, int kCount>
MAMBA_FN void mamba_await_products(float (&sums)[kCount]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kLeft) : "memory");
  if (kLeft == 0) {
    MAMBA_UNROLL
    for (int i = 0; i < kCount; ++i) {
      asm volatile("" : "+f"(sums[i]));
    }
  }
}
// Of rows of 32 numbers, and of 64.
MAMBA_FN unsigned long long mamba_block_descriptor(const void* block) {
  return (unsigned long long)((mamba_shared_address(block) & 0x3ffffu) >> 4) | 1ull << 16 | (512ull >> 4) << 32 |
         2ull << 62;
}
MAMBA_FN unsigned long long mamba_weights_descriptor(const void* block) {
  return (unsigned long long)((mamba_shared_address(block) & 0x3ffffu) >> 4) | 1ull << 16 | (1024ull >> 4) << 32 |
         1ull << 62;
}
#define MAMBA_SUMS4(i) "+f"(sums[i]), "+f"(sums[i + 1]), "+f"(sums[i + 2]), "+f"(sums[i + 3])
#define MAMBA_BLOCK_PRODUCT(columns, names, left, right, ...)                                                 \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32.bf16.bf16 {" names "}, " left ", " right \
               ", 1, 1, 1, 0, 0;"                                                                             \
               : __VA_ARGS__                                                                                  \
               : "l"(a), "l"(b))
#define MAMBA_NAMES16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
MAMBA_FN void mamba_half_block(float (&sums)[4], unsigned long long a, unsigned long long b) {
  MAMBA_BLOCK_PRODUCT(8, "%0, %1, %2, %3", "%4", "%5", MAMBA_SUMS4(0));
}
MAMBA_FN void mamba_half_block(float (&sums)[8], unsigned long long a, unsigned long long b) {
  MAMBA_BLOCK_PRODUCT(16, "%0, %1, %2, %3, %4, %5, %6, %7", "%8", "%9", MAMBA_SUMS4(0), MAMBA_SUMS4(4));
}
MAMBA_FN void mamba_half_block(float (&sums)[16], unsigned long long a, unsigned long long b) {
  MAMBA_BLOCK_PRODUCT(32, MAMBA_NAMES16, "%16", "%17", MAMBA_SUMS4(0), MAMBA_SUMS4(4), MAMBA_SUMS4(8), MAMBA_SUMS4(12));
}
MAMBA_FN void mamba_half_block(float (&sums)[20], unsigned long long a, unsigned long long b) {
  MAMBA_BLOCK_PRODUCT(40, MAMBA_NAMES16 ", %16, %17, %18, %19", "%20", "%21", MAMBA_SUMS4(0), MAMBA_SUMS4(4),
                      MAMBA_SUMS4(8), MAMBA_SUMS4(12), MAMBA_SUMS4(16));
}
MAMBA_FN void mamba_half_block(float (&sums)[32], unsigned long long a, unsigned long long b) {
  MAMBA_BLOCK_PRODUCT(64,
                      MAMBA_NAMES16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31",
                      "%32", "%33", MAMBA_SUMS4(0), MAMBA_SUMS4(4), MAMBA_SUMS4(8), MAMBA_SUMS4(12), MAMBA_SUMS4(16),
                      MAMBA_SUMS4(20), MAMBA_SUMS4(24), MAMBA_SUMS4(28));
}
#undef MAMBA_BLOCK_PRODUCT
#undef MAMBA_NAMES16
#undef MAMBA_SUMS4
// Half `half` of the length of a block of weights, 64 numbers, and a block of 32: weights on the left, or on the right.
template <int kCount>
MAMBA_FN void mamba_product_of_weights(float (&sums)[kCount], const __nv_bfloat16* weights, int half,
                                       const __nv_bfloat16* block) {
  const unsigned long long a = mamba_weights_descriptor(weights + half * 32);
  const unsigned long long b = mamba_block_descriptor(block);
  mamba_half_block(sums, a, b);
  mamba_half_block(sums, a + 2, b + 2);
}
template <int kCount>
MAMBA_FN void mamba_product_with_weights(float (&sums)[kCount], const __nv_bfloat16* block,
                                         const __nv_bfloat16* weights, int half) {
  const unsigned long long a = mamba_block_descriptor(block);
  const unsigned long long b = mamba_weights_descriptor(weights + half * 32);
  mamba_half_block(sums, a, b);
  mamba_half_block(sums, a + 2, b + 2);
}

// Blocks of weights by the device's own copies of boxes of an array: `maps` has 128 bytes for each array
// (tensor_map.h), which say what a box is. Read once in a step: they are the first to leave the second cache.
#define MAMBA_READ_ONCE 0x12f0000000000000ull
// kRows rows from `row` on, numbers k to k + 63 of `length`; zeros behind the array's end.
template <int kRows, typename Maps, typename T, typename From>
MAMBA_FN void mamba_bring_rows(T* to, Maps maps, int which, From, int k, int row, int, int, MambaArrival* arrival) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%2, "
      "%3}], [%4], %5;" ::"r"(mamba_shared_address(to)),
      "l"((const char*)maps + 128 * which), "r"(k), "r"(row), "r"(mamba_shared_address(arrival)), "l"(MAMBA_READ_ONCE)
      : "memory");
}
// Of map 0: four eights of a layer's first rows from eight `eight` on, each followed by the same eight of the second.
template <typename Maps, typename T, typename From>
MAMBA_FN void mamba_bring_twins(T* to, Maps maps, From, int k, int eight, int layer, int, int, MambaArrival* arrival) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%2, "
      "%6, %6, %3, %4}], [%5], %7;" ::"r"(mamba_shared_address(to)),
      "l"(maps), "r"(k), "r"(eight), "r"(layer), "r"(mamba_shared_address(arrival)), "r"(0), "l"(MAMBA_READ_ONCE)
      : "memory");
}

// Four floats to shared memory.
MAMBA_FN void mamba_keep4(float* to, float first, float second, float third, float fourth) {
  *(float4*)to = make_float4(first, second, third, fourth);
}
