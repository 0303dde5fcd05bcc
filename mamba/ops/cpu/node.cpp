#include "mamba/ops/cpu/node.h"

#include <mlx/ops.h>

#include "mamba/base/error.h"

namespace mamba::ops::cpu {

namespace mx = mlx::core;

void refuse_gpu(const char* op) {
  throw Error(fmt::format("[{}] this node was made for a CPU stream and cannot run on a GPU", op));
}

void refuse_second_derivative(const char* op) {
  throw Error(fmt::format("[{}] has no second derivative: its gradient cannot be differentiated again", op));
}

std::vector<mx::array> gradients_by(std::shared_ptr<mx::Primitive> gradient, const std::vector<mx::array>& inputs,
                                    const std::vector<mx::array>& primals, int floating,
                                    const std::vector<int>& argnums) {
  const mx::Stream stream = gradient->stream();
  std::vector<mx::Shape> shapes;
  std::vector<mx::Dtype> dtypes;
  for (int i = 0; i < floating; ++i) {
    shapes.push_back(primals[i].shape());
    dtypes.push_back(primals[i].dtype());
  }
  const std::vector<mx::array> gradients = mx::array::make_arrays(shapes, dtypes, std::move(gradient), inputs);
  std::vector<mx::array> wanted;
  for (const int i : argnums) {
    wanted.push_back(i < floating ? gradients[i] : mx::zeros_like(primals[i], stream));
  }
  return wanted;
}

}  // namespace mamba::ops::cpu
