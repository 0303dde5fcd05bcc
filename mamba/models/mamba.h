// Mamba-1: the language model of "Mamba: Linear-Time Sequence Modeling with Selective State Spaces"
// (Gu & Dao 2023), block of figure 3, layers and names as in the official checkpoints.
#pragma once

#include <mlx/array.h>
#include <mlx/stream.h>
#include <mlx/utils.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "mamba/models/block.h"
#include "mamba/models/config.h"
#include "mamba/models/state.h"
#include "mamba/nn/layers.h"
#include "mamba/ops/model_step/model_step.h"

namespace mamba::ops {
class CpuModel;
}  // namespace mamba::ops

namespace mamba::models {

// Which positions of each row of (B, L) are tokens: row b's are [begin, end). Left padding has begin > 0, right
// padding end < L; what lies outside is ignored, and each sequence gets exactly what it gets alone.
struct Span {
  int begin = 0;
  int end = 0;
};
using Spans = std::vector<Span>;

// Spans of right-padded rows with these many tokens each.
Spans right_padded(const std::vector<int>& lengths);

// More of them keep a GPU busy with each block longer than a host needs to send it.
constexpr size_t kManyTokens = 4096;

// Options of the forward pass.
struct ForwardOptions {
  std::optional<Spans> spans;              // one per row; none: every position is a token
  std::optional<mlx::core::array> resets;  // (B, L) uint8: a new document starts where nonzero
  // For training: keep only what goes into each block, and compute the block again for its gradients. The same
  // gradients, bit for bit, for about a third more time and a fraction of the memory.
  bool recompute = false;
  // No gradient passes through the states before and after the text, as in training: less is to be done on GPUs then.
  bool constant_states = false;
  // Gets what every few blocks end in, for those who evaluate piece by piece: MLX has memory for all it has sent.
  std::vector<mlx::core::array>* pieces = nullptr;
  // Likewise of the backward pass, last block first: four lists for each block, as many as it is sent in, where its
  // gradients are written out.
  std::vector<std::vector<mlx::core::array>>* backward_pieces = nullptr;
  // Evaluate each layer, or on GPUs send a few of them at a time. MLX runs ahead of the kernels, on the CPU by a
  // hundred nodes, all of which have their results' memory already: half the layers of a model.
  bool evaluate = false;
  // For training: of the embeddings and of what each block gives, each with a mask of its own.
  Dropout dropout = {};
};

// How step() goes about it: as hidden() does, each block's mixer fused, or all layers at once.
enum class StepWay { kFastest, kOperations, kMixer, kStacked };

class MambaLM {
 public:
  // Parameters without values: fill them through visit(), by load_model() or initialize().
  explicit MambaLM(Config config);

  const Config& config() const { return config_; }

  // What it computes in, unless set_dtype() said otherwise: the dtype of in_proj's weights, float32 where those are
  // quantised.
  mlx::core::Dtype dtype() const;
  void set_dtype(std::optional<mlx::core::Dtype> dtype) { dtype_ = dtype; }

  // Parameters by checkpoint key ("backbone.layers.0.mixer.A_log", ...), in a fixed order. Undoes prepare(), since the
  // visitor may replace them.
  void visit(const std::string& path, const nn::ParameterVisitor& visitor);

  // The layers that low-rank adapters act on, by path ("backbone.layers.0.mixer.in_proj"), in a fixed order. Leave
  // their weights as they are, or visit() afterwards.
  void visit_linears(const std::string& path, const nn::LinearVisitor& visitor);

  // Every matrix that may be quantised, by path: the embeddings, visit_linears()'s, and the output layer where it is
  // one of its own. Who changes which ones are quantised calls set_quantization() with what config() then says of it.
  // Undoes what prepare() reads for steps on CPUs: prepare() afterwards.
  void visit_matrices(const std::string& path, const nn::MatrixVisitor& visitor);
  void set_quantization(std::optional<QuantizationConfig> quantization);
  bool is_quantized() const { return config_.quantization.has_value(); }

  // Computes once what each call would compute anew from the parameters (A, for one), packs quantised matrices
  // (ops/quantized_linear/packed.h), stacks layers and keeps what float32 products on GPUs take of weights, each where
  // that is the fastest way to generate. Optional; for inference.
  void prepare();

  // Lays the layers' weights side by side, so that step() can take all layers in one launch; afterwards they are views
  // of that. False, and nothing done, where there are adapters, quantised weights, biases of large layers, or dtypes
  // differ. After prepare().
  bool stack_layers();

  // Final hidden states (B, L, d_model) of tokens (B, L) int32 from `state`, and the state after them. Nothing is
  // evaluated, so it differentiates; memory grows with L. Ids must lie in the vocabulary: check_tokens().
  std::pair<mlx::core::array, State> hidden(const mlx::core::array& tokens, const State& state,
                                            const ForwardOptions& options = {}, mlx::core::StreamOrDevice s = {}) const;

