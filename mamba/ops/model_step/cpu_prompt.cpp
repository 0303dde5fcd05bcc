#include "mamba/ops/model_step/cpu_prompt.h"

#include <mlx/backend/cpu/encoder.h>

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

#include "mamba/base/threads.h"
#include "mamba/ops/block_step/cpu_prompt.h"
#include "mamba/ops/cpu/node.h"
#include "mamba/ops/model_step/cpu_model.h"

namespace mamba::ops {

namespace mx = mlx::core;

namespace {

// Fewer rows take kernels of another order (Weights::few_rows_limit), and more would need much memory.
constexpr int kFewestTokens = 64;
constexpr int kMostTokens = 1024;
// Of more threads some would find no columns of out_proj.
constexpr int kMostThreads = 8;

// Gathered before it is dispatched.
struct Job {
  std::shared_ptr<const CpuModel> model;
  const step::CpuBlock* block;
  step::PromptBuffers buffers;
  int64_t batch;
  step::PromptRun::Sequence first{};

  void run() {
    const std::unique_lock<std::mutex> locked = linear_detail::Workspace::instance().lock();
    buffers.place(linear_detail::Workspace::instance().data());
    const int64_t size = linear_detail::size_of(buffers.xz.out.type);
    const int64_t h = buffers.length * block->width() * linear_detail::size_of(step::float_of(buffers.residual));
    const int64_t conv = int64_t{block->taps() - 1} * block->channels() * size;
    const int64_t ssm = int64_t{block->channels()} * block->states();
    for (int64_t b = 0; b < batch; ++b) {
      const step::PromptRun::Sequence sequence = {.h = static_cast<const uint8_t*>(first.h) + b * h,
                                                  .h_after = static_cast<uint8_t*>(first.h_after) + b * h,
                                                  .conv = static_cast<const uint8_t*>(first.conv) + b * conv,
                                                  .conv_after = static_cast<uint8_t*>(first.conv_after) + b * conv,
                                                  .ssm = first.ssm + b * ssm,
                                                  .ssm_after = first.ssm_after + b * ssm};
      step::PromptRun(*block, buffers, sequence).run();
    }
  }
};

struct Settings {
  std::shared_ptr<const CpuModel> model;
  size_t index;

  bool operator==(const Settings& other) const { return model == other.model && index == other.index; }
};

class CpuPromptBlock : public cpu::CpuNode<CpuPromptBlock, Settings> {
 public:
  static constexpr const char* kOp = "model_step";
  using CpuNode::CpuNode;

  // Inputs and outputs: h, conv, ssm.
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    mx::cpu::CommandEncoder& encoder = mx::cpu::get_command_encoder(stream());
    const step::CpuBlock& block = settings_.model->blocks[settings_.index];
    const auto job = std::make_shared<Job>(
        Job{.model = settings_.model,
            .block = &block,
            .buffers = {block, inputs[0].shape(1), cpu::element_of(inputs[1]), cpu::element_of(inputs[0])},
            .batch = inputs[0].shape(0)});
    const auto read = [&](size_t i) {
      const mx::array array = row_contiguous(inputs[i], encoder);
      encoder.set_input_array(array);
      return array.data<void>();
    };
    job->first.h = read(0);
    job->first.conv = read(1);
    job->first.ssm = static_cast<const float*>(read(2));
    take_over_or_allocate(inputs, 0, outputs);
    for (mx::array& out : outputs) {
      encoder.set_output_array(out);
    }
    job->first.h_after = outputs[0].data<void>();
    job->first.conv_after = outputs[1].data<void>();
    job->first.ssm_after = outputs[2].data<float>();
    linear_detail::Workspace::instance().reserve(job->buffers.floats());
    encoder.dispatch([job] { job->run(); });
  }

  std::vector<mx::array> vjp(const std::vector<mx::array>&, const std::vector<mx::array>&, const std::vector<int>&,
                             const std::vector<mx::array>&) override {
    throw Error("[model_step] has no gradient");
  }

  const char* name() const override { return "CpuPromptBlock"; }
};

}  // namespace

bool can_take_prompt(const CpuModel& model, int length, mx::Dtype dtype) {
  const bool pays = length >= kFewestTokens && length <= kMostTokens && num_threads() <= kMostThreads;
  return pays && std::all_of(model.blocks.begin(), model.blocks.end(), [&](const step::CpuBlock& block) {
           return step::can_take_prompt(block, linear_detail::float_type(dtype));
         });
}

PromptOutputs cpu_prompt_block(const mx::array& h, const mx::array& conv, const mx::array& ssm,
                               const std::shared_ptr<const CpuModel>& model, size_t index, const mx::Stream& stream) {
  constexpr const char* kOp = CpuPromptBlock::kOp;
  check(index < model->blocks.size(), "[{}] there is no block {}", kOp, index);
  const step::CpuBlock& block = model->blocks[index];
  check_shape(kOp, "h", h, {-1, -1, block.width()});
  const int batch = h.shape(0);
  check_shape(kOp, "conv", conv, {batch, block.taps() - 1, block.channels()});
  check_shape(kOp, "ssm", ssm, {batch, block.channels(), block.states()});
  check_float(kOp, "conv", conv);
  check(ssm.dtype() == mx::float32, "[{}] ssm must be float32 but is {}", kOp, shown(ssm.dtype()));
  check(h.dtype() == mx::float32 || h.dtype() == conv.dtype(), "[{}] h must be float32 or {} but is {}", kOp,
        shown(conv.dtype()), shown(h.dtype()));
  check(can_step_on_cpu(stream) && can_take_prompt(*model, h.shape(1), conv.dtype()),
        "[{}] {} tokens cannot be taken at once here", kOp, h.shape(1));
  std::vector<mx::array> out =
      mx::array::make_arrays({h.shape(), conv.shape(), ssm.shape()}, {h.dtype(), conv.dtype(), mx::float32},
                             std::make_shared<CpuPromptBlock>(stream, Settings{model, index}), {h, conv, ssm});
  return {std::move(out[0]), std::move(out[1]), std::move(out[2])};
}

}  // namespace mamba::ops
