#include "mamba/ops/selective_scan/gpu.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <vector>

#include "mamba/ops/gpu/kernel.h"
#include "mamba/ops/selective_scan/gpu_launches.h"

namespace mamba::embedded {
std::string_view gpu_scan_step();
}  // namespace mamba::embedded

namespace mamba::ops::scan {

namespace mx = mlx::core;
using gpu::Kernel;

namespace {

const Kernel& step_kernel() {
  static const Kernel kernel("mamba_scan_step", embedded::gpu_scan_step(),
                             {"u", "delta", "A", "B", "C", "D", "z", "delta_bias", "first"}, {"y", "state"});
  return kernel;
}

// The gradients of all inputs, in the order of InputOfKernels; spans and resets have none.
std::vector<mx::array> gradients(const Plan& plan, const std::vector<mx::array>& in, const mx::array& gy,
                                 const std::optional<mx::array>& gstate, const Kept& kept) {
  const mx::Stream& s = plan.stream;
  const Backward g = backward(plan, in, gy, gstate, kept, false);
  const auto columns = [&](int from) {
    return mx::slice(g.BC, {0, 0, from}, {plan.batch, plan.length, from + plan.states}, s);
  };
  return {g.u, g.delta, g.A, columns(0), columns(plan.states), g.D, g.z, g.bias, g.first};
}

bool is_traced(const std::optional<mx::array>& a) {
  return a && a->is_tracer();
}

bool is_traced(const SelectiveScanInputs& in) {
  return in.u.is_tracer() || in.delta.is_tracer() || in.A.is_tracer() || in.B.is_tracer() || in.C.is_tracer() ||
         is_traced(in.D) || is_traced(in.z) || is_traced(in.delta_bias) || is_traced(in.initial_state);
}

std::vector<mx::array> all_inputs(const SelectiveScanInputs& in, const mx::Stream& stream) {
  const mx::array A = gpu::contiguous(in.A, stream);
  const auto whole = [&](const std::optional<mx::array>& a) { return a ? gpu::contiguous(*a, stream) : A; };
  return {in.u,
          in.delta,
          A,
          in.B,
          in.C,
          whole(in.D),
          in.z ? *in.z : in.u,
          whole(in.delta_bias),
          whole(in.initial_state),
          whole(in.spans),
          whole(in.resets)};
}

}  // namespace

SelectiveScanOutputs gpu_scan(const SelectiveScanInputs& in, const mx::Stream& stream, Dealing dealing) {
  const Plan plan = plan_of(in, dealing, stream);
  if (plan.length == 0) {
    return {mx::zeros(in.u.shape(), in.u.dtype(), stream),
            in.initial_state ? *in.initial_state
                             : mx::zeros({plan.batch, plan.channels, plan.states}, mx::float32, stream)};
  }
  if (plan.length == 1 && !is_traced(in) && !in.spans && !in.resets) {
    SelectiveScanInputs one = in;
    for (mx::array* a : {&one.u, &one.delta, &one.B, &one.C}) {
      *a = mx::squeeze(*a, 1, stream);
    }
    if (one.z) {
      one.z = mx::squeeze(*one.z, 1, stream);
    }
    SelectiveScanOutputs out = gpu_step(one, stream);
    out.y = mx::expand_dims(out.y, 1, stream);
    return out;
  }
  const std::vector<mx::array> inputs = all_inputs(in, stream);
  if (!is_traced(in)) {
    const Forward out = forward(plan, inputs, false);
    return {out.y, out.state};
  }
  // Only what is there is differentiated: stand-ins for the rest are one of the others, to whose gradient zeros would
  // be added for each.
  const std::vector<bool> is_there = {true,       true,       true,          true,          true,
                                      plan.has_D, plan.has_z, plan.has_bias, plan.has_state};
  std::vector<mx::array> given;
  std::vector<size_t> places;  // among those given
  for (size_t i = 0; i < is_there.size(); ++i) {
    places.push_back(is_there[i] ? given.size() : size_t{i == kZ ? kU : kA});
    if (is_there[i]) {
      given.push_back(inputs[i]);
    }
  }
  const mx::array spans = plan.has_spans ? mx::stop_gradient(inputs[kSpans], stream) : inputs[kSpans];
  const mx::array resets = plan.has_resets ? mx::stop_gradient(inputs[kResets], stream) : inputs[kResets];
  const auto all_of = [=](const std::vector<mx::array>& primals) {
    std::vector<mx::array> all;
    for (const size_t place : places) {
      all.push_back(primals[place]);
    }
    all.push_back(plan.has_spans ? spans : primals[kA]);
    all.push_back(plan.has_resets ? resets : primals[kA]);
    return all;
  };
  const auto values = [=](const std::vector<mx::array>& primals) -> std::vector<mx::array> {
    const Forward out = forward(plan, all_of(primals), true);
    return {out.y, out.state, out.kept.cells, out.kept.done};
  };
  const auto vjp = [=](const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                       const std::vector<mx::array>& outputs) {
    const auto gstate =
        gpu::known_zero(cotangents[1]) ? std::nullopt : std::optional(gpu::contiguous(cotangents[1], plan.stream));
    const std::vector<mx::array> all =
        gradients(plan, all_of(primals), cotangents[0], gstate, {outputs[2], outputs[3]});
    std::vector<mx::array> of_given = primals;
    for (size_t i = 0; i < places.size(); ++i) {
      if (is_there[i]) {
        of_given[places[i]] = all[i];
      }
    }
    return of_given;
  };
  const auto run = mx::custom_vjp(values, vjp);
  const std::vector<mx::array> out = run(given);
  return {out[0], out[1]};
}

SelectiveScanKept gpu_scan_kept(const SelectiveScanInputs& in, const mx::Stream& stream) {
  const Forward out = forward(plan_of(in, Dealing::kBySize, stream), all_inputs(in, stream), true);
  return {.y = out.y, .state = out.state, .kept = out.kept.cells, .kept_done = out.kept.done};
}

SelectiveScanGradients gpu_scan_gradients(const SelectiveScanInputs& in, const mx::array& gy, const mx::array& kept,
                                          const mx::array& kept_done, const mx::Stream& s) {
  const Backward g = backward(plan_of(in, Dealing::kBySize, s), all_inputs(in, s), gy, std::nullopt,
                              {.cells = kept, .done = kept_done}, true);
  return {.u = g.u, .delta = g.delta, .A = g.A, .BC = g.BC, .D = g.D, .z = g.z, .delta_bias = g.bias, .y = g.y};
}

SelectiveScanOutputs gpu_step(const SelectiveScanInputs& in, const mx::Stream& stream) {
  if (is_traced(in)) {
    SelectiveScanInputs row = in;
    for (mx::array* a : {&row.u, &row.delta, &row.B, &row.C}) {
      *a = mx::expand_dims(*a, 1, stream);
    }
    if (row.z) {
      row.z = mx::expand_dims(*row.z, 1, stream);
    }
    SelectiveScanOutputs out = gpu_scan(row, stream);
    out.y = mx::squeeze(out.y, 1, stream);
    return out;
  }
  const std::vector<mx::array> all = all_inputs(in, stream);
  const int batch = in.u.shape(0);
  const int channels = in.u.shape(1);
  const int states = in.A.shape(1);
  const int lanes = states <= 16 ? 4 : 16;
  constexpr int kThreads = 128;
  const std::vector<mx::array> out =
      step_kernel()({all.begin(), all.begin() + kState + 1}, {in.u.shape(), {batch, channels, states}},
                    {in.u.dtype(), mx::float32}, {{divide_up(channels * lanes, kThreads), batch, 1}, kThreads},
                    {{"T", in.u.dtype()},
                     {"kLanes", lanes},
                     {"kThreads", kThreads},
                     {"kSoftplus", in.delta_softplus},
                     {"kHasD", in.D.has_value()},
                     {"kHasZ", in.z.has_value()},
                     {"kHasBias", in.delta_bias.has_value()},
                     {"kHasState", in.initial_state.has_value()}},
                    stream);
  return {out[0], out[1]};
}

}  // namespace mamba::ops::scan