  // The same from the tokens' embeddings (B, L, d_model) in dtype(): rows of embedding_weight().
  std::pair<mlx::core::array, State> hidden_of(const mlx::core::array& embeddings, const State& state,
                                               const ForwardOptions& options = {},
                                               mlx::core::StreamOrDevice s = {}) const;
  const mlx::core::array& embedding_weight() const;  // (vocab, d_model); throws UsageError where it is quantised

  // (B, L, d_model) -> (B, L, vocab) float32. `spans` (B, 2) int32 as in ops/linear/linear.h.
  mlx::core::array logits(const mlx::core::array& hidden, const std::optional<mlx::core::array>& spans = {},
                          mlx::core::StreamOrDevice s = {}) const;

  // One token (B,) int32 for each sequence: the logits (B, vocab) float32 that follow, and the state. Nothing is
  // evaluated. Where the model is prepared and has no adapters, fused and then not differentiable: on CPUs under Linux
  // always (ops/model_step), on GPUs where no weights are quantised and large layers have no biases (ops/block_step).
  std::pair<mlx::core::array, State> step(const mlx::core::array& tokens, const State& state,
                                          StepWay way = StepWay::kFastest, mlx::core::StreamOrDevice s = {}) const;

  // The same in one launch (ops/model_step) for all sequences, with tokens as there, and the fastest of all: on CPUs
  // under Linux where the model is prepared and has no adapters, on GPUs where layers are stacked and the device can do
  // it.
  bool steps_stacked(int batch, mlx::core::StreamOrDevice s = {}) const;
  std::pair<mlx::core::array, StackedState> step(const mlx::core::array& tokens, const StackedState& state,
                                                 mlx::core::StreamOrDevice s = {}) const;

  // The same at once, on the calling thread: the logits, and `state` becomes the next one, in place where nobody else
  // holds it. On CPUs, as steps_stacked().
  bool steps_at_once() const;
  mlx::core::array step_at_once(std::span<const int32_t> tokens, StackedState& state) const;

  // The weights that logits() multiplies with: (vocab, d_model). Throws UsageError where they are quantised.
  const mlx::core::array& output_weight() const;

  // Walks `tokens` in chunks of kChunk positions, evaluates each, and passes its first position, its final hidden
  // states (B, l, d_model) and its spans (none: all of it). Rows come right-padded, whatever the padding was: row b's
  // tokens stand at [0, end - begin). `state` becomes the one after all of them.
  using OnChunk = std::function<void(int first, const mlx::core::array& hidden, const std::optional<Spans>& spans)>;
  void for_each_chunk(const mlx::core::array& tokens, State& state, const ForwardOptions& options,
                      const OnChunk& on_chunk) const;

  // Logits (B, L, vocab) float32 of any number of tokens from any state; `state` becomes the one after them. Works in
  // chunks of kChunk positions and evaluates each, so that only the result grows with L.
  mlx::core::array forward(const mlx::core::array& tokens, State& state, const ForwardOptions& options = {}) const;

  // The same, but only the logits (B, vocab) after each row's last token: constant memory. Rows without tokens get
  // zeros.
  mlx::core::array prefill(const mlx::core::array& tokens, State& state, const ForwardOptions& options = {}) const;

  // Throws UsageError naming the first id outside [0, vocab_size), and for an empty list.
  void check_tokens(std::span<const int32_t> tokens) const;

  State initial_state(int batch = 1) const { return State::zeros(config_, batch, dtype()); }

  // Positions a prompt is worked on at a time: large enough for the matrix products to run at full speed, small
  // enough that a chunk's activations stay in the tens of megabytes.
  static constexpr int kChunk = 512;
  // The same on GPUs, where a launch costs as much as much work.
  static constexpr int kGpuChunk = 2048;

 private:
  const nn::Matrix& output() const;

  Config config_;
  std::optional<mlx::core::Dtype> dtype_;
  nn::Embedding embeddings_;
  std::vector<Block> layers_;
  nn::RmsNorm norm_f_;
  std::optional<nn::Linear> lm_head_;       // none: tied to the embeddings
  std::vector<DerivedParameters> derived_;  // empty until prepare()
  // Of 16-bit output weights, where MLX multiplies: float32 logits would widen them each time. From prepare() on.
  std::optional<mlx::core::array> wide_output_weight_;

  std::optional<ops::ModelStepWeights> stacked_;    // from stack_layers() on
  std::shared_ptr<const ops::CpuModel> cpu_model_;  // from prepare() on, on CPUs

  bool is_fusible() const;
  void read_for_cpu_step();
  void keep_operands();
  bool has_adapters() const;
  // Whether hidden_by_blocks(), a node a block (ops/model_step/cpu_prompt.h), does what the options ask for.
  bool takes_prompt_blocks(int length, const ForwardOptions& options, const mlx::core::Stream& stream) const;
  std::pair<mlx::core::array, State> hidden_by_blocks(const mlx::core::array& embeddings, const State& state,
                                                      mlx::core::Dtype residual, const mlx::core::Stream& stream) const;
  StepWay fastest_step(const mlx::core::Stream& stream) const;
  std::pair<mlx::core::array, State> step_fused(const mlx::core::array& embeddings, const State& state,
                                                const mlx::core::Stream& stream) const;
};

}  // namespace mamba::models
