#include "mamba/train/trainer.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <cmath>
#include <cstring>

#include "mamba/base/error.h"
#include "mamba/base/temporary_directory.h"
#include "mamba/base/threads.h"
#include "mamba/io/save.h"
#include "mamba/models/initialize.h"
#include "mamba/train/data/dataset.h"
#include "mamba/train/evaluation.h"
#include "mamba/train/objective.h"

namespace mamba::train {
namespace {

namespace fs = std::filesystem;
namespace mx = mlx::core;

constexpr int kVocab = 37;

models::MambaLM tiny_model(uint64_t seed = 1) {
  models::MambaLM model({.vocab_size = kVocab, .d_model = 20, .n_layer = 2, .d_state = 5});
  models::initialize(model, seed);
  return model;
}

std::vector<int32_t> some_tokens(int count) {
  std::vector<int32_t> tokens;
  uint32_t x = 7;
  for (int i = 0; i < count; ++i) {
    x = x * 1664525u + 1013904223u;
    tokens.push_back(static_cast<int32_t>((x >> 16) % kVocab));
  }
  return tokens;
}

Trainable all_of(models::MambaLM& model) {
  return Trainable::of(model);
}

Hooks no_model_files() {
  Hooks hooks;
  hooks.save_model = [](const fs::path&, const nn::ParameterMap&) {};
  return hooks;
}

std::vector<double> losses_of(const Settings& settings, const Windows& windows, models::MambaLM& model) {
  const TemporaryDirectory place;
  RunFolder folder = RunFolder::create(place / "run", Json::object());
  std::vector<double> losses;
  Hooks hooks = no_model_files();
  hooks.on_step = [&](const StepReport& report) { losses.push_back(report.loss); };
  Batches batches(windows, {.batch_size = settings.batch_size,
                            .shuffle = settings.shuffle,
                            .carry_state = settings.carry_state,
                            .seed = settings.seed});
  Trainer trainer(model, all_of(model), batches, std::nullopt, settings, folder, hooks);
  EXPECT_EQ(trainer.run(), Outcome::kFinished);
  return losses;
}

Settings quick_settings() {
  Settings s;
  s.seq_len = 16;
  s.batch_size = 2;
  s.steps = 6;
  s.lr = 3e-3;
  s.schedule = "constant";
  s.warmup = 0;
  return s;
}

TEST(Trainer, OverfitsOneBatch) {
  const Windows windows(Dataset::from_tokens(some_tokens(33), kVocab), 16);
  models::MambaLM model = tiny_model();
  Settings s = quick_settings();
  s.steps = 300;
  s.lr = 1e-2;
  s.weight_decay = 0;
  for (const char* dtype : {"float32", "bfloat16"}) {
    s.dtype = dtype;
    model = tiny_model();
    const std::vector<double> losses = losses_of(s, windows, model);
    EXPECT_NEAR(losses.front(), std::log(kVocab), 0.1);
    EXPECT_LT(losses.back(), 0.02) << dtype;
  }
}

TEST(Trainer, AccumulatedBatchesAreOneLargeBatch) {
  const Windows windows(Dataset::from_tokens(some_tokens(400), kVocab), 16);
  Settings s = quick_settings();
  s.shuffle = false;
  s.batch_size = 4;
  models::MambaLM model = tiny_model();
  const std::vector<double> whole = losses_of(s, windows, model);
  s.batch_size = 2;
  s.grad_accum = 2;
  model = tiny_model();
  const std::vector<double> parts = losses_of(s, windows, model);
  for (size_t i = 0; i < whole.size(); ++i) {
    EXPECT_NEAR(whole[i], parts[i], 1e-5);
  }
}

TEST(Trainer, TheSameSeedGivesTheSameRunWhateverTheThreads) {
  const Windows windows(Dataset::from_tokens(some_tokens(400), kVocab), 16);
  Settings s = quick_settings();
  s.carry_state = true;
  models::MambaLM model = tiny_model();
  const std::vector<double> once = losses_of(s, windows, model);
  set_num_threads(1);
  model = tiny_model();
  const std::vector<double> again = losses_of(s, windows, model);
  set_num_threads(0);
  EXPECT_EQ(once, again);
}

// With a learning rate of 0 the windows of one row give the losses of the text in one piece.
TEST(Trainer, CarriedStateMakesOneTextOfManyWindows) {
  const std::vector<int32_t> tokens = some_tokens(97);
  Settings s = quick_settings();
  s.batch_size = 1;
  s.carry_state = true;
  s.lr = 0;
  models::MambaLM model = tiny_model();
  const std::vector<double> pieces = losses_of(s, Windows(Dataset::from_tokens(tokens, kVocab), 16), model);
  s.seq_len = 96;
  s.steps = 1;
  model = tiny_model();
  const std::vector<double> whole = losses_of(s, Windows(Dataset::from_tokens(tokens, kVocab), 96), model);
  double mean = 0;
  for (const double loss : pieces) {
    mean += loss / static_cast<double>(pieces.size());
  }
  EXPECT_NEAR(mean, whole[0], 1e-6);
}

// Weights that give no finite loss from step 3 on.
std::function<void(const StepReport&)> spoil_after_step_2(models::MambaLM& model) {
  return [&model](const StepReport& report) {
    if (report.step == 2) {
      model.visit("", [](const std::string& path, mx::array& value) {
        if (path == "backbone.norm_f.weight") {
          value = mx::full(value.shape(), NAN);
        }
      });
    }
  };
}

TEST(Trainer, EndsWhenTheLossIsNoLongerFinite) {
  const Windows windows(Dataset::from_tokens(some_tokens(400), kVocab), 16);
  const TemporaryDirectory place;
  RunFolder folder = RunFolder::create(place / "run", Json::object());
  models::MambaLM model = tiny_model();
  Settings s = quick_settings();
  s.save_every = 2;
  s.eval_every = 2;
  Hooks hooks = no_model_files();
  hooks.on_step = spoil_after_step_2(model);
  Trainer trainer(model, all_of(model), Batches(windows, {.batch_size = 2}), windows, s, folder, hooks);
  try {
    trainer.run();
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("step 3: the loss is nan"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("the checkpoint of step 2 is kept"), std::string::npos) << error.what();
  }
  EXPECT_EQ(folder.last(), 2);
  const std::vector<Json> lines = folder.rewind_metrics(100);
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_TRUE(lines[3]["loss"].is_null());
}

// Weights that overflow in the step after they were saved: the checkpoint before them is the good one.
TEST(Trainer, EndsWithTheLastGoodCheckpoint) {
  const Windows windows(Dataset::from_tokens(some_tokens(400), kVocab), 16);
  for (const int64_t keep : {1, 2}) {
    for (const int64_t eval_every : {0, 2, 3}) {  // 0: nothing held out
      const TemporaryDirectory place;
      RunFolder folder = RunFolder::create(place / "run", Json::object());
      models::MambaLM model = tiny_model();
      Settings s = quick_settings();
      s.save_every = 1;
      s.keep = keep;
      s.eval_every = eval_every;
      Hooks hooks = no_model_files();
      hooks.on_step = spoil_after_step_2(model);
      std::optional<Windows> held_out;
      if (eval_every > 0) {
        held_out = windows;
      }
      std::vector<std::filesystem::path> went_back_to;
      hooks.on_step_back = [&](const std::filesystem::path& good) { went_back_to.push_back(good); };
      Trainer trainer(model, all_of(model), Batches(windows, {.batch_size = 2}), held_out, s, folder, hooks);
      EXPECT_THROW(trainer.run(), Error);
      // After step 2 the weights were bad, so the checkpoint of three steps is; with eval_every 3 they had passed.
      const int64_t good = eval_every == 3 ? 3 : 2;
      EXPECT_EQ(folder.last(), good) << keep << " " << eval_every;
      const bool stepped_back = eval_every != 3;
      EXPECT_EQ(went_back_to,
                stepped_back ? std::vector{folder.checkpoint_path(2)} : std::vector<std::filesystem::path>{});
      EXPECT_EQ(folder.best(), eval_every == 0 ? 2 : eval_every) << keep;
    }
  }
}

TEST(Trainer, BestIsNamedBeforeAnythingIsHeldOut) {
  const Windows windows(Dataset::from_tokens(some_tokens(400), kVocab), 16);
  const TemporaryDirectory place;
  RunFolder folder = RunFolder::create(place / "run", Json::object());
  models::MambaLM model = tiny_model();
  Settings s = quick_settings();
  s.save_every = 1;
  s.eval_every = 4;
  std::vector<std::optional<int64_t>> best;
  Hooks hooks = no_model_files();
  hooks.on_checkpoint = [&] { best.push_back(folder.best()); };
  hooks.should_stop = [&] { return best.size() == 4; };
  Trainer trainer(model, all_of(model), Batches(windows, {.batch_size = 2}), windows, s, folder, hooks);
  EXPECT_EQ(trainer.run(), Outcome::kStopped);
  EXPECT_EQ(best, (std::vector<std::optional<int64_t>>{1, 2, 3, 4}));
  EXPECT_EQ(folder.checkpoints(), (std::vector<int64_t>{3, 4}));
}

// The very first step's weights overflow: they are no good checkpoint, and the message calls them none.
TEST(Trainer, EndsWithoutAGoodCheckpoint) {
  const Windows windows(Dataset::from_tokens(some_tokens(400), kVocab), 16);
  const TemporaryDirectory place;
  RunFolder folder = RunFolder::create(place / "run", Json::object());
  models::MambaLM model = tiny_model();
  Settings s = quick_settings();
  s.save_every = 1;
  s.schedule = "constant";
  s.lr = 1e30;
  Trainer trainer(model, all_of(model), Batches(windows, {.batch_size = 2}), std::nullopt, s, folder, no_model_files());
  try {
    trainer.run();
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("there is no good checkpoint yet"), std::string::npos) << error.what();
  }
}

TEST(Trainer, EndsWhenTheHeldOutLossIsNotFinite) {
  const Windows windows(Dataset::from_tokens(some_tokens(400), kVocab), 16);
  const TemporaryDirectory place;
  RunFolder folder = RunFolder::create(place / "run", Json::object());
  models::MambaLM model = tiny_model();
  Settings s = quick_settings();
  s.save_every = 1;
  s.eval_every = 1;
  s.schedule = "constant";
  s.lr = 1e30;
  Trainer trainer(model, all_of(model), Batches(windows, {.batch_size = 2}), windows, s, folder, no_model_files());
  try {
    trainer.run();
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("step 1: the held-out loss is"), std::string::npos) << error.what();
  }
  EXPECT_FALSE(folder.last().has_value());
  const std::vector<Json> lines = folder.rewind_metrics(100);
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_TRUE(lines[0]["eval_loss"].is_null());
}

