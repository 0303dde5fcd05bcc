#include "mamba/ops/settled/settled.h"

#include <mlx/ops.h>

#include <cstring>
#include <utility>
#include <vector>

#include "mamba/base/threads.h"
#include "mamba/ops/cpu/node.h"
#include "mamba/ops/dispatch.h"

namespace mamba::ops {

namespace mx = mlx::core;

namespace {

struct Settings {
  std::shared_ptr<SlicedWork> work;
  int64_t slice_elements;
  bool operator==(const Settings&) const = default;
};

class Settled : public cpu::CpuNode<Settled, Settings> {
 public:
  static constexpr const char* kOp = "settled";
  using CpuNode::CpuNode;

  const Settings& settings() const { return settings_; }

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    mx::cpu::CommandEncoder& encoder = mx::cpu::get_command_encoder(stream());
    encoder.set_input_array(inputs[0]);
    outputs[0].copy_shared_buffer(inputs[0]);
    encoder.set_output_array(outputs[0]);
    encoder.dispatch([work = settings_.work] { work->finish(); });
  }

  std::vector<mx::array> vjp(const std::vector<mx::array>&, const std::vector<mx::array>& cotangents,
                             const std::vector<int>&, const std::vector<mx::array>&) override {
    return cotangents;
  }

  const char* name() const override { return "Settled"; }
};

// Inputs: what the work writes, and ids.
class RowsAt : public cpu::CpuGradientNode<RowsAt, Settings> {
 public:
  static constexpr const char* kOp = "rows_at";
  using CpuGradientNode::CpuGradientNode;

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    mx::cpu::CommandEncoder& encoder = mx::cpu::get_command_encoder(stream());
    const mx::array ids = row_contiguous(inputs[1], encoder);
    allocate(outputs[0]);
    encoder.set_input_array(inputs[0]);
    encoder.set_input_array(ids);
    encoder.set_output_array(outputs[0]);
    const int64_t rows = inputs[0].shape(0);
    const int64_t width = inputs[0].shape(1);
    const auto row_bytes = static_cast<int64_t>(inputs[0].itemsize()) * width;
    encoder.dispatch([work = settings_.work, per_slice = settings_.slice_elements, rows, width, row_bytes,
                      count = static_cast<int64_t>(ids.size()), id = ids.data<int32_t>(), from = inputs[0].data<char>(),
                      to = outputs[0].data<char>()] {
      parallel_for(count, 8, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t row = id[i] < 0 ? id[i] + rows : id[i];
          if (row < 0 || row >= rows) {
            std::memset(to + i * row_bytes, 0, static_cast<size_t>(row_bytes));
            continue;
          }
          for (int64_t slice = row * width / per_slice; slice <= ((row + 1) * width - 1) / per_slice; ++slice) {
            work->finish(slice);
          }
          std::memcpy(to + i * row_bytes, from + row * row_bytes, static_cast<size_t>(row_bytes));
        }
      });
    });
  }

  const char* name() const override { return "RowsAt"; }
};

}  // namespace

mx::array settled(const mx::array& a, std::shared_ptr<SlicedWork> work, int64_t slice_elements, mx::StreamOrDevice s) {
  auto node = std::make_shared<Settled>(mx::to_stream(s), Settings{std::move(work), slice_elements});
  return mx::array(a.shape(), a.dtype(), std::move(node), {a});
}

mx::array rows_at(const mx::array& table, const mx::array& ids, mx::StreamOrDevice s) {
  const mx::Stream stream = mx::to_stream(s);
  const bool waits = table.status() == mx::array::Status::unscheduled && table.has_primitive() && on_cpu(stream);
  const Settled* node = waits ? dynamic_cast<const Settled*>(&table.primitive()) : nullptr;
  if (node == nullptr || table.ndim() != 2 || table.shape(1) == 0 || ids.dtype() != mx::int32) {
    return mx::take(table, ids, 0, stream);
  }
  mx::Shape shape = ids.shape();
  shape.push_back(table.shape(1));
  return mx::array(shape, table.dtype(), std::make_shared<RowsAt>(stream, node->settings()), {table.inputs()[0], ids});
}

}  // namespace mamba::ops
