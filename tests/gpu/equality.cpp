#include <fmt/format.h>
#include <mlx/ops.h>
#include <mlx/random.h>
#include <mlx/transforms.h>

#include <cmath>
#include <functional>
#include <utility>
#include <vector>

#include "mamba/models/initialize.h"
#include "mamba/ops/causal_conv1d/causal_conv1d.h"
#include "mamba/ops/linear/linear.h"
#include "mamba/ops/linear_cross_entropy/linear_cross_entropy.h"
#include "mamba/ops/rms_norm/rms_norm.h"
#include "mamba/ops/selective_scan/gpu.h"
#include "mamba/ops/selective_scan/selective_scan.h"
#include "report.h"
#include "table.h"

namespace mamba::gpu_report {

namespace mx = mlx::core;

namespace {

// Half a step of the dtype where results are rounded to it, twice for where the two sides round apart.
double bound_of(mx::Dtype dtype, double float_bound) {
  return float_bound + (dtype == mx::bfloat16 ? 0x1p-7 : dtype == mx::float16 ? 0x1p-10 : 0.0);
}

void add_scans(Table& table) {
  struct Case {
    int batch, length, channels, states;
    mx::Dtype dtype;
    bool packed;
    ops::scan::Dealing dealing = ops::scan::Dealing::kBySize;
  };
  using ops::scan::Dealing;
  const std::vector<Case> cases = {
      {1, 1, 1, 1, mx::float32, false},
      {2, 7, 3, 16, mx::float32, true},
      {1, 100, 70, 16, mx::float32, true},
      {3, 333, 130, 16, mx::float32, true},
      {1, 2049, 257, 16, mx::float32, true},
      {8, 65, 3100, 16, mx::float32, true},
      {2, 190, 33, 5, mx::float32, true},
      {2, 129, 65, 8, mx::float32, false},
      {2, 70, 40, 32, mx::float32, true},
      {1, 77, 33, 64, mx::float32, true},
      {1, 51, 9, 128, mx::float32, true},
      {1, 35, 17, 256, mx::float32, true},
      {2, 555, 96, 16, mx::bfloat16, true},
      {8, 130, 3100, 16, mx::bfloat16, false},
      {2, 555, 96, 16, mx::float16, true},
      {1, 1, 1536, 16, mx::float32, false},
      // As large inputs of 16 bits have it: lanes with two channels, and half or all of their states.
      {2, 130, 71, 16, mx::bfloat16, true, Dealing::kLarge},
      {2, 131, 71, 16, mx::bfloat16, true, Dealing::kVeryLarge},
      // Many sequences, which are not cut.
      {2, 133, 71, 16, mx::float32, true, Dealing::kWholeSequences},
  };
  for (const Case& c : cases) {
    const mx::Shape wide = {c.batch, c.length, c.channels};
    const mx::Shape narrow = {c.batch, c.length, c.states};
    const mx::array A = mx::negative(mx::exp(normal({c.channels, c.states}, 3), mx::Device::cpu), mx::Device::cpu);
    const Arrays in = {normal(wide, 1, 1.0f, 0.0f, c.dtype),
                       normal(wide, 2, 1.5f, -1.0f, c.dtype),
                       A,
                       normal(narrow, 4, 1.0f, 0.0f, c.dtype),
                       normal(narrow, 5, 1.0f, 0.0f, c.dtype),
                       normal({c.channels}, 6),
                       normal(wide, 7, 2.0f, 0.0f, c.dtype),
                       normal({c.channels}, 8, 0.5f),
                       normal({c.batch, c.channels, c.states}, 9)};
    std::vector<int32_t> spans;
    std::vector<uint8_t> resets(static_cast<size_t>(c.batch * c.length), 0);
    for (int b = 0; b < c.batch; ++b) {
      spans.push_back(b % 2 == 0 ? 0 : c.length / 3);
      spans.push_back(b % 3 == 1 ? c.length - c.length / 4 : c.length);
      for (int t = b; t < c.length; t += 37) {
        resets[static_cast<size_t>(b * c.length + t)] = 1;
      }
    }
    const mx::array span_array(spans.begin(), {c.batch, 2}, mx::int32);
    const mx::array reset_array(resets.begin(), {c.batch, c.length}, mx::uint8);
    const Function scan = [=](const Arrays& a, mx::Device device) -> Arrays {
      ops::SelectiveScanInputs inputs = {.u = a[0],
                                         .delta = a[1],
                                         .A = a[2],
                                         .B = a[3],
                                         .C = a[4],
                                         .D = a[5],
                                         .z = a[6],
                                         .delta_bias = a[7],
                                         .initial_state = a[8]};
      if (c.packed) {
        inputs.spans = span_array;
        inputs.resets = reset_array;
      }
      const bool by_size = device == mx::Device::cpu || c.dealing == Dealing::kBySize;
      const auto out = by_size ? ops::selective_scan(inputs, device)
                               : ops::scan::gpu_scan(inputs, mx::default_stream(device), c.dealing);
      return {out.y, out.state};
    };
    table.add(fmt::format("selective_scan B{} L{} D{} N{} {}{}", c.batch, c.length, c.channels, c.states,
                          name_of(c.dtype), c.packed ? " packed" : ""),
              bound_of(c.dtype, 5e-5), scan, in);
  }
  // Large inputs of 16 bits, whose lanes have two channels, the last of which may be alone, and half or all of their
  // states: beside float32 on the GPU, since CPUs take minutes.
  const std::vector<std::pair<int, int>> sizes = {{22000, 1530}, {22000, 1531}, {40001, 1530}, {40001, 1531}};
  for (const auto& [length, channels] : sizes) {
    const Function large = [length = length, channels = channels](const Arrays&, mx::Device beside) -> Arrays {
      const mx::Device gpu = mx::Device::gpu;
      const auto random = [&](const mx::Shape& shape, float mean, uint64_t seed) {
        const mx::array a = mx::random::normal(shape, mx::bfloat16, mean, 1.0f, mx::random::key(seed), gpu);
        return beside == mx::Device::cpu ? mx::astype(a, mx::float32, gpu) : a;
      };
      const mx::Shape wide = {1, length, channels};
      const mx::array A =
          mx::negative(mx::exp(mx::astype(random({channels, 16}, 0.0f, 3), mx::float32, gpu), gpu), gpu);
      const Arrays in = {random(wide, 0.0f, 1), random(wide, -1.0f, 2), random({1, length, 16}, 0.0f, 4),
                         random({1, length, 16}, 0.0f, 5), random(wide, 0.0f, 6)};
      const auto scan = [&](const Arrays& a) -> Arrays {
        return {ops::selective_scan({.u = a[0], .delta = a[1], .A = A, .B = a[2], .C = a[3], .z = a[4]}, gpu).y};
      };
      const auto [values, gradients] = mx::vjp(scan, in, {random(wide, 0.0f, 7)});
      Arrays out;
      for (const mx::array& a : {values[0], gradients[0], gradients[1], gradients[4]}) {
        out.push_back(mx::astype(mx::slice(a, {0, 0, 0}, wide, {1, 41, 1}, gpu), mx::float32, gpu));
      }
      mx::eval(out);
      return out;
    };
    table.add_values(fmt::format("selective_scan L{} D{} bfloat16 beside float32", length, channels), 0x1p-6, large,
                     {});
  }
  const Function step = [](const Arrays& a, mx::Device device) -> Arrays {
    const auto out = ops::selective_scan_step({.u = a[0],
                                               .delta = a[1],
                                               .A = a[2],
                                               .B = a[3],
                                               .C = a[4],
                                               .D = a[5],
                                               .z = a[6],
                                               .delta_bias = a[7],
                                               .initial_state = a[8]},
                                              device);
    return {out.y, out.state};
  };
  for (const int states : {16, 5, 100}) {
    table.add(
        fmt::format("selective_scan_step N{}", states), 2e-5, step,
        {normal({3, 77}, 1), normal({3, 77}, 2),
         mx::negative(mx::exp(normal({77, states}, 3), mx::Device::cpu), mx::Device::cpu), normal({3, states}, 4),
         normal({3, states}, 5), normal({77}, 6), normal({3, 77}, 7), normal({77}, 8), normal({3, 77, states}, 9)});
  }
}

void add_convolutions(Table& table) {
  struct Case {
    int batch, length, channels, taps;
    mx::Dtype dtype;
  };
  for (const Case& c : std::vector<Case>{{1, 1, 1, 4, mx::float32},
                                         {2, 15, 130, 4, mx::float32},
                                         {3, 300, 257, 4, mx::float32},
                                         {1, 1000, 64, 3, mx::float32},
                                         {2, 33, 40, 2, mx::float32},
                                         {1, 40, 40, 1, mx::float32},
                                         {2, 77, 96, 4, mx::bfloat16},
                                         {2, 77, 96, 4, mx::float16},
                                         {3, 33, 41, 4, mx::bfloat16}}) {
    std::vector<int32_t> spans;
    std::vector<uint8_t> resets(static_cast<size_t>(c.batch * c.length), 0);
    for (int b = 0; b < c.batch; ++b) {
      spans.insert(spans.end(), {b == 1 ? c.length / 3 : 0, b == 2 ? c.length / 2 : c.length});
      for (int t = b; t < c.length; t += 19) {
        resets[static_cast<size_t>(b * c.length + t)] = 1;
      }
    }
    const mx::array span_array(spans.begin(), {c.batch, 2}, mx::int32);
    const mx::array reset_array(resets.begin(), {c.batch, c.length}, mx::uint8);
    const Function conv = [=](const Arrays& a, mx::Device device) -> Arrays {
      const auto out = ops::causal_conv1d(
          {.x = a[0], .weight = a[1], .bias = a[2], .initial_state = a[3], .spans = span_array, .resets = reset_array},
          device);
      return {out.y, out.state};
    };
    table.add(fmt::format("causal_conv1d B{} L{} D{} K{} {}", c.batch, c.length, c.channels, c.taps, name_of(c.dtype)),
              bound_of(c.dtype, 2e-5), conv,
              {normal({c.batch, c.length, c.channels}, 1, 1.0f, 0.0f, c.dtype), normal({c.channels, c.taps}, 2),
               normal({c.channels}, 3), normal({c.batch, c.taps - 1, c.channels}, 4, 1.0f, 0.0f, c.dtype)});
  }
  const Function step = [](const Arrays& a, mx::Device device) -> Arrays {
    const auto out = ops::causal_conv1d_step({.x = a[0], .weight = a[1], .bias = a[2], .initial_state = a[3]}, device);
    return {out.y, out.state};
  };
  table.add("causal_conv1d_step", 2e-5, step,
            {normal({3, 150}, 1), normal({150, 4}, 2), normal({150}, 3), normal({3, 3, 150}, 4)});
}

void add_norms_and_products(Table& table) {
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16, mx::float16}) {
    for (const int width : {1, 100, 768, 2560}) {
      const Function norm = [](const Arrays& a, mx::Device device) -> Arrays {
        const auto out = ops::rms_norm_add(a[0], a[1], a[2], 1e-5f, mx::float32, device);
        return {out.first, out.second};
      };
      const Function alone = [](const Arrays& a, mx::Device device) -> Arrays {
        return {ops::rms_norm(a[0], a[1], 1e-5f, device)};
      };
      table.add(fmt::format("rms_norm D{} {}", width, name_of(dtype)), bound_of(dtype, 5e-5), alone,
                {normal({3, 211, width}, 1, 1.0f, 0.3f, dtype), normal({width}, 3)});
      table.add(fmt::format("rms_norm_add D{} {}", width, name_of(dtype)), bound_of(dtype, 5e-5), norm,
                {normal({3, 211, width}, 1, 1.0f, 0.3f, dtype), normal({3, 211, width}, 2), normal({width}, 3)});
    }
  }
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16}) {
    for (const int rows : {1, 3, 40}) {
      const std::vector<int32_t> spans = {0, rows, rows / 2, rows};
      const mx::array span_array(spans.begin(), {2, 2}, mx::int32);
      const Function linear = [=](const Arrays& a, mx::Device device) -> Arrays {
        ops::LinearOptions options;
        options.spans = span_array;
        ops::LinearOptions wide;
        wide.out_dtype = mx::float32;
        return {ops::linear(a[0], a[1], a[2], options, device), ops::linear(a[0], a[1], {}, wide, device)};
      };
      table.add(fmt::format("linear L{} {}", rows, name_of(dtype)), dtype == mx::float32 ? 1e-4 : 0x1p-6, linear,
                {normal({2, rows, 48}, 1, 1.0f, 0.0f, dtype), normal({130, 48}, 2, 0.2f, 0.0f, dtype),
                 normal({130}, 3, 1.0f, 0.0f, dtype)});
    }
    std::vector<int32_t> targets(1500);
    for (size_t i = 0; i < targets.size(); ++i) {
      targets[i] = i % 11 == 3 ? -100 : static_cast<int32_t>(i * 7919 % 997);
    }
    const mx::array target_array(targets.begin(), {1500}, mx::int32);
    const Function loss = [=](const Arrays& a, mx::Device device) -> Arrays {
      return {ops::linear_cross_entropy(a[0], a[1], target_array, {}, device)};
    };
    table.add(fmt::format("linear_cross_entropy {}", name_of(dtype)), dtype == mx::float32 ? 2e-4 : 0x1p-6, loss,
              {normal({1500, 64}, 1, 1.0f, 0.0f, dtype), normal({997, 64}, 2, 0.3f, 0.0f, dtype)});
  }
}