TEST(Trainer, HeldOutLossDoesNotDependOnTheBatch) {
  const Windows windows(Dataset::from_tokens(some_tokens(500), kVocab), 16);
  const models::MambaLM model = tiny_model();
  const double one = held_out_loss(model, windows, {.batch_size = 1});
  EXPECT_NEAR(one, held_out_loss(model, windows, {.batch_size = 7}), 1e-6);
  EXPECT_NE(one, held_out_loss(model, windows, {.batch_size = 7, .most_windows = 3}));
}

TEST(Optimizer, DecaysWhatTheOfficialImplementationDecays) {
  for (const char* path :
       {"backbone.embeddings.weight", "backbone.layers.0.mixer.in_proj.weight", "backbone.layers.0.mixer.conv1d.weight",
        "backbone.layers.11.mixer.dt_proj.weight", "lm_head.weight", "backbone.layers.0.mixer.in_proj.lora_A.weight"}) {
    EXPECT_TRUE(decays(path)) << path;
  }
  for (const char* path : {"backbone.layers.0.mixer.A_log", "backbone.layers.0.mixer.D", "backbone.norm_f.weight",
                           "backbone.layers.0.norm.weight", "backbone.layers.0.mixer.dt_proj.bias",
                           "backbone.layers.0.mixer.conv1d.bias"}) {
    EXPECT_FALSE(decays(path)) << path;
  }
}

