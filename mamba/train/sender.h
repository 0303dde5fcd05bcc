// Has a GPU compute what a step ends in, piece by piece, no further ahead of it than memory allows: MLX has memory for
// all that it has sent, run or not.
#pragma once

#include <mlx/array.h>

#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "mamba/train/objective.h"

namespace mamba::train {

class Sender {
 public:
  // Starts to evaluate `gradients.order`; afterwards they are evaluated as usual. Each of `meanwhile` is called once,
  // where the GPU has most to do. On CPUs, where there is no order, nothing but that.
  void send(Gradients& gradients, const std::vector<std::function<void()>>& meanwhile = {});

  // Sends as much of it as need not wait for anything.
  void send_first(Gradients& gradients);

  // Starts to evaluate `arrays`, which take the place of as many others: in pieces, so that not all are there twice.
  void replace(const std::vector<mlx::core::array>& arrays);

 private:
  // What was sent and may not be done.
  struct Piece {
    mlx::core::array done;     // has no value, but can be waited for
    std::weak_ptr<void> held;  // goes with what MLX had held for it
  };

  bool has_room(size_t bytes);
  void wait_for_first();
  void start(std::vector<mlx::core::array> arrays);
  void start_next(Gradients& gradients);
  void replace_at_once(std::vector<mlx::core::array> arrays, size_t bytes);

  std::deque<Piece> under_way_ = {};
  size_t reached_ = 0;  // bytes in use where they had to be: what has been needed once may be taken to be ahead
  size_t largest_ = 0;  // of a piece
};

}  // namespace mamba::train
