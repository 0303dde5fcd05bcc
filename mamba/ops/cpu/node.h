// What the nodes of MLX's graph that run one of our CPU kernels have in common.
//
// An op's node derives from CpuNode, that of its gradients from CpuGradientNode. `Self` has a `kOp`, the op's name for
// messages; `Settings` is what tells two nodes of one kind apart, comparable by ==.
#pragma once

#include <mlx/primitives.h>

#include <memory>
#include <utility>
#include <vector>

namespace mamba::ops::cpu {

[[noreturn]] void refuse_gpu(const char* op);
[[noreturn]] void refuse_second_derivative(const char* op);

// For a node's vjp: the gradients that `argnums` ask for, made by the node `gradient`. It takes `inputs` and gives one
// gradient for each of the first `floating` primals, in their shapes and dtypes; the other primals have none: zeros.
std::vector<mlx::core::array> gradients_by(std::shared_ptr<mlx::core::Primitive> gradient,
                                           const std::vector<mlx::core::array>& inputs,
                                           const std::vector<mlx::core::array>& primals, int floating,
                                           const std::vector<int>& argnums);

template <typename Self, typename Settings>
class CpuNode : public mlx::core::Primitive {
 public:
  CpuNode(const mlx::core::Stream& stream, Settings settings) : Primitive(stream), settings_(std::move(settings)) {}

  void eval_gpu(const std::vector<mlx::core::array>&, std::vector<mlx::core::array>&) override {
    refuse_gpu(Self::kOp);
  }

  bool is_equivalent(const mlx::core::Primitive& other) const override {
    const auto* same_kind = dynamic_cast<const Self*>(&other);
    return same_kind != nullptr && same_kind->settings_ == settings_;
  }

 protected:
  Settings settings_;
};

template <typename Self, typename Settings>
class CpuGradientNode : public CpuNode<Self, Settings> {
 public:
  using CpuNode<Self, Settings>::CpuNode;

  std::vector<mlx::core::array> vjp(const std::vector<mlx::core::array>&, const std::vector<mlx::core::array>&,
                                    const std::vector<int>&, const std::vector<mlx::core::array>&) override {
    refuse_second_derivative(Self::kOp);
  }
};

}  // namespace mamba::ops::cpu
