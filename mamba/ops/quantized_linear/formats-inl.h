// Inside quantized_linear: a group of codes times rows of x, for each format of codes. Included once per SIMD target.
//
// Codes of 8 bits are widened in order. Codes of 4 bits come 8 to a 32-bit lane, and a shift brings number i of every
// lane down. A unit of them is as many lanes as a group or a vector has, whichever is less, and fills the vector
// kRepeats times: repeat r is shifted by kNibbles / kRepeats more codes than the one before it. x is laid out to match,
// once for all rows of codes. With AVX-512 a group has a table of its 16 values, and the shifted lane is itself the
// index into it, since a permutation looks at four bits only.
#if defined(MAMBA_OPS_QUANTIZED_FORMATS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MAMBA_OPS_QUANTIZED_FORMATS_INL_H_
#undef MAMBA_OPS_QUANTIZED_FORMATS_INL_H_
#else
#define MAMBA_OPS_QUANTIZED_FORMATS_INL_H_
#endif

#include <algorithm>
#include <bit>

#include "hwy/highway.h"
#include "mamba/ops/quantized_linear/kernel.h"
#include "mamba/ops/quantized_linear/unpack-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::quantized_detail {
namespace HWY_NAMESPACE {

inline constexpr int kNibbles = 8;  // to a 32-bit lane

// Rows of x that share the codes once they are unpacked. Each format has its kColumnsOf 1 to kMaxRows rows, which share
// a load of x: as many as leave the registers that unpacking takes.
#if HWY_TARGET <= HWY_AVX3 || HWY_TARGET == HWY_NEON
inline constexpr int kMaxRows = 8;
#else
inline constexpr int kMaxRows = 4;
#endif

// Rows of x as the kernel reads them, at the begin of a segment.
struct Left {
  const float* x;
  int64_t x_stride;
};

// Rows of codes from one column on, at the begin of a segment, with the segment's scales and biases as floats.
struct Codes {
  const uint8_t* codes;
  int64_t row_bytes;
  const float* scales;
  const float* biases;
  int64_t groups;  // of the segment, and from one row's scales to the next's
  int64_t group_size;
};

template <int kRows, int kCols>
struct Sums {
  VF v[kRows][kCols];
};

template <int kRows, int kCols>
HWY_INLINE void multiply_add(const Left& left, int64_t at, const VF (&w)[kCols], Sums<kRows, kCols>& sums) {
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kRows; ++i) {
    const VF x = hn::Load(DF(), left.x + i * left.x_stride + at);
    MAMBA_CPU_UNROLL(8)
    for (int j = 0; j < kCols; ++j) {
      sums.v[i][j] = hn::MulAdd(x, w[j], sums.v[i][j]);
    }
  }
}

// The two formats: add_group() adds the products of group g, elements [at, at + group_size).

struct Bytes {
  static constexpr int kBits = 8;
  static constexpr int kColumnsOf[8] = {4, 4, kMaxRows == 8 ? 4 : 3, kMaxRows == 8 ? 4 : 2, 4, 4, 3, 3};

  template <int kRows, int kCols>
  static HWY_INLINE void add_group(const Left& left, const Codes& w, int64_t g, int64_t at, Sums<kRows, kCols>& sums) {
    VF scale[kCols];
    VF bias[kCols];
    MAMBA_CPU_UNROLL(8)
    for (int j = 0; j < kCols; ++j) {
      scale[j] = hn::Set(DF(), w.scales[j * w.groups + g]);
      bias[j] = hn::Set(DF(), w.biases[j * w.groups + g]);
    }
    for (const int64_t end = at + w.group_size; at < end; at += kLanes) {
      VF value[kCols];
      MAMBA_CPU_UNROLL(8)
      for (int j = 0; j < kCols; ++j) {
        const VF code = small_to_float(load_bytes(w.codes + j * w.row_bytes + at));
        value[j] = hn::MulAdd(code, scale[j], bias[j]);
      }
      multiply_add(left, at, value, sums);
    }
  }
};

// Lanes [0, kLanes / kRepeats), kRepeats times.
template <int kRepeats>
HWY_INLINE VU load_repeated(const uint8_t* p) {
  const auto* from = reinterpret_cast<const uint32_t*>(p);
  if constexpr (kRepeats == 1) {
    return hn::LoadU(DU(), from);
  } else if constexpr (kLanes / kRepeats == 4) {
    return hn::LoadDup128(DU(), from);
  } else {
#if HWY_TARGET <= HWY_AVX3
    return VU{_mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)))};
#else
    return hn::Zero(DU());
#endif
  }
}

template <int kRepeats>
struct Nibbles {
  static constexpr int kBits = 4;
  static constexpr int kColumnsOf[8] = {4, 4, kMaxRows == 8 ? 4 : 3, kMaxRows == 8 ? 4 : 2, 4, 3, 2, 2};
  static constexpr int kVectors = kNibbles / kRepeats;  // of a unit
  static constexpr int64_t kUnit = kVectors * kLanes;

