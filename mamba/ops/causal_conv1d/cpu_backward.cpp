// The backward convolution on a CPU. A task is one row of the batch and some neighbouring blocks of channels, which
// walk through time together, one tile after the other, so that they share the pages they touch. The output before SiLU
// is computed again; its cotangent g then goes to the weights (g x), to the bias (g) and to the K inputs that the
// output saw (g w). The latter are collected in a strip of scratch memory that covers a tile of time and the K - 1
// positions before it. Once a tile is done, all but its last K - 1 positions are complete and written out. A position
// before the span is a row of the initial state; what an output does not see, because a reset hides it or because it
// was never given, gets nothing from it.
//
// Where outputs see K positions of x each, as most do, they need none of that: the last K inputs, their cotangents and
// all sums of a vector of channels stay in registers (plain_back). Either way every number is the same sum in the same
// order.
//
// Every sum runs through time in order, and rows of the batch are added in order: nothing depends on the threads.

#include "mamba/ops/cpu/targets.h"  // before foreach_target.h
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mamba/ops/causal_conv1d/cpu_backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <hwy/cache_control.h>

#include <algorithm>
#include <cstring>

#include "mamba/base/threads.h"
#include "mamba/ops/causal_conv1d/kernel.h"
#include "mamba/ops/causal_conv1d/pack-inl.h"
#include "mamba/ops/cpu/floats-inl.h"
#include "mamba/ops/cpu/math-inl.h"
#include "mamba/ops/cpu/prefetch.h"

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::HWY_NAMESPACE {
namespace {

using conv::kBlock;

constexpr int64_t kTile = 32;
constexpr int64_t kPlainTile = 8;  // more rows, in steps of some KB, would not stay in the first-level cache
constexpr int64_t kMaxGroup = 16;
constexpr int64_t kLanes = static_cast<int64_t>(hn::MaxLanes(FloatTag()));
static_assert(kBlock % kLanes == 0, "a block is made of whole vectors");

template <typename T>
class BlockBack {
 public:
  // Floats of memory that a block needs.
  static int64_t floats(int64_t taps) {
    const int64_t pointers = taps * static_cast<int64_t>(sizeof(const T*) / sizeof(float));
    return (kTile + taps - 1) * kBlock + (pointers + 15) / 16 * 16;
  }

  BlockBack() = default;

  BlockBack(const conv::Inputs& in, const conv::Gradients& out, const Packed& packed, int64_t b, int64_t block,
            float* memory)
      : in_(&in),
        out_(&out),
        packed_(packed),
        b_(b),
        first_(block * kBlock),
        count_(std::min(kBlock, in.channels - first_)),
        before_(in.taps - 1),
        sums_(out.shares + (b * conv::num_blocks(in.channels) + block) * (in.taps + 1) * kBlock),
        strip_(memory),
        rows_(reinterpret_cast<const T**>(memory + (kTile + before_) * kBlock)) {
    std::tie(begin_, end_) = cpu::span_of(in.spans, b, in.length);
    std::fill_n(sums_, (in.taps + 1) * kBlock, 0.0f);
    std::fill_n(strip_, (kTile + before_) * kBlock, 0.0f);
  }

  // Positions [t0, t1), at most kTile of them, each call going on where the last one ended.
  void walk(int64_t t0, int64_t t1) const {
    const int64_t from = std::clamp(begin_, t0, t1);
    const int64_t to = std::clamp(end_, from, t1);
    clear(t0, from);
    clear(to, t1);
    for (int64_t t = from; t < to;) {
      const bool plain = is_plain(t);
      int64_t next = t + 1;
      while (next < to && is_plain(next) == plain) {
        ++next;
      }
      if (plain) {
        plain_back(t, next);
      } else {
        outputs_back(t, next);
      }
      t = next;
    }
  }

  void finish() const {
    if (out_->gstate != nullptr) {
      state_back();
    }
    write(end_ - before_, before_);
  }

 private:
  // Whether output t sees K positions of x.
  bool is_plain(int64_t t) const {
    const int64_t first = t - before_;
    return in_->taps >= 2 && in_->taps <= 4 && first >= begin_ && conv::first_visible(*in_, b_, begin_, t) <= first;
  }

  void plain_back(int64_t from, int64_t to) const {
    for (int64_t t = from; t < to; t += kPlainTile) {
      const int64_t end = std::min(to, t + kPlainTile);
      for (int64_t c = 0; c < count_; c += kLanes) {
        switch (in_->taps) {
          case 2:
            plain_vector_back<2>(t, end, c);
            break;
          case 3:
            plain_vector_back<3>(t, end, c);
            break;
          default:
            plain_vector_back<4>(t, end, c);
        }
      }
    }
  }

  // The strip's first K - 1 rows are what the inputs before `from` have so far, and then before `to`.
  template <int kTaps>
  void plain_vector_back(int64_t from, int64_t to, int64_t c) const {
    const FloatTag d;
    const FloatVec one = hn::Set(d, 1.0f);
    const size_t left = lanes_at(c);
    const auto x_at = [&](int64_t t) HWY_ATTR { return load_some(d, in_->x.row<T>(b_, t) + first_ + c, left); };
    FloatVec weight[kTaps], sum[kTaps], input[kTaps], x[kTaps];
    for (int k = 0; k < kTaps; ++k) {
      weight[k] = hn::LoadU(d, packed_.weight + k * packed_.stride + first_ + c);
      sum[k] = hn::LoadU(d, sums_ + k * kBlock + c);
    }
    for (int k = 0; k + 1 < kTaps; ++k) {
      input[k] = hn::LoadU(d, strip_ + k * kBlock + c);
      x[k] = x_at(from - before_ + k);
    }
    input[kTaps - 1] = hn::Zero(d);
    const FloatVec bias = hn::LoadU(d, packed_.bias + first_ + c);
    FloatVec bias_sum = hn::LoadU(d, sums_ + kTaps * kBlock + c);
    const bool starts_line = c % (64 / static_cast<int64_t>(sizeof(T))) == 0;
    for (int64_t t = from; t < to; ++t) {
      if (starts_line) {
        fetch_ahead(t + kPlainTile, c);
      }
      x[kTaps - 1] = x_at(t);
      FloatVec g = load_some(d, out_->gy.row<T>(b_, t) + first_ + c, left);
      if (in_->silu) {
        FloatVec v = bias;
        for (int k = 0; k < kTaps; ++k) {
          v = hn::MulAdd(weight[k], x[k], v);
        }
        g = hn::Mul(g, silu_slope(d, v, one));
      }
      for (int k = 0; k < kTaps; ++k) {
        sum[k] = hn::MulAdd(g, x[k], sum[k]);
        input[k] = hn::MulAdd(g, weight[k], input[k]);
      }
      bias_sum = hn::Add(g, bias_sum);
      store_some(d, input[0], static_cast<T*>(out_->x) + (b_ * in_->length + t - before_) * out_->x_stride + first_ + c,
                 left);
      for (int k = 0; k + 1 < kTaps; ++k) {
        input[k] = input[k + 1];
        x[k] = x[k + 1];
      }
      input[kTaps - 1] = hn::Zero(d);
    }
    for (int k = 0; k < kTaps; ++k) {
      hn::StoreU(sum[k], d, sums_ + k * kBlock + c);
    }
    for (int k = 0; k + 1 < kTaps; ++k) {
      hn::StoreU(input[k], d, strip_ + k * kBlock + c);
    }
    hn::StoreU(bias_sum, d, sums_ + kTaps * kBlock + c);
  }

  // What is read and written for the output at t: a tile's rows lie far apart.
  HWY_INLINE void fetch_ahead(int64_t t, int64_t c) const {
    if (t < end_) {
      hwy::Prefetch(in_->x.row<T>(b_, t) + first_ + c);
      hwy::Prefetch(out_->gy.row<T>(b_, t) + first_ + c);
      cpu::prefetch_to_write(static_cast<const T*>(out_->x) + (b_ * in_->length + t - before_) * out_->x_stride +
                             first_ + c);
    }
  }

  void outputs_back(int64_t from, int64_t to) const {
    for (int64_t t = from; t < to; ++t) {
      output_back(t, strip_ + (t - from) * kBlock);
    }
    const int64_t complete = to - from;
    write(from - before_, complete);
    std::memmove(strip_, strip_ + complete * kBlock, static_cast<size_t>(before_ * kBlock) * sizeof(float));
    std::fill_n(strip_ + before_ * kBlock, complete * kBlock, 0.0f);
  }

  // silu'(v) = s (1 + v (1 - s))
  static HWY_INLINE FloatVec silu_slope(FloatTag d, FloatVec v, FloatVec one) {
    const FloatVec s = sigmoid(d, v);
    return hn::Mul(s, hn::MulAdd(v, hn::Sub(one, s), one));
  }

  size_t lanes_at(int64_t c) const { return static_cast<size_t>(count_ - c); }

  void clear(int64_t from, int64_t to) const {
    for (int64_t t = from; t < to; ++t) {
      std::fill_n(static_cast<T*>(out_->x) + (b_ * in_->length + t) * out_->x_stride + first_, count_, T(0.0f));
    }
  }

  // Output t; its first tap lies at `strip`.
  void output_back(int64_t t, float* strip) const {
    const FloatTag d;
    const FloatVec one = hn::Set(d, 1.0f);
    const int64_t visible = conv::first_visible(*in_, b_, begin_, t);
    for (int64_t k = 0; k < in_->taps; ++k) {
      const T* row = conv::row_at<T>(*in_, b_, begin_, visible, t - before_ + k);
      rows_[k] = row == nullptr ? nullptr : row + first_;
    }
    const T* gy = out_->gy.row<T>(b_, t) + first_;
    float* bias_sum = sums_ + in_->taps * kBlock;
    for (int64_t c = 0; c < count_; c += kLanes) {
      const size_t left = lanes_at(c);
      const float* weight = packed_.weight + first_ + c;
      FloatVec g = load_some(d, gy + c, left);
      if (in_->silu) {
        FloatVec v = hn::LoadU(d, packed_.bias + first_ + c);
        for (int64_t k = 0; k < in_->taps; ++k) {
          if (rows_[k] != nullptr) {
            v = hn::MulAdd(hn::LoadU(d, weight + k * packed_.stride), load_some(d, rows_[k] + c, left), v);
          }
        }
        g = hn::Mul(g, silu_slope(d, v, one));
      }
      for (int64_t k = 0; k < in_->taps; ++k) {
        if (rows_[k] != nullptr) {
          float* weight_sum = sums_ + k * kBlock + c;
          float* input = strip + k * kBlock + c;
          const FloatVec x = load_some(d, rows_[k] + c, left);
          hn::StoreU(hn::MulAdd(g, x, hn::LoadU(d, weight_sum)), d, weight_sum);
          const FloatVec w = hn::LoadU(d, weight + k * packed_.stride);
          hn::StoreU(hn::MulAdd(g, w, hn::LoadU(d, input)), d, input);
        }
      }
      hn::StoreU(hn::Add(g, hn::LoadU(d, bias_sum + c)), d, bias_sum + c);
    }
  }

  // The final state is a copy of the last rows, as far as they are visible.
  void state_back() const {
    const FloatTag d;
    const int64_t visible = end_ == begin_ ? INT64_MIN : conv::first_visible(*in_, b_, begin_, end_ - 1);
    for (int64_t i = std::max<int64_t>(0, visible == INT64_MIN ? 0 : visible - (end_ - before_)); i < before_; ++i) {
      const T* row = static_cast<const T*>(out_->gstate) + (b_ * before_ + i) * in_->channels + first_;
      for (int64_t c = 0; c < count_; c += kLanes) {
        float* input = strip_ + i * kBlock + c;
        hn::StoreU(hn::Add(hn::LoadU(d, input), load_some(d, row + c, lanes_at(c))), d, input);
      }
    }
  }

  // The strip's first `count` positions, which begin at p.
  void write(int64_t p, int64_t count) const {
    const FloatTag d;
    for (int64_t i = 0; i < count; ++i, ++p) {
      T* row = nullptr;
      if (p >= begin_) {
        row = static_cast<T*>(out_->x) + (b_ * in_->length + p) * out_->x_stride;
      } else if (out_->initial_state != nullptr) {
        row = static_cast<T*>(out_->initial_state) + (b_ * before_ + before_ + p - begin_) * in_->channels;
      }
      for (int64_t c = 0; row != nullptr && c < count_; c += kLanes) {
        store_some(d, hn::LoadU(d, strip_ + i * kBlock + c), row + first_ + c, lanes_at(c));
      }
    }
  }

  const conv::Inputs* in_;
  const conv::Gradients* out_;
  Packed packed_;
  int64_t b_;
  int64_t first_;   // channel
  int64_t count_;   // channels
  int64_t before_;  // K - 1
  int64_t begin_;
  int64_t end_;
  float* sums_;     // (K + 1, kBlock): gradients of the weights and the bias
  float* strip_;    // (kTile + K - 1, kBlock)
  const T** rows_;  // (K): where the taps of an output are
};

// Adds the rows of the batch: numbers [c * stride + offset] of the gradient for channel c.
void add_batch(const conv::Inputs& in, const float* shares, int64_t which, cpu::Element element, int64_t stride,
               int64_t offset, void* out) {
  const int64_t blocks = conv::num_blocks(in.channels);
  cpu::visit(element, [&](auto type) {
    auto* gradient = static_cast<decltype(type)*>(out);
    for (int64_t c = 0; c < in.channels; ++c) {
      float sum = 0.0f;
      for (int64_t b = 0; b < in.batch; ++b) {
        sum += shares[((b * blocks + c / kBlock) * (in.taps + 1) + which) * kBlock + c % kBlock];
      }
      gradient[c * stride + offset] = static_cast<decltype(type)>(sum);
    }
  });
}

// `count` neighbouring blocks of row b.
template <typename T>
void group_back(const conv::Inputs& in, const conv::Gradients& out, const Packed& packed, int64_t b, int64_t first,
                int64_t count) {
  const int64_t floats = BlockBack<T>::floats(in.taps);
  float* memory = cpu::scratch(static_cast<size_t>(count * floats));
  BlockBack<T> blocks[kMaxGroup];
  for (int64_t i = 0; i < count; ++i) {
    blocks[i] = BlockBack<T>(in, out, packed, b, first + i, memory + i * floats);
  }
  for (int64_t t0 = 0; t0 < in.length; t0 += kTile) {
    for (int64_t i = 0; i < count; ++i) {
      blocks[i].walk(t0, std::min(t0 + kTile, in.length));
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    blocks[i].finish();
  }
}

void convolve_backward(const conv::Inputs& in, const conv::Gradients& out) {
  const Packed packed = pack(in);
  const int64_t blocks = conv::num_blocks(in.channels);
  const int64_t group = std::clamp<int64_t>(in.batch * blocks / (4 * num_threads()), 1, std::min(kMaxGroup, blocks));
  const int64_t groups = (blocks + group - 1) / group;
  const int64_t grain = std::max<int64_t>(1, 4096 / ((in.length + 1) * group * kBlock));
  cpu::visit(in.element, [&](auto type) {
    parallel_for(in.batch * groups, grain, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t first = task % groups * group;
        group_back<decltype(type)>(in, out, packed, task / groups, first, std::min(group, blocks - first));
      }
    });
  });
  for (int64_t k = 0; k < in.taps; ++k) {
    add_batch(in, out.shares, k, in.weight.element, in.taps, k, out.weight);
  }
  if (out.bias != nullptr) {
    add_batch(in, out.shares, in.taps, in.bias.element, 1, 0, out.bias);
  }
}

}  // namespace
}  // namespace mamba::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mamba::ops {
HWY_EXPORT(convolve_backward);

void conv::backward(const Inputs& in, const Gradients& out) {
  HWY_DYNAMIC_DISPATCH(convolve_backward)(in, out);
}

}  // namespace mamba::ops
#endif
