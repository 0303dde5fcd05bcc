// Times training steps of a model with random weights, 130m's shape unless told otherwise:
//
//   train_step_bench [float32|bfloat16] [batch] [length] [steps] [layers] [width] [vocab]
//
// and prints, for each step, seconds for loss and gradients, for norm and update, and tokens per second. On a CPU most
// of an update is done beside the next step's products, so each step but the first has one in it, that of the step
// before; what the last one would have left to others is a line of its own.
#include <fmt/format.h>
#include <mlx/ops.h>
#include <mlx/random.h>
#include <mlx/transforms.h>

#include <chrono>
#include <cstdlib>

#include "mamba/base/memory.h"
#include "mamba/models/initialize.h"
#include "mamba/ops/global_norm/global_norm.h"
#include "mamba/train/objective.h"
#include "mamba/train/optimizer.h"

namespace mx = mlx::core;

int main(int argc, char** argv) {
  using namespace mamba;  // NOLINT(google-build-using-namespace)
  keep_freed_memory();
  const auto argument = [&](int i, int fallback) { return argc > i ? std::atoi(argv[i]) : fallback; };
  const bool narrow = argc > 1 && std::string(argv[1]) == "bfloat16";
  const int batch = argument(2, 1);
  const int length = argument(3, 512);
  const int steps = argument(4, 5);
  const int vocab = argument(7, 50280);
  models::Config config{.vocab_size = vocab, .d_model = argument(6, 768), .n_layer = argument(5, 24)};
  models::MambaLM model(config);
  models::initialize(model, 1);
  const auto trainable = train::Trainable::of(model);
  train::Optimizer optimizer(trainable, {.compute_dtype = narrow ? mx::bfloat16 : mx::float32});
  const mx::array ids = mx::astype(mx::random::randint(0, vocab, {batch, length + 1}), mx::int32);
  const train::Batch example{.tokens = mx::contiguous(mx::slice(ids, {0, 0}, {batch, length})),
                             .targets = mx::contiguous(mx::slice(ids, {0, 1}, {batch, length + 1})),
                             .resets = std::nullopt,
                             .target_count = int64_t{batch} * length};
  using Clock = std::chrono::steady_clock;
  const auto seconds = [](Clock::time_point from, Clock::time_point to) {
    return std::chrono::duration<double>(to - from).count();
  };
  for (int step = 0; step < steps; ++step) {
    const auto start = Clock::now();
    train::Gradients g = train::loss_and_gradients(model, trainable, example, model.initial_state(batch),
                                                   static_cast<double>(batch) * length);
    std::vector<mx::array> results = g.values;
    results.push_back(g.loss);
    mx::eval(results);
    results.clear();
    const auto middle = Clock::now();
    const mx::array norm = ops::global_norm(g.values);
    const mx::array scale = mx::minimum(mx::array(1.0f), mx::divide(mx::array(1.0f), mx::add(norm, mx::array(1e-6f))));
    optimizer.step(trainable, std::move(g.values), 1e-4, scale);
    const auto end = Clock::now();
    fmt::print("step {}: loss {:.4f}, gradients {:.3f} s, update {:.3f} s, {:.1f} tokens/s, peak {} MB\n", step,
               g.loss.item<float>(), seconds(start, middle), seconds(middle, end), batch * length / seconds(start, end),
               peak_memory_bytes() / 1'000'000);
  }
  const auto start = Clock::now();
  mx::eval(nn::parameter_list(model));
  fmt::print("what was left of the last update: {:.3f} s\n", seconds(start, Clock::now()));
}