TEST(Optimizer, HoldsMastersInFloat32) {
  models::MambaLM model = tiny_model();
  const nn::ParameterMap before = nn::parameters(model);
  Optimizer optimizer(all_of(model), {.compute_dtype = mx::bfloat16});
  for (const auto& [path, value] : nn::parameters(model)) {
    const bool narrow = value.dtype() == mx::bfloat16;
    EXPECT_EQ(narrow, path.find("proj.weight") != std::string::npos || path.find("embeddings") != std::string::npos)
        << path;
  }
  for (const auto& [path, value] : optimizer.result(all_of(model))) {
    EXPECT_EQ(value.dtype(), mx::float32);
    EXPECT_TRUE(mx::array_equal(value, before.at(path)).item<bool>()) << path;
  }
}

TEST(Optimizer, GoesOnFromItsMoments) {
  const auto fixed = [](const mx::array& like) { return mx::full(like.shape(), 0.25f); };
  const auto step = [&](models::MambaLM& model, Optimizer& optimizer) {
    std::vector<mx::array> gradients;
    for (const mx::array& a : nn::parameter_list(model)) {
      gradients.push_back(fixed(a));
    }
    optimizer.step(all_of(model), gradients, 1e-2, mx::array(1.0f));
  };
  models::MambaLM straight = tiny_model();
  Optimizer first(all_of(straight), {});
  step(straight, first);
  models::MambaLM resumed = tiny_model();
  nn::set_parameter_list(resumed, nn::parameter_list(straight));
  Optimizer second(all_of(resumed), {});
  second.restore(all_of(resumed), first.moments(all_of(straight)), 1);
  step(straight, first);
  step(resumed, second);
  const nn::ParameterMap want = nn::parameters(straight);
  for (const auto& [path, value] : nn::parameters(resumed)) {
    EXPECT_TRUE(mx::array_equal(value, want.at(path)).item<bool>()) << path;
  }
  nn::ParameterMap lacking = first.moments(all_of(straight));
  lacking.erase("m.backbone.norm_f.weight");
  EXPECT_THROW(second.restore(all_of(resumed), lacking, 1), Error);
}

