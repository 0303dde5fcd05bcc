#include "mamba/generate/session_state.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include "mamba/base/error.h"
#include "mamba/io/safetensors.h"
#include "mamba/io/save.h"

namespace mamba::generate {

namespace mx = mlx::core;

namespace {

constexpr const char* kFormat = "mlx-mamba session 1";

// What a state's arrays depend on. Two checkpoints with the same sizes cannot be told apart by them.
std::string sizes(const models::Config& config) {
  return fmt::format("d_model {}, d_inner {}, d_state {}, d_conv {}, n_layer {}, vocabulary {}", config.d_model,
                     config.d_inner, config.d_state, config.d_conv, config.n_layer, config.vocab_size);
}

}  // namespace

void save_session(const std::filesystem::path& path, const SessionState& session, const models::Config& config) {
  check(session.state.batch() == 1, "[save_session] a session holds one sequence, not {}", session.state.batch());
  std::map<std::string, mx::array> tensors = session.state.named_arrays();
  tensors.emplace("next_logits", session.next_logits);
  tensors.emplace("history", mx::array(session.history.begin(), {static_cast<int>(session.history.size())}, mx::int32));
  io::save_safetensors(path, io::to_save(tensors), {{"format", kFormat}, {"model", sizes(config)}});
}

SessionState load_session(const std::filesystem::path& path, const models::MambaLM& model) {
  const auto file = io::open_safetensors(path);
  const auto metadata = file->metadata();
  const auto format = metadata.find("format");
  check(format != metadata.end() && format->second == kFormat,
        "{}: is no saved state of this program (metadata \"format\" is not \"{}\")", path.string(), kFormat);
  const auto model_sizes = metadata.find("model");
  check(model_sizes != metadata.end() && model_sizes->second == sizes(model.config()),
        "{}: was saved from another model ({}) than this one ({})", path.string(),
        model_sizes == metadata.end() ? "unknown" : model_sizes->second, sizes(model.config()));
  const auto load = [&](const std::string& name, const mx::Shape& shape, mx::Dtype dtype) {
    const mx::array a = file->load(name);
    check(a.dtype() == dtype && (shape.empty() || a.shape() == shape),
          "{}: {} has another shape or dtype than expected", path.string(), name);
    return a;
  };
  const models::Config& config = model.config();
  SessionState session{
      .state = {}, .next_logits = load("next_logits", {config.vocab_size}, mx::float32), .history = {}};
  for (int i = 0; i < config.n_layer; ++i) {
    // Another dtype of the same model is welcome: the convolution's inputs are converted.
    const mx::array conv = file->load(models::State::array_name(static_cast<size_t>(i), "conv"));
    session.state.layers.push_back(
        {mx::astype(conv, model.dtype()), load(models::State::array_name(static_cast<size_t>(i), "ssm"),
                                               {1, config.d_inner, config.d_state}, mx::float32)});
  }
  session.state.check_fits(config);
  mx::array history = load("history", {}, mx::int32);
  check(history.ndim() == 1, "{}: history must have one axis", path.string());
  mx::eval(history);
  session.history.assign(history.data<int32_t>(), history.data<int32_t>() + history.size());
  if (!session.history.empty()) {
    model.check_tokens(session.history);
  }
  return session;
}

}  // namespace mamba::generate
