#include "mamba/ops/model_step/cpu_step.h"

#include <mlx/allocator.h>
#include <mlx/ops.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <utility>

#include "mamba/base/error.h"
#include "mamba/base/threads.h"
#include "mamba/ops/cpu/node.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/linear/convert.h"
#include "mamba/ops/model_step/cpu_model.h"

namespace mamba::ops {

namespace mx = mlx::core;

namespace {

constexpr const char* kOp = "model_step";

// Gathered before it is dispatched.
struct Job {
  Job(std::shared_ptr<const CpuModel> model_, int64_t batch, cpu::Element element, cpu::Element residual)
      : model(std::move(model_)),
        buffers(model->blocks.front(), batch, element, residual, model->few_workspace(batch)) {}

  std::shared_ptr<const CpuModel> model;
  step::StepBuffers buffers;
  const void* h = nullptr;
  step::BlockRun::States states{};  // of the first block
  linear_detail::OutRows logits;

  void project(int64_t begin, int64_t end) {
    model->output->few_columns(buffers.packed, buffers.batch, buffers.normed.rows.type, nullptr, begin, end, logits);
  }

  // The same of block `index`.
  step::BlockRun::States states_of(size_t index) const {
    const step::CpuBlock& block = model->blocks.front();
    const auto rows = static_cast<size_t>(buffers.batch * block.channels()) * index;
    const auto size = static_cast<size_t>(linear_detail::size_of(buffers.xz.out.type));
    const size_t conv = rows * static_cast<size_t>(block.taps() - 1) * size;
    const size_t ssm = rows * static_cast<size_t>(block.states());
    return {.conv = static_cast<const uint8_t*>(states.conv) + conv,
            .conv_after = static_cast<uint8_t*>(states.conv_after) + conv,
            .ssm = states.ssm + ssm,
            .ssm_after = states.ssm_after + ssm};
  }

  void run() {
    const std::unique_lock<std::mutex> locked = linear_detail::Workspace::instance().lock();
    buffers.place(linear_detail::Workspace::instance().data());
    const std::vector<step::CpuBlock>& blocks = model->blocks;
    const auto h_bytes = buffers.batch * buffers.h.columns * linear_detail::size_of(buffers.h.out.type);
    std::memcpy(buffers.h.data, h, static_cast<size_t>(h_bytes));
    step::normalise(blocks.front().norm, *blocks.front().in_proj, buffers, 0, buffers.batch);
    std::vector<step::BlockRun> runs;
    std::vector<Phase> phases;
    runs.reserve(blocks.size());
    phases.reserve(step::BlockRun::kMostPhases * blocks.size() + 1);
    for (size_t i = 0; i < blocks.size(); ++i) {
      const bool is_last = i + 1 == blocks.size();
      const step::BlockRun::Next next = {.norm = is_last ? &model->norm_f : &blocks[i + 1].norm,
                                         .matrix = is_last ? &*model->output : &*blocks[i + 1].in_proj};
      runs.emplace_back(blocks[i], buffers, states_of(i), next).append_phases(phases);
    }
    phases.push_back(
        {.count = model->output->n, .grain = model->output->few_step(), .body = RangeFn::to<&Job::project>(*this)});
    parallel_phases(phases);
  }
};

struct Settings {
  std::shared_ptr<const CpuModel> model;

  bool operator==(const Settings& other) const { return model == other.model; }
};

class CpuModelStep : public cpu::CpuNode<CpuModelStep, Settings> {
 public:
  static constexpr const char* kOp = mamba::ops::kOp;
  using CpuNode::CpuNode;

  // Inputs: h, conv, ssm.
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    mx::cpu::CommandEncoder& encoder = mx::cpu::get_command_encoder(stream());
    const auto batch = inputs[0].shape(0);
    const auto job =
        std::make_shared<Job>(settings_.model, batch, cpu::element_of(inputs[1]), cpu::element_of(inputs[0]));
    const auto read = [&](size_t i) {
      const mx::array array = row_contiguous(inputs[i], encoder);
      encoder.set_input_array(array);
      return array.data<void>();
    };
    job->h = read(0);
    job->states.conv = read(1);
    job->states.ssm = static_cast<const float*>(read(2));
    // A step reads the states once and writes them once: in place where nobody else holds them.
    allocate(outputs[0]);
    take_over_or_allocate(inputs, 1, outputs);
    for (mx::array& out : outputs) {
      encoder.set_output_array(out);
    }
    job->states.conv_after = outputs[1].data<void>();
    job->states.ssm_after = outputs[2].data<float>();
    for (int64_t row = 0; row < batch; ++row) {
      job->logits.rows.push_back(outputs[0].data<float>() + row * outputs[0].shape(1));
    }
    linear_detail::Workspace::instance().reserve(job->buffers.floats());
    encoder.dispatch([job] { job->run(); });
  }

  std::vector<mx::array> vjp(const std::vector<mx::array>&, const std::vector<mx::array>&, const std::vector<int>&,
                             const std::vector<mx::array>&) override {
    throw Error("[model_step] has no gradient");
  }