// Large enough for updates that wait until the next step's products.
TEST(Optimizer, StepsThatWaitForTheNextGiveTheSameBits) {
  const auto trained = [](bool at_once, mx::Dtype dtype) {
    models::MambaLM model({.vocab_size = 700, .d_model = 128, .n_layer = 2});
    models::initialize(model, 1);
    const Trainable trainable = all_of(model);
    Optimizer optimizer(trainable, {.compute_dtype = dtype});
    std::vector<mx::array> results;
    for (int step = 0; step < 3; ++step) {
      const mx::array ids =
          mx::astype(mx::remainder(mx::add(mx::arange(0, 2 * 65), mx::array(90 * step)), mx::array(700)), mx::int32);
      const mx::array rows = mx::reshape(ids, {2, 65});
      const Batch batch{.tokens = mx::contiguous(mx::slice(rows, {0, 0}, {2, 64})),
                        .targets = mx::contiguous(mx::slice(rows, {0, 1}, {2, 65})),
                        .resets = std::nullopt,
                        .target_count = 128};
      Gradients gradients = loss_and_gradients(model, trainable, batch, model.initial_state(2), 128);
      results.push_back(gradients.loss);
      optimizer.step(trainable, std::move(gradients.values), 1e-2, mx::array(0.5f));
      for (const mx::array& value : nn::parameter_list(model)) {
        EXPECT_EQ(value.status() == mx::array::Status::unscheduled, value.size() >= 65'536);
      }
      if (at_once) {
        mx::eval(nn::parameter_list(model));
      }
    }
    for (const nn::ParameterMap& map :
         {nn::parameters(model), optimizer.moments(trainable), optimizer.result(trainable)}) {
      for (const auto& [path, value] : map) {
        results.push_back(value);
      }
    }
    return results;
  };
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16}) {
    const std::vector<mx::array> want = trained(true, dtype);
    set_num_threads(1);
    const std::vector<mx::array> one_thread = trained(false, dtype);
    set_num_threads(0);
    const std::vector<mx::array> got = trained(false, dtype);
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) {
      EXPECT_TRUE(mx::array_equal(got[i], want[i]).item<bool>()) << i;
      EXPECT_TRUE(mx::array_equal(one_thread[i], want[i]).item<bool>()) << i;
    }
  }
}

