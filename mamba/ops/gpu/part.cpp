#include "mamba/ops/gpu/part.h"

#include <mlx/ops.h>
#include <mlx/primitives.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

namespace mamba::ops::gpu {

namespace mx = mlx::core;

namespace {

class PartOf : public mx::Primitive {
 public:
  PartOf(const mx::Stream& stream, int64_t begin) : Primitive(stream), begin_(begin) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    share(inputs[0], outputs[0]);
  }

  void eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    share(inputs[0], outputs[0]);
  }

  const char* name() const override { return "PartOf"; }

 private:
  void share(const mx::array& flat, mx::array& out) const {
    const auto largest = std::max_element(out.shape().begin(), out.shape().end());
    mx::array::Flags flags = flat.flags();
    flags.contiguous = true;
    flags.row_contiguous = true;
    flags.col_contiguous = out.size() <= 1 || out.size() == static_cast<size_t>(*largest);
    out.copy_shared_buffer(flat, out.strides(), flags, out.size(), begin_);
  }

  int64_t begin_;
};

}  // namespace

mx::array part_of(const mx::array& flat, int64_t begin, mx::Shape shape, const mx::Stream& stream) {
  mx::array out(std::move(shape), flat.dtype(), std::make_shared<PartOf>(stream, begin), {flat});
  return out.size() > 0 ? out : mx::zeros(out.shape(), out.dtype(), stream);
}

}  // namespace mamba::ops::gpu
