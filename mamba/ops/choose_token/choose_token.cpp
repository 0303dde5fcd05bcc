#include "mamba/ops/choose_token/choose_token.h"

#include "mamba/base/error.h"
#include "mamba/ops/choose_token/gpu.h"
#include "mamba/ops/dispatch.h"

namespace mamba::ops {

namespace mx = mlx::core;

namespace {

constexpr const char* kOp = "choose_token";

void check_inputs(const ChooseTokenInputs& in) {
  check_shape(kOp, "logits", in.logits, {-1, -1});
  const int rows = in.logits.shape(0);
  check_shape(kOp, "settings", in.settings, {rows, kTokenSettings});
  check_shape(kOp, "draws", in.draws, {rows});
  check(in.logits.dtype() == mx::float32 && in.settings.dtype() == mx::float32 && in.draws.dtype() == mx::float32,
        "[{}] logits, settings and draws must be float32", kOp);
  // Ids are told apart as float32 in the kernel.
  check(in.logits.shape(1) >= 1 && in.logits.shape(1) < (1 << 24), "[{}] {} words are none or too many", kOp,
        in.logits.shape(1));
  if (in.seen) {
    check(in.seen->dtype() == mx::uint8 && in.seen->shape() == in.logits.shape(), "[{}] seen must be {} uint8", kOp,
          shown(in.logits.shape()));
  }
}

}  // namespace

ChooseTokenOutputs choose_token(const ChooseTokenInputs& in, mx::StreamOrDevice s) {
  check_inputs(in);
  const mx::Stream stream = mx::to_stream(s);
  return on_cpu(stream) ? choose_token_reference(in, stream) : token::gpu_choose(in, stream);
}

}  // namespace mamba::ops