TEST(Optimizer, AveragesWhatItEvaluatesAndSaves) {
  models::MambaLM model = tiny_model();
  const Trainable trainable = all_of(model);
  Optimizer optimizer(trainable, {.average_decay = 0.5, .compute_dtype = mx::bfloat16});
  nn::ParameterMap expected = optimizer.result(trainable);
  for (int64_t step = 1; step <= 3; ++step) {
    std::vector<mx::array> gradients;
    for (const mx::array& a : nn::parameter_list(model)) {
      gradients.push_back(mx::full(a.shape(), 0.1f * static_cast<float>(step)));
    }
    optimizer.step(trainable, gradients, 1e-2, mx::array(1.0f));
    const double decay = std::min(0.5, static_cast<double>(1 + step) / static_cast<double>(10 + step));
    const nn::ParameterMap parameters = optimizer.moments(trainable);
    for (auto& [path, value] : expected) {
      value = mx::add(mx::multiply(value, mx::array(static_cast<float>(decay))),
                      mx::multiply(parameters.at("p." + path), mx::array(static_cast<float>(1 - decay))));
    }
  }
  for (const auto& [path, value] : optimizer.result(trainable)) {
    EXPECT_TRUE(mx::allclose(value, expected.at(path), 1e-6, 1e-7).item<bool>()) << path;
  }
  const nn::ParameterMap before = nn::parameters(model);
  {
    const Optimizer::Averaged averaged(optimizer, trainable);
    const mx::array norm = nn::parameters(model).at("backbone.norm_f.weight");
    EXPECT_TRUE(mx::allclose(norm, expected.at("backbone.norm_f.weight")).item<bool>());
  }
  for (const auto& [path, value] : nn::parameters(model)) {
    EXPECT_TRUE(mx::array_equal(value, before.at(path)).item<bool>()) << path;
  }
}

TEST(Trainer, SavesAveragesFromTheModelToo) {
  const Windows windows(Dataset::from_tokens(some_tokens(400), kVocab), 16);
  const TemporaryDirectory place;
  RunFolder folder = RunFolder::create(place / "run", Json::object());
  models::MambaLM model = tiny_model();
  Settings s = quick_settings();
  s.average = 0.9;
  const std::string path = "backbone.layers.0.mixer.in_proj.weight";
  const auto weight = [&] { return nn::parameters(model).at(path); };
  std::optional<mx::array> saved;
  bool same_when_told = false;
  Hooks hooks;
  hooks.save_model = [&](const fs::path&, const nn::ParameterMap& parameters) {
    saved = parameters.at(path);
    EXPECT_TRUE(mx::array_equal(weight(), *saved).item<bool>());
  };
  hooks.on_checkpoint = [&] { same_when_told = mx::array_equal(weight(), *saved).item<bool>(); };
  Trainer trainer(model, all_of(model), Batches(windows, {.batch_size = 2}), std::nullopt, s, folder, hooks);
  trainer.run();
  ASSERT_TRUE(saved.has_value());
  EXPECT_TRUE(same_when_told);
  EXPECT_FALSE(mx::array_equal(weight(), *saved).item<bool>());  // the run goes on with the parameters
}

TEST(Trainer, DropoutIsRepeatableAndDoesNotDependOnRecomputation) {
  const Windows windows(Dataset::from_tokens(some_tokens(400), kVocab), 16);
  Settings s = quick_settings();
  models::MambaLM model = tiny_model();
  const std::vector<double> without = losses_of(s, windows, model);
  s.dropout = 0.3;
  model = tiny_model();
  const std::vector<double> once = losses_of(s, windows, model);
  s.recompute = true;
  model = tiny_model();
  EXPECT_EQ(once, losses_of(s, windows, model));
  EXPECT_NE(once, without);
  s.seed = 1;
  model = tiny_model();
  EXPECT_NE(once, losses_of(s, windows, model));
}

TEST(Settings, ReadWhatTheyWrote) {
  Settings s = quick_settings();
  s.dtype = "bfloat16";
  s.seed = 123456789;
  s.min_lr_ratio = 0.1;
  EXPECT_EQ(Settings::from_json(s.to_json(), "x").to_json(), s.to_json());
  s.dtype = "float16";
  EXPECT_THROW(s.check_sense(), UsageError);
}

}  // namespace
}  // namespace mamba::train