  const char* name() const override { return "CpuModelStep"; }
};

void check_states(const CpuModel& model, int batch, mx::Dtype h, const mx::array& conv, const mx::array& ssm) {
  const step::CpuBlock& block = model.blocks.front();
  const auto layers = static_cast<int>(model.blocks.size());
  check(batch > 0, "[{}] there are no sequences", kOp);
  check_shape(kOp, "conv", conv, {layers, batch, block.taps() - 1, block.channels()});
  check_shape(kOp, "ssm", ssm, {layers, batch, block.channels(), block.states()});
  check_float(kOp, "conv", conv);
  check(ssm.dtype() == mx::float32, "[{}] ssm must be float32 but is {}", kOp, shown(ssm.dtype()));
  check(h == mx::float32 || h == conv.dtype(), "[{}] h must be float32 or {} but is {}", kOp, shown(conv.dtype()),
        shown(h));
}

// Memory of no values yet.
mx::array made(const mx::Shape& shape, mx::Dtype dtype) {
  size_t bytes = dtype.size();
  for (const int axis : shape) {
    bytes *= static_cast<size_t>(axis);
  }
  return mx::array(mx::allocator::malloc(bytes), shape, dtype);
}

// Rows of the embeddings as buffers.h has them.
std::vector<uint8_t> embedded(const CpuModel& model, std::span<const int32_t> tokens,
                              const step::StepBuffers& buffers) {
  const linear_detail::Weights& embeddings = **model.embeddings;
  const linear_detail::Float narrow = buffers.normed.out.type, wide = buffers.h.out.type;
  const auto size = static_cast<size_t>(embeddings.k * linear_detail::size_of(wide));
  std::vector<uint8_t> rows(tokens.size() * size);
  std::vector<uint8_t> row(static_cast<size_t>(embeddings.k * linear_detail::size_of(narrow)));
  for (size_t i = 0; i < tokens.size(); ++i) {
    // An id outside the rows is the caller's fault, but must not read outside them.
    const auto id = std::clamp<int64_t>(tokens[i], 0, embeddings.n - 1);
    if (narrow == wide) {
      embeddings.row(id, wide, rows.data() + i * size);
    } else {
      embeddings.row(id, narrow, row.data());
      linear_detail::widen(row.data(), narrow, embeddings.k, reinterpret_cast<float*>(rows.data() + i * size));
    }
  }
  return rows;
}

}  // namespace

bool can_step_on_cpu(const mx::Stream& stream) {
  return on_cpu(stream);
}

std::shared_ptr<const CpuModel> read_for_cpu_step(const CpuModelStepWeights& weights, const mx::Stream& stream) {
  check(can_step_on_cpu(stream), "[{}] this one runs on CPU streams alone", kOp);
  return std::make_shared<const CpuModel>(weights, stream);
}

ModelStepOutputs cpu_model_step(const mx::array& h, const mx::array& conv, const mx::array& ssm,
                                const std::shared_ptr<const CpuModel>& model, const mx::Stream& stream) {
  check_shape(kOp, "h", h, {-1, model->blocks.front().width()});
  const int batch = h.shape(0);
  check_states(*model, batch, h.dtype(), conv, ssm);
  check(can_step_on_cpu(stream), "[{}] this one runs on CPU streams alone", kOp);
  std::vector<mx::array> out =
      mx::array::make_arrays({{batch, static_cast<int>(model->output->n)}, conv.shape(), ssm.shape()},
                             {mx::float32, conv.dtype(), mx::float32},
                             std::make_shared<CpuModelStep>(stream, Settings{model}), {h, conv, ssm});
  return {std::move(out[0]), std::move(out[1]), std::move(out[2])};
}

mx::array cpu_model_step_now(std::span<const int32_t> tokens, mx::Dtype residual, mx::array& conv, mx::array& ssm,
                             const std::shared_ptr<const CpuModel>& model) {
  check(model->embeddings.has_value(), "[{}] there are no embeddings", kOp);
  const auto batch = static_cast<int>(tokens.size());
  check_states(*model, batch, residual, conv, ssm);
  for (mx::array* state : {&conv, &ssm}) {
    state->eval();
    if (!state->flags().row_contiguous) {
      *state = mx::contiguous(*state);
      state->eval();
    }
  }
  const cpu::Element element = cpu::element_of(conv);
  Job job(model, batch, element, residual == mx::float32 ? cpu::Element::kFloat32 : element);
  mx::array next_conv = is_free(conv) ? conv : made(conv.shape(), conv.dtype());
  mx::array next_ssm = is_free(ssm) ? ssm : made(ssm.shape(), ssm.dtype());
  mx::array logits = made({batch, static_cast<int>(model->output->n)}, mx::float32);
  job.states = {.conv = conv.data<void>(),
                .conv_after = next_conv.data<void>(),
                .ssm = ssm.data<float>(),
                .ssm_after = next_ssm.data<float>()};
  for (int row = 0; row < batch; ++row) {
    job.logits.rows.push_back(logits.data<float>() + int64_t{row} * logits.shape(1));
  }
  const std::vector<uint8_t> h = embedded(*model, tokens, job.buffers);
  job.h = h.data();
  linear_detail::Workspace::instance().reserve(job.buffers.floats());
  job.run();
  conv = std::move(next_conv);
  ssm = std::move(next_ssm);
  return logits;
}

}  // namespace mamba::ops