  // Element `lane` of vector `vector` of x's unit.
  static constexpr int64_t element(int64_t vector, int64_t lane) {
    constexpr int64_t kRepeat = kLanes / kRepeats;
    return lane % kRepeat * kNibbles + lane / kRepeat * kVectors + vector;
  }

  // What code `kVector` of every lane's repeat stands for.
  template <int kVector>
  static HWY_INLINE VU shifted(VU lanes, VU repeat_shift) {
    if constexpr (kRepeats == 1) {
      return hn::ShiftRight<4 * kVector>(lanes);
    } else {
      return hn::Shr(lanes, hn::Add(repeat_shift, hn::Set(DU(), uint32_t{4 * kVector})));
    }
  }

  template <int kVector, int kRows, int kCols>
  static HWY_INLINE void add_vectors(const Left& left, int64_t at, const VU (&lanes)[kCols], VU repeat_shift,
                                     const VF (&scale)[kCols], const VF (&bias)[kCols], Sums<kRows, kCols>& sums) {
    if constexpr (kVector < kVectors) {
      VF value[kCols];
      MAMBA_CPU_UNROLL(8)
      for (int j = 0; j < kCols; ++j) {
        const VU code = shifted<kVector>(lanes[j], repeat_shift);
#if HWY_TARGET <= HWY_AVX3
        value[j] = VF{_mm512_permutexvar_ps(code.raw, scale[j].raw)};
#else
        value[j] = hn::MulAdd(small_to_float(hn::And(code, hn::Set(DU(), 15u))), scale[j], bias[j]);
#endif
      }
      multiply_add(left, at + kVector * kLanes, value, sums);
      add_vectors<kVector + 1>(left, at, lanes, repeat_shift, scale, bias, sums);
    }
  }

  template <int kRows, int kCols>
  static HWY_INLINE void add_group(const Left& left, const Codes& w, int64_t g, int64_t at, Sums<kRows, kCols>& sums) {
    VU repeat_shift = hn::Zero(DU());
    if constexpr (kRepeats > 1) {
      constexpr int kLaneShift = std::countr_zero(static_cast<unsigned>(kLanes / kRepeats));
      repeat_shift = hn::Mul(hn::ShiftRight<kLaneShift>(hn::Iota(DU(), 0)), hn::Set(DU(), uint32_t{4 * kVectors}));
    }
    // With AVX-512 `scale` is the table.
    VF scale[kCols];
    VF bias[kCols];
    MAMBA_CPU_UNROLL(8)
    for (int j = 0; j < kCols; ++j) {
      scale[j] = hn::Set(DF(), w.scales[j * w.groups + g]);
      bias[j] = hn::Set(DF(), w.biases[j * w.groups + g]);
#if HWY_TARGET <= HWY_AVX3
      scale[j] = hn::MulAdd(hn::Iota(DF(), 0.0f), scale[j], bias[j]);
#endif
    }
    for (const int64_t end = at + w.group_size; at < end; at += kUnit) {
      VU lanes[kCols];
      MAMBA_CPU_UNROLL(8)
      for (int j = 0; j < kCols; ++j) {
        lanes[j] = load_repeated<kRepeats>(w.codes + j * w.row_bytes + at / 2);
      }
      add_vectors<0>(left, at, lanes, repeat_shift, scale, bias, sums);
    }
  }
};

// The groups of a vector's lanes of 4 bits decide how often a unit is repeated.
inline int64_t repeats(const Quantized& weight) {
  return std::max<int64_t>(1, kLanes * kNibbles / weight.group_size);
}

// Calls f with the format of the codes.
template <typename F>
HWY_INLINE void with_format(const Quantized& weight, const F& f) {
  if (weight.bits == 8) {
    return f(Bytes());
  }
  if constexpr (kLanes >= 8) {
    if (repeats(weight) == 2) {
      return f(Nibbles<2>());
    }
  }
  if constexpr (kLanes >= 16) {
    if (repeats(weight) == 4) {
      return f(Nibbles<4>());
    }
  }
  return f(Nibbles<1>());
}

// x in the order in which codes come apart.
HWY_INLINE void spread_row(Bytes, float*, int64_t) {}

template <int kRepeats>
HWY_INLINE void spread_row(Nibbles<kRepeats>, float* row, int64_t k) {
#if HWY_TARGET == HWY_SCALAR
  (void)row, (void)k;
#else
  using Format = Nibbles<kRepeats>;
  HWY_ALIGN float unit[Format::kUnit];
  HWY_ALIGN int32_t of_lane[kLanes];
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    of_lane[lane] = static_cast<int32_t>(Format::element(0, lane));
  }
  const auto index = hn::Load(hn::RebindToSigned<DF>(), of_lane);
  for (int64_t at = 0; at < k; at += Format::kUnit) {
    std::copy_n(row + at, Format::kUnit, unit);
    for (int64_t i = 0; i < Format::kVectors; ++i) {
      hn::Store(hn::GatherIndex(DF(), unit + i, index), DF(), row + at + i * kLanes);
    }
  }
#endif
}

}  // namespace HWY_NAMESPACE
}  // namespace mamba::ops::quantized_detail
HWY_AFTER_NAMESPACE();

#endif
