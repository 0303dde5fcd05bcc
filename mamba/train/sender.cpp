#include "mamba/train/sender.h"

#include <mlx/memory.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

namespace mamba::train {

namespace mx = mlx::core;

namespace {

// The GPU has one to do while the host sends the next.
constexpr size_t kAhead = 2;

// What takes the host long is done when as many are under way, or when all are sent.
constexpr size_t kMany = 5;

constexpr size_t kPiecesOfReplaced = 16;

// An array of no value that is there when what `a` was sent with is done.
mx::array done_with(const mx::array& a) {
  mx::array done(mx::Shape{}, mx::bool_, nullptr, std::vector<mx::array>{});
  done.attach_event(a.event());
  done.set_status(mx::array::Status::evaluated);
  return done;
}

}  // namespace

// Whether a piece of so many bytes may be sent at once.
bool Sender::has_room(size_t bytes) {
  while (!under_way_.empty() && under_way_.front().held.expired()) {
    under_way_.pop_front();
  }
  return under_way_.size() < kAhead || mx::get_active_memory() + bytes <= reached_;
}

void Sender::wait_for_first() {
  under_way_.front().done.wait();
  // Its memory comes back a little later, by another thread of MLX's. Should that not be seen, no harm is done.
  constexpr auto kLongest = std::chrono::milliseconds(5);
  const auto start = std::chrono::steady_clock::now();
  while (!under_way_.front().held.expired() && std::chrono::steady_clock::now() - start < kLongest) {
    std::this_thread::yield();
  }
  under_way_.pop_front();
}

void Sender::start(std::vector<mx::array> arrays) {
  const bool must_be = under_way_.size() < kAhead;
  const mx::array mark(0.0f);
  arrays.back() = mx::depends({arrays.back()}, {mark})[0];
  mx::async_eval(arrays);
  under_way_.push_back({done_with(arrays.back()), mark.data_shared_ptr()});
  if (must_be) {
    reached_ = std::max(reached_, mx::get_active_memory());
  }
}

void Sender::start_next(Gradients& gradients) {
  const size_t before = mx::get_active_memory();
  start(std::exchange(gradients.order[gradients.sent++], {}));
  const size_t after = mx::get_active_memory();
  largest_ = std::max(largest_, after - std::min(before, after));
}

void Sender::send_first(Gradients& gradients) {
  while (gradients.sent < gradients.order.size() && has_room(largest_)) {
    start_next(gradients);
  }
}

void Sender::send(Gradients& gradients, const std::vector<std::function<void()>>& meanwhile) {
  size_t called = 0;
  for (send_first(gradients); gradients.sent < gradients.order.size(); send_first(gradients)) {
    if (called < meanwhile.size() && under_way_.size() >= kMany) {
      meanwhile[called++]();
    } else {
      wait_for_first();
    }
  }
  while (called < meanwhile.size()) {
    meanwhile[called++]();
  }
  gradients.order.clear();
  gradients.sent = 0;
}

void Sender::replace(const std::vector<mx::array>& arrays) {
  size_t all = 0;
  for (const mx::array& a : arrays) {
    all += a.nbytes();
  }
  const size_t of_piece = all / kPiecesOfReplaced;
  std::vector<mx::array> piece;
  size_t bytes = 0;
  for (const mx::array& a : arrays) {
    piece.push_back(a);
    bytes += a.nbytes();
    if (bytes >= of_piece) {
      replace_at_once(std::exchange(piece, {}), std::exchange(bytes, 0));
    }
  }
  if (!piece.empty()) {
    replace_at_once(std::move(piece), bytes);
  }
}

void Sender::replace_at_once(std::vector<mx::array> arrays, size_t bytes) {
  while (!has_room(bytes)) {
    wait_for_first();
  }
  start(std::move(arrays));
}

}  // namespace mamba::train
