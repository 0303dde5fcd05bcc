#include <fmt/format.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <memory>
#include <vector>

#include "mamba/models/initialize.h"
#include "mamba/ops/accumulate/accumulate.h"
#include "mamba/ops/adamw/adamw.h"
#include "mamba/ops/adamw/flat.h"
#include "mamba/ops/embedding/embedding_gradient.h"
#include "mamba/ops/global_norm/global_norm.h"
#include "mamba/ops/linear_cross_entropy/linear_cross_entropy.h"
#include "mamba/train/objective.h"
#include "mamba/train/optimizer.h"
#include "mamba/train/sender.h"
#include "table.h"

namespace mamba::gpu_report {

namespace mx = mlx::core;

namespace {

mx::array ids(int count, int below, int ignored_every = 0) {
  std::vector<int32_t> values(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) {
    values[static_cast<size_t>(i)] = ignored_every > 0 && i % ignored_every == 3 ? -100 : i * 7919 % below;
  }
  return mx::array(values.begin(), {count}, mx::int32);
}

void add_loss(Table& table, mx::Dtype dtype, int words) {
  const auto loss = [](const mx::array& x, const mx::array& weight, mx::Device device) -> Arrays {
    const auto got = ops::linear_cross_entropy_gradients(x, weight, ids(2500, 997, 11), 0.3f, true, {}, device);
    return {got.losses, got.x, *got.weight};
  };
  // An odd width: racecheck fails by itself in cuBLAS's kernels for aligned rows of 16 bits.
  constexpr int kWidth = 63;
  const mx::array x = normal({2500, kWidth}, 1, 1.0f, 0.0f, dtype);
  const mx::array weight = normal({words, kWidth}, 2, 0.5f, 0.0f, dtype);
  const std::string name = fmt::format("loss and gradients N{} {}", words, name_of(dtype));
  const Function run = [=](const Arrays&, mx::Device device) { return loss(x, weight, device); };
  if (dtype == mx::float32) {
    table.add_values(name, 2e-4, run, {});
    return;
  }
  // The gradient of the logits is rounded to 16 bits on both sides.
  table.add_beside(name, run, [=] {
    const auto wide = [](const mx::array& a) { return mx::astype(a, mx::float32, mx::Device::cpu); };
    return loss(wide(x), wide(weight), mx::Device::cpu);
  });
}

void add_sums(Table& table, mx::Dtype dtype) {
  const Function embedding = [](const Arrays& a, mx::Device device) -> Arrays {
    return {ops::embedding_gradient(a[0], a[1], 97, a[2], mx::float32, device),
            ops::embedding_gradient(a[0], a[1], 97, {}, mx::float32, device)};
  };
  table.add_values(fmt::format("embedding_gradient {}", name_of(dtype)), 1e-5, embedding,
                   {ids(1001, 89), normal({1001, 130}, 1, 1.0f, 0.0f, dtype), normal({97, 130}, 2, 1.0f, 0.0f, dtype)});
  const Function sums = [](const Arrays& a, mx::Device device) -> Arrays {
    return {ops::accumulate(a[0], a[1], device), ops::global_norm({a[0], a[1]}, device)};
  };
  table.add_values(fmt::format("accumulate, global_norm {}", name_of(dtype)), 1e-5, sums,
                   {normal({257, 1025}, 1), normal({257, 1025}, 2, 1.0f, 0.0f, dtype)});
  // Two steps of several arrays, as an optimiser takes them on each.
  const Function update = [](const Arrays& a, mx::Device device) -> Arrays {
    std::vector<ops::AdamWInputs> in;
    std::vector<ops::AdamWOptions> options;
    std::vector<ops::FlatAdamW::Item> items;
    const mx::array scale(0.5f);
    for (int i = 0; i < 11; ++i) {
      const auto part = [&](const mx::array& x) {
        return mx::contiguous(mx::slice(x, {0, i}, {x.shape(0), x.shape(1) - i}, device), false, device);
      };
      in.push_back({.parameter = part(a[0]),
                    .gradient = part(a[1]),
                    .m = part(a[2]),
                    .v = part(mx::square(a[3], device)),
                    .gradient_scale = scale});
      options.push_back({.learning_rate = 0.01, .weight_decay = i % 2 == 0 ? 0.1 : 0.0, .step = 5});
      if (i != 3) {
        options.back().copy_dtype = mx::bfloat16;
      }
      items.push_back({.parameter = in.back().parameter,
                       .m = in.back().m,
                       .v = in.back().v,
                       .weight_decay = options.back().weight_decay,
                       .copy_dtype = options.back().copy_dtype});
    }
    Arrays gradients;
    for (const ops::AdamWInputs& one : in) {
      gradients.push_back(one.gradient);
    }
    Arrays out;
    if (device == mx::Device::gpu) {
      ops::FlatAdamW flat(std::move(items), device);
      for (int64_t step = 5; step < 7; ++step) {
        mx::async_eval(flat.step(gradients, {.learning_rate = 0.01, .step = step}, scale));
      }
      for (size_t i = 0; i < flat.size(); ++i) {
        out.insert(out.end(), {flat.parameter(i), flat.m(i), flat.v(i)});
      }
      return out;
    }
    for (int64_t step = 5; step < 7; ++step) {
      out.clear();
      const std::vector<ops::AdamWOutputs> all = ops::adamw_all(in, options, device);
      for (size_t i = 0; i < in.size(); ++i) {
        out.insert(out.end(), {all[i].parameter, all[i].m, all[i].v});
        in[i].parameter = all[i].parameter;
        in[i].m = all[i].m;
        in[i].v = all[i].v;
        options[i].step = step + 1;
      }
    }
    return out;
  };
  table.add_values(fmt::format("adamw {}", name_of(dtype)), 1e-5, update,
                   {normal({97, 33}, 1), normal({97, 33}, 2, 1.0f, 0.0f, dtype), normal({97, 33}, 3, 0.1f),
                    normal({97, 33}, 4, 0.1f)});
}

// All gradients of a model as the trainer asks for them.
void add_gradients(Table& table, mx::Dtype dtype, bool resets, bool recompute) {
  const auto model = std::make_shared<models::MambaLM>(models::Config{.vocab_size = 517, .d_model = 96, .n_layer = 3});
  models::initialize(*model, 5);
  constexpr int kRows = 2;
  constexpr int kLength = 301;
  const Function gradients = [=](const Arrays& a, mx::Device device) -> Arrays {
    mx::set_default_device(device);
    models::MambaLM own = *model;
    nn::set_parameter_list(own, a);
    const auto trainable = train::Trainable::of(own);
    train::Optimizer optimizer(trainable, {.compute_dtype = dtype});
    train::Batch batch{.tokens = mx::reshape(ids(kRows * kLength, 517), {kRows, kLength}),
                       .targets = mx::reshape(ids(kRows * kLength, 511, 13), {kRows, kLength}),
                       .resets = std::nullopt,
                       .target_count = kRows * kLength};
    if (resets) {
      batch.resets = mx::astype(mx::equal(batch.tokens, mx::array(0)), mx::uint8);
    }
    train::Gradients g = train::loss_and_gradients(own, trainable, batch, own.initial_state(kRows), kRows * kLength,
                                                   {.recompute = recompute});
    train::Sender().send(g);
    Arrays out = g.values;
    out.push_back(g.loss);
    mx::eval(out);
    return out;
  };
  for (mx::array& a : nn::parameter_list(*model)) {
    a.eval();
  }
  // In 16 bits both sides round between products, each elsewhere.
  table.add_values(
      fmt::format("training gradients {}{}{}", name_of(dtype), resets ? " packed" : "", recompute ? " recomputed" : ""),
      dtype == mx::float32 ? 1e-3 : 0.1, gradients, nn::parameter_list(*model));
}

}  // namespace

void add_training(Table& table) {
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16}) {
    add_loss(table, dtype, 997);
    add_loss(table, dtype, 1000);  // rows of whole lines
    add_sums(table, dtype);
    add_gradients(table, dtype, false, false);
  }
  add_gradients(table, mx::float32, true, false);
  add_gradients(table, mx::float32, false, true);
}

}  // namespace mamba::gpu_report