// Products in float32 whose rows are of very different sizes, up to what training has. Relative to its row's size each
// number is as exact as the others, and so are the gradients.
void add_products(Table& table) {
  struct Case {
    int rows, n, k;
  };
  for (const Case& c : std::vector<Case>{{1, 1, 1},
                                         {7, 5, 3},
                                         {5, 300, 70},
                                         {64, 80, 1536},
                                         {1000, 129, 48},
                                         {333, 1031, 257},
                                         {4096, 768, 1536},
                                         {40, 33, 20011}}) {
    std::vector<float> sizes;
    for (int i = 0; i < c.rows; ++i) {
      sizes.push_back(i % 3 == 0 ? 0x1p-66f : i % 3 == 1 ? 1.0f : 0x1p66f);
    }
    const mx::array size(sizes.begin(), {c.rows, 1});
    const Function product = [=](const Arrays& a, mx::Device device) -> Arrays {
      const mx::array y = ops::linear(mx::multiply(a[0], size, device), a[1], {}, {}, device);
      return {mx::divide(y, size, device)};
    };
    // A sum of k terms is larger than they are by their number's root.
    table.add(fmt::format("product {} x {} x {}", c.rows, c.n, c.k), 2e-5, product,
              {normal({c.rows, c.k}, 1), normal({c.n, c.k}, 2)});
  }
  // Where numbers are none: infinity times what has no more than 11 bits, too.
  std::vector<float> rows(8 * 4, 0.5f);
  const float infinity = INFINITY;
  rows[0] = infinity;
  rows[4] = -infinity;
  rows[8] = NAN;
  rows[12] = infinity;
  rows[13] = -infinity;
  rows[16] = 0.0f;
  rows[20] = 1e-41f;
  const Function kinds = [](const Arrays& a, mx::Device device) -> Arrays {
    Arrays out;
    for (const mx::array& weight : {a[1], a[2]}) {
      const mx::array y = ops::linear(a[0], weight, {}, {}, device);
      for (const mx::array& is : {mx::isnan(y, device), mx::isposinf(y, device), mx::isneginf(y, device)}) {
        out.push_back(mx::astype(is, mx::float32, device));
      }
    }
    return out;
  };
  table.add_values(
      "product infinite", 0, kinds,
      {mx::array(rows.begin(), {8, 4}), mx::array({1.0f, 0.5f, 2.0f, 0.3f, 1.1f, 0.3f, -7.7f, 1.0f}, {2, 4}),
       mx::array({infinity, 0.5f, 2.0f, 0.1f, -infinity, 0.3f, 1.0f, 1.0f}, {2, 4})});
}

