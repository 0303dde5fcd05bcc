// What equality's comparisons are made with: each runs on the CPU and on the GPU, and reports how far apart the two
// are.
#pragma once

#include <mlx/array.h>
#include <mlx/device.h>

#include <functional>
#include <string>
#include <vector>

#include "report.h"

namespace mamba::gpu_report {

using Arrays = std::vector<mlx::core::array>;
using Function = std::function<Arrays(const Arrays& in, mlx::core::Device device)>;

mlx::core::array normal(const mlx::core::Shape& shape, uint64_t seed, float scale = 1.0f, float mean = 0.0f,
                        mlx::core::Dtype dtype = mlx::core::float32);
const char* name_of(mlx::core::Dtype dtype);

class Table {
 public:
  explicit Table(std::string filter) : filter_(std::move(filter)) {}

  // Values and gradients; the largest difference relative to the number or its array's size.
  void add(const std::string& name, double bound, const Function& f, const Arrays& in);

  // Of what is not differentiable.
  void add_values(const std::string& name, double bound, const Function& f, const Arrays& in);

  // Of long computations in 16 bits, where two right results differ by more than any step of the dtype. `exact` is the
  // same in float32, on the CPU: the GPU's arrays may be twice as far from it as the CPU's, and half a step more.
  void add_beside(const std::string& name, const Function& f, const std::function<Arrays()>& exact);

  bool all_ok() const { return all_ok_; }

 private:
  void compare(const std::string& name, double bound, const std::function<Arrays(mlx::core::Device)>& run,
               const std::function<Arrays()>& exact = {});

  std::string filter_;
  bool all_ok_ = true;
};

void add_steps(Table& table);

// What training takes besides differentiable ops.
void add_training(Table& table);

}  // namespace mamba::gpu_report
