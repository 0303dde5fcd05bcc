// What this machine can do at most, found by doing it: the figures that speeds are compared with. On a machine that is
// shared they change from minute to minute, so a meter is made once and asked again between what it is compared with.
#pragma once

#include <mlx/array.h>
#include <mlx/dtype.h>

#include <cstdint>
#include <memory>

namespace mamba::generate {

class ReadingMeter {
 public:
  // Holds memory of this size.
  explicit ReadingMeter(uint64_t bytes);

  // Bytes a second at which that memory is read by nothing but loads, with all threads; on a GPU by a sum over it. The
  // fastest of several passes.
  double measure() const;

 private:
  uint64_t bytes_;
  std::shared_ptr<std::byte> memory_;          // on a CPU
  std::shared_ptr<mlx::core::array> numbers_;  // on a GPU
};

class ArithmeticMeter {
 public:
  explicit ArithmeticMeter(mlx::core::Dtype dtype);

  // Operations a second (a multiply-add is two) of a square product too large to wait for memory, in this dtype: by
  // `linear`, on MLX's default device. The fastest of several.
  double measure() const;

 private:
  int size_;
  mlx::core::array left_, right_;
};

}  // namespace mamba::generate