void add_model(Table& table) {
  for (const int length : {1, 77, 300}) {
    models::Config config{.vocab_size = 517, .d_model = 96, .n_layer = 3};
    const auto model = std::make_shared<models::MambaLM>(config);
    models::initialize(*model, 5);
    for (mx::array& a : nn::parameter_list(*model)) {
      a.eval();
    }
    std::vector<int32_t> ids(static_cast<size_t>(2 * length));
    for (size_t i = 0; i < ids.size(); ++i) {
      ids[i] = static_cast<int32_t>(i * 7919 % 517);
    }
    const mx::array tokens(ids.begin(), {2, length}, mx::int32);
    const Function logits = [=](const Arrays& a, mx::Device device) -> Arrays {
      mx::set_default_device(device);
      models::MambaLM copy = *model;
      nn::set_parameter_list(copy, a);
      auto [hidden, state] = copy.hidden(tokens, copy.initial_state(2));
      Arrays out = {copy.logits(hidden)};
      for (const mx::array& s : state.arrays()) {
        out.push_back(s);
      }
      return out;
    };
    table.add(fmt::format("model L{}", length), 1e-3, logits, nn::parameter_list(*model));
  }
}

}  // namespace

bool equality(const std::string& filter) {
  Table table(filter);
  add_steps(table);
  add_model(table);
  add_scans(table);
  add_convolutions(table);
  add_norms_and_products(table);
  add_products(table);
  add_training(table);
  mx::set_default_device(mx::Device::gpu);
  return table.all_ok();
}

}  // namespace mamba::gpu_report
