// choose_token: from logits to a token, on the device where the logits are. The steps, their order and their edge cases
// are those of transformers' generate(): repetition penalty; then, when sampling, temperature, top-k, top-p, min-p;
// then one draw.
//
//   logits    (B, V) float32
//   settings  (B, kTokenSettings) float32, columns as in TokenSetting
//   draws     (B,) float32 in [0, 1): what the rows' draws are made from
//   seen      (B, V) uint8: nonzero where the penalty applies; absent where no row has one
//   chosen    (B, 2) int32: the token, then the bits of a float32, its log probability under the logits themselves
//   seen      (B, V) uint8: with the chosen token added
//
// Among equal largest logits the lowest id is taken. The draw walks the tokens that are kept by id modulo kDrawOrder,
// then by id, to where their probabilities pass `draws`. Sums are float32, in the same order every time. Not
// differentiable.
#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <optional>

namespace mamba::ops {

enum TokenSetting {
  kTemperature,        // 0: greedy
  kTopK,               // 0: all
  kTopP,               // 1: all
  kMinP,               // 0: all
  kRepetitionPenalty,  // 1: none
  kTokenSettings
};

struct ChooseTokenInputs {
  mlx::core::array logits;
  mlx::core::array settings;
  mlx::core::array draws;
  std::optional<mlx::core::array> seen;
};

struct ChooseTokenOutputs {
  mlx::core::array chosen;
  std::optional<mlx::core::array> seen;  // where one was given
};

// Throws Error when shapes or dtypes do not fit. A kernel on GPUs, the reference on CPUs.
ChooseTokenOutputs choose_token(const ChooseTokenInputs& in, mlx::core::StreamOrDevice s = {});

constexpr int kDrawOrder = 1024;

// The same in plain MLX operations. The draw walks by id modulo `order`.
ChooseTokenOutputs choose_token_reference(const ChooseTokenInputs& in, mlx::core::StreamOrDevice s = {},
                                          int order = kDrawOrder);

}  // namespace mamba::ops
