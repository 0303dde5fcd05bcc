#include "mamba/ops/adamw/adamw.h"

#include <mlx/transforms.h>

#include <array>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "mamba/base/error.h"
#include "mamba/ops/adamw/gpu.h"
#include "mamba/ops/adamw/kernel.h"
#include "mamba/ops/adamw/later.h"
#include "mamba/ops/cpu/node.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/settled/settled.h"

namespace mamba::ops {

namespace mx = mlx::core;

namespace adamw_detail {

Factors factors_of(const AdamWOptions& o) {
  const auto t = static_cast<double>(o.step);
  return {
      .beta1 = static_cast<float>(o.beta1),
      .one_minus_beta1 = static_cast<float>(1 - o.beta1),
      .beta2 = static_cast<float>(o.beta2),
      .one_minus_beta2 = static_cast<float>(1 - o.beta2),
      .keep = static_cast<float>(1 - o.learning_rate * o.weight_decay),
      .step_size = static_cast<float>(o.learning_rate / (1 - std::pow(o.beta1, t))),
      .root_of_bias2 = static_cast<float>(std::sqrt(1 - std::pow(o.beta2, t))),
      .eps = static_cast<float>(o.eps),
      .average_decay = static_cast<float>(o.average_decay),
      .one_minus_average_decay = static_cast<float>(1 - o.average_decay),
  };
}

}  // namespace adamw_detail

namespace {

constexpr const char* kOp = "adamw";

}  // namespace

namespace adamw_detail {

void check_options(const AdamWOptions& o) {
  check(o.step >= 1, "[{}] step must be at least 1 but is {}", kOp, o.step);
  check(o.beta1 >= 0 && o.beta1 < 1 && o.beta2 >= 0 && o.beta2 < 1, "[{}] betas must lie in [0, 1) but are {} and {}",
        kOp, o.beta1, o.beta2);
  check(o.eps >= 0 && o.learning_rate >= 0 && o.weight_decay >= 0,
        "[{}] eps, learning_rate and weight_decay must not be negative but are {}, {} and {}", kOp, o.eps,
        o.learning_rate, o.weight_decay);
  check(o.average_decay >= 0 && o.average_decay <= 1, "[{}] average_decay must lie in [0, 1] but is {}", kOp,
        o.average_decay);
  check(!o.copy_dtype || *o.copy_dtype == mx::bfloat16 || *o.copy_dtype == mx::float16,
        "[{}] the copy can be bfloat16 or float16", kOp);
}

}  // namespace adamw_detail

namespace {

using adamw_detail::check_options;
// An array that is worth handing over slice by slice.
constexpr int64_t kMinLater = 64 * adamw_detail::LaterUpdate::kSliceElements;

// An update that is done later, and when.
struct Later {
  std::shared_ptr<adamw_detail::LaterUpdate> work;  // null: at once
  int64_t rank = 0;
};

// Inputs: the gradient and, where there is one, its scale. What is overwritten is kept by the node itself: an output of
// several shares its inputs with the others, and MLX then never finds them free to be taken over.
class AdamW : public mx::Primitive {
 public:
  AdamW(const mx::Stream& stream, const adamw_detail::Factors& factors, std::vector<mx::array> state, Later later)
      : Primitive(stream), factors_(factors), state_(std::move(state)), later_(std::move(later)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    mx::cpu::CommandEncoder& encoder = mx::cpu::get_command_encoder(stream());
    const mx::array gradient = row_contiguous(inputs[0], encoder);
    adamw_detail::Update update{};
    update.count = static_cast<int64_t>(gradient.size());
    const std::array<const float**, 4> read = {&update.parameter, &update.m, &update.v, &update.average};
    const std::array<float**, 4> written = {&update.new_parameter, &update.new_m, &update.new_v, &update.new_average};
    const size_t kept = state_.size();
    adamw_detail::LaterUpdate::Memory memory;
    for (size_t i = 0; i < state_.size(); ++i) {
      *read[i] = place(state_[i], outputs[i], encoder, memory);
      *written[i] = outputs[i].data<float>();
    }
    state_.clear();
    update.gradient = cpu::numbers_of(gradient);
    update.gradient_scale = inputs.size() == 2 ? inputs[1].data<float>() : nullptr;
    if (outputs.size() > kept) {
      allocate(outputs[kept]);
      update.copy = outputs[kept].data<void>();
      update.copy_element = cpu::element_of(outputs[kept]);
    }
    encoder.set_input_array(gradient);
    for (mx::array& out : outputs) {
      encoder.set_output_array(out);
    }
    if (later_.work == nullptr) {
      encoder.dispatch([update, factors = factors_] { adamw_detail::update(update, factors); });
      return;
    }
    memory.push_back(gradient.data_shared_ptr());
    if (inputs.size() == 2) {
      memory.push_back(inputs[1].data_shared_ptr());
    }
    for (const mx::array& out : outputs) {
      memory.push_back(out.data_shared_ptr());
    }
    later_.work->set(update, factors_, std::move(memory));
    encoder.dispatch([later = std::exchange(later_, {})] { do_later(later.work, later.rank); });
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override { cpu::refuse_gpu(kOp); }

  std::vector<mx::array> vjp(const std::vector<mx::array>&, const std::vector<mx::array>&, const std::vector<int>&,
                             const std::vector<mx::array>&) override {
    throw Error("[adamw] is not differentiable");
  }

  const char* name() const override { return "AdamW"; }

 private:
  // Where to read `in`; `out` takes over its memory if nobody else needs it. Otherwise `memory` keeps it.
  static const float* place(const mx::array& in, mx::array& out, mx::cpu::CommandEncoder& encoder,
                            adamw_detail::LaterUpdate::Memory& memory) {
    if (take_over(in, out)) {
      return out.data<float>();
    }
    allocate(out);
    encoder.add_temporary(in);
    const mx::array contiguous = row_contiguous(in, encoder);
    encoder.set_input_array(contiguous);
    memory.push_back(contiguous.data_shared_ptr());
    return contiguous.data<float>();
  }

  adamw_detail::Factors factors_;
  std::vector<mx::array> state_;  // parameter, m, v and, where there is one, the average; evaluated
  Later later_;
};

void check_inputs(const AdamWInputs& in) {
  const mx::Shape& shape = in.parameter.shape();
  const auto check_like = [&](const char* name, const mx::array& a) {
    check(a.shape() == shape, "[{}] {} must be {} but got {}", kOp, name, shown(shape), shown(a.shape()));
  };
  check_like("gradient", in.gradient);
  check_like("m", in.m);
  check_like("v", in.v);
  if (in.average) {
    check_like("average", *in.average);
    check(in.average->dtype() == mx::float32, "[{}] average must be float32 but is {}", kOp,
          shown(in.average->dtype()));
  }
  check_float(kOp, "gradient", in.gradient);
  for (const mx::array* a : {&in.parameter, &in.m, &in.v}) {
    check(a->dtype() == mx::float32, "[{}] parameter, m and v must be float32 but one is {}", kOp, shown(a->dtype()));
  }
  if (in.gradient_scale) {
    check(in.gradient_scale->size() == 1 && in.gradient_scale->dtype() == mx::float32,
          "[{}] gradient_scale must be one float32 but is {} {}", kOp, shown(in.gradient_scale->shape()),
          shown(in.gradient_scale->dtype()));
  }
}

}  // namespace

AdamWOutputs adamw(AdamWInputs in, const AdamWOptions& options, mx::StreamOrDevice s) {
  check_options(options);
  check_inputs(in);
  const mx::Stream stream = mx::to_stream(s);
  if (!on_cpu(stream)) {
    return adamw_detail::gpu_update(in, options, stream);
  }
  const mx::Shape shape = in.parameter.shape();
  std::vector<mx::array> state;
  for (mx::array* a : {&in.parameter, &in.m, &in.v, in.average ? &*in.average : nullptr}) {
    if (a != nullptr) {
      a->eval();
      state.push_back(std::move(*a));
    }
  }
  std::vector<mx::Dtype> dtypes(state.size(), mx::float32);
  if (options.copy_dtype) {
    dtypes.push_back(*options.copy_dtype);
  }
  std::vector<mx::Shape> shapes(dtypes.size(), shape);
  std::vector<mx::array> inputs = {std::move(in.gradient)};
  if (in.gradient_scale) {
    inputs.push_back(*in.gradient_scale);
  }
  Later later;
  const auto count = static_cast<int64_t>(inputs[0].size());
  if (options.later_rank && count >= kMinLater) {
    later = {std::make_shared<adamw_detail::LaterUpdate>(count), *options.later_rank};
  }
  const std::vector<mx::array> made = mx::array::make_arrays(
      std::move(shapes), dtypes,
      std::make_shared<AdamW>(stream, adamw_detail::factors_of(options), std::move(state), later), inputs);
  std::vector<mx::array> out;
  for (const mx::array& a : made) {
    out.push_back(later.work == nullptr ? a
                                        : settled(a, later.work, adamw_detail::LaterUpdate::kSliceElements, stream));
  }
  return {out[0],
          out[1],
          out[2],
          in.average ? std::optional(out[3]) : std::nullopt,
          options.copy_dtype ? std::optional(out.back()) : std::nullopt,
          later.work == nullptr ? std::nullopt : std::optional(made[0])};
}

std::vector<AdamWOutputs> adamw_all(std::vector<AdamWInputs> in, const std::vector<AdamWOptions>& options,
                                    mx::StreamOrDevice s) {
  check(in.size() == options.size(), "[{}] got {} inputs and {} options", kOp, in.size(), options.size());
  std::vector<mx::array> state;
  for (const AdamWInputs& one : in) {
    state.insert(state.end(), {one.parameter, one.m, one.v});
    if (one.average) {
      state.push_back(*one.average);
    }
  }
  mx::eval(std::exchange(state, {}));
  std::vector<AdamWOutputs> out;
  for (size_t i = 0; i < in.size(); ++i) {
    out.push_back(adamw(std::move(in[i]), options[i], s));
  }
  return out;
}

}  // namespace mamba::ops
