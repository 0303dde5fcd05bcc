#include "mamba/ops/dropout/dropout.h"

#include <mlx/ops.h>

#include <cmath>
#include <limits>
#include <memory>

#include "mamba/base/error.h"
#include "mamba/base/mix_bits.h"
#include "mamba/ops/cpu/node.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/dropout/kernel.h"

namespace mamba::ops {

namespace mx = mlx::core;

namespace {

constexpr const char* kOp = "dropout";

dropout_detail::Mask mask_of(double rate, uint64_t given_seed) {
  const uint64_t seed = mix_bits(given_seed);  // or seeds that follow each other would give shifted masks
  return {.low = static_cast<uint32_t>(seed),
          .high = static_cast<uint32_t>(seed >> 32),
          .threshold = static_cast<uint32_t>(std::llround(rate * 0x1p31)),
          .scale = static_cast<float>(1 / (1 - rate))};
}

class Dropout : public cpu::CpuNode<Dropout, dropout_detail::Mask> {
 public:
  static constexpr const char* kOp = "dropout";
  using CpuNode::CpuNode;

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    mx::cpu::CommandEncoder& encoder = mx::cpu::get_command_encoder(stream());
    const mx::array x = row_contiguous(inputs[0], encoder);
    allocate(outputs[0]);
    encoder.set_input_array(x);
    encoder.set_output_array(outputs[0]);
    const dropout_detail::Job job{static_cast<int64_t>(x.size()), x.data<void>(), outputs[0].data<void>(),
                                  cpu::element_of(x), settings_};
    encoder.dispatch([job] { dropout_detail::apply(job); });
  }

  std::vector<mx::array> vjp(const std::vector<mx::array>&, const std::vector<mx::array>& cotangents,
                             const std::vector<int>&, const std::vector<mx::array>&) override {
    const mx::array& dy = cotangents[0];
    return {mx::array(dy.shape(), dy.dtype(), std::make_shared<Dropout>(stream(), settings_), {dy})};
  }

  const char* name() const override { return "Dropout"; }
};

void check_arguments(const mx::array& x, double rate) {
  check_float(kOp, "x", x);
  check(rate >= 0 && rate < 1, "[{}] rate must lie in [0, 1) but is {}", kOp, rate);
  check(x.size() <= std::numeric_limits<uint32_t>::max(), "[{}] x of shape {} is too large", kOp, shown(x.shape()));
}

mx::array mixed(mx::array h, mx::StreamOrDevice s) {
  const auto shifted = [&](const mx::array& a, uint32_t by) {
    return mx::bitwise_xor(a, mx::right_shift(a, mx::array(by, mx::uint32), s), s);
  };
  h = mx::multiply(shifted(h, 16), mx::array(dropout_detail::kFirstFactor, mx::uint32), s);
  h = mx::multiply(shifted(h, 13), mx::array(dropout_detail::kSecondFactor, mx::uint32), s);
  return shifted(h, 16);
}

}  // namespace

mx::array dropout(const mx::array& x, double rate, uint64_t seed, mx::StreamOrDevice s) {
  check_arguments(x, rate);
  if (rate == 0) {
    return x;
  }
  const mx::Stream stream = mx::to_stream(s);
  if (!on_cpu(stream)) {
    return dropout_reference(x, rate, seed, stream);
  }
  return mx::array(x.shape(), x.dtype(), std::make_shared<Dropout>(stream, mask_of(rate, seed)), {x});
}

mx::array dropout_reference(const mx::array& x, double rate, uint64_t seed, mx::StreamOrDevice s) {
  check_arguments(x, rate);
  const dropout_detail::Mask mask = mask_of(rate, seed);
  const mx::array place = mx::arange(0.0, static_cast<double>(x.size()), 1.0, mx::uint32, s);
  const mx::array first = mixed(mx::bitwise_xor(place, mx::array(mask.low, mx::uint32), s), s);
  const mx::array hash = mixed(mx::add(first, mx::array(mask.high, mx::uint32), s), s);
  const mx::array stays =
      mx::greater_equal(mx::right_shift(hash, mx::array(1u, mx::uint32), s), mx::array(mask.threshold, mx::uint32), s);
  const mx::array kept = mx::multiply(mx::astype(x, mx::float32, s), mx::array(mask.scale), s);
  return mx::astype(mx::where(mx::reshape(stays, x.shape(), s), kept, mx::array(0.0f), s), x.dtype(), s);
}

}  // namespace mamba::ops
