#include "mamba/ops/cpu/targets.h"  // before foreach_target.h
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mamba/ops/token_scores/token_scores.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "mamba/base/threads.h"
#include "mamba/ops/cpu/floats-inl.h"
#include "mamba/ops/cpu/math-inl.h"
#include "mamba/ops/token_scores/token_scores.h"

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::HWY_NAMESPACE {
namespace {

constexpr int64_t kLanes = static_cast<int64_t>(hn::MaxLanes(FloatTag()));
constexpr int64_t kAtOnce = 4;  // vectors, each the end of a chain

float largest_impl(const float* logits, int64_t count) {
  const FloatTag d;
  FloatVec high[kAtOnce];
  for (FloatVec& v : high) {
    v = hn::Set(d, -std::numeric_limits<float>::infinity());
  }
  int64_t i = 0;
  for (; i + kAtOnce * kLanes <= count; i += kAtOnce * kLanes) {
    MAMBA_CPU_UNROLL(4)
    for (int64_t j = 0; j < kAtOnce; ++j) {
      const FloatVec v = hn::LoadU(d, logits + i + j * kLanes);
      high[j] = hn::IfThenElse(hn::Gt(v, high[j]), v, high[j]);
    }
  }
  float largest = -std::numeric_limits<float>::infinity();
  for (const FloatVec& v : high) {
    largest = std::max(largest, hn::GetLane(hn::MaxOfLanes(d, v)));
  }
  for (; i < count; ++i) {
    largest = logits[i] > largest ? logits[i] : largest;
  }
  return largest;
}

// Floats are added up over a block, the blocks' sums in double: no error grows with the vocabulary.
double sum_of_exp_impl(const float* logits, int64_t count, float shift) {
  constexpr int64_t kBlock = 1024;
  const FloatTag d;
  const FloatVec shifts = hn::Set(d, shift);
  double total = 0;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = std::min(count, begin + kBlock);
    FloatVec sum = hn::Zero(d);
    int64_t i = begin;
    for (; i + kAtOnce * kLanes <= end; i += kAtOnce * kLanes) {
      FloatVec v[kAtOnce];
      MAMBA_CPU_UNROLL(4)
      for (int64_t j = 0; j < kAtOnce; ++j) {
        v[j] = hn::Sub(hn::LoadU(d, logits + i + j * kLanes), shifts);
      }
      exp_each(d, v);
      MAMBA_CPU_UNROLL(4)
      for (int64_t j = 0; j < kAtOnce; ++j) {
        sum = hn::Add(sum, v[j]);
      }
    }
    for (; i + kLanes <= end; i += kLanes) {
      sum = hn::Add(sum, exp(d, hn::Sub(hn::LoadU(d, logits + i), shifts)));
    }
    total += hn::GetLane(hn::SumOfLanes(d, sum));
    for (; i < end; ++i) {
      total += std::exp(static_cast<double>(logits[i]) - shift);
    }
  }
  return total;
}

}  // namespace
}  // namespace mamba::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mamba::ops {
HWY_EXPORT(largest_impl);
HWY_EXPORT(sum_of_exp_impl);

namespace {

// Logits in pieces, each thread's where its part of the product that made them most likely lies. No result depends on
// how many threads there are.
class Pieces {
 public:
  explicit Pieces(std::span<const float> logits)
      : logits_(logits), largest_((logits.size() + kPiece - 1) / kPiece), sums_(largest_.size()) {}

  // The largest logit.
  float find_largest() {
    if (!largest_.empty()) {
      run(RangeFn::to<&Pieces::find_each>(*this));
    }
    float largest = -std::numeric_limits<float>::infinity();
    for (const float of_piece : largest_) {
      largest = std::max(largest, of_piece);
    }
    return largest;
  }

  // Of a logit that is the largest, where it is first.
  int64_t index_of(float largest) const {
    for (size_t i = 0; i < largest_.size(); ++i) {
      if (largest_[i] == largest) {
        const std::span<const float> some = piece(i);
        if (const auto found = std::find(some.begin(), some.end(), largest); found != some.end()) {
          return static_cast<int64_t>(i * kPiece) + (found - some.begin());
        }
      }
    }
    return 0;
  }

  double sum_of_exp(float shift) {
    shift_ = shift;
    run(RangeFn::to<&Pieces::add_each>(*this));
    double sum = 0;
    for (const double of_piece : sums_) {
      sum += of_piece;
    }
    return sum;
  }

 private:
  static constexpr size_t kPiece = 2048;

  std::span<const float> piece(size_t i) const {
    return logits_.subspan(i * kPiece, std::min(kPiece, logits_.size() - i * kPiece));
  }

  void run(RangeFn body) const {
    const Phase phase{.count = static_cast<int64_t>(largest_.size()), .grain = 1, .body = body};
    parallel_phases({&phase, 1});
  }

  void find_each(int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      const std::span<const float> some = piece(i);
      largest_[i] = HWY_DYNAMIC_DISPATCH(largest_impl)(some.data(), static_cast<int64_t>(some.size()));
    }
  }

  void add_each(int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      const std::span<const float> some = piece(i);
      sums_[i] = HWY_DYNAMIC_DISPATCH(sum_of_exp_impl)(some.data(), static_cast<int64_t>(some.size()), shift_);
    }
  }

  std::span<const float> logits_;
  float shift_ = 0;
  std::vector<float> largest_;
  std::vector<double> sums_;
};

}  // namespace

int64_t largest_index(std::span<const float> logits) {
  Pieces pieces(logits);
  return pieces.index_of(pieces.find_largest());
}

double log_sum_exp(std::span<const float> logits) {
  Pieces pieces(logits);
  const float largest = pieces.find_largest();
  return std::isinf(largest) ? largest : largest + std::log(pieces.sum_of_exp(largest));
}

}  // namespace mamba::ops
#endif
