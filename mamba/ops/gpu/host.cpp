#include "mamba/ops/gpu/host.h"

#include <algorithm>
#include <exception>
#include <utility>
#include <vector>

#include "mamba/base/error.h"
#include "mamba/ops/gpu/host_group.h"

namespace mamba::ops::gpu::host {

namespace {

// True when the group has come to its end, false when it waits for the others.
bool run_group(Group& of, int64_t turn, bool begins) {
  const AtWork at_work(of);
  begins ? begin_group() : pass_grid_barrier();
  advance(turn);
  if (of.failure) {
    std::rethrow_exception(of.failure);
  }
  if (stand_at_grid_barrier()) {
    return false;
  }
  return true;
}

// Groups that wait for one another in between: each goes on as far as it can, in turns.
void run_in_pairs(Body body, const Launch& launch) {
  static thread_local int64_t turn = 0;
  const auto count = static_cast<size_t>(launch.groups[0]);
  check(count % 2 == 0 && launch.groups[1] == 1 && launch.groups[2] == 1, "{} GPU groups in pairs", count);
  std::vector<OwnedGroup> all;
  for (size_t i = 0; i < count; ++i) {
    all.push_back(make_group(body, launch));
    all[i]->index[0] = static_cast<int>(i);
  }
  for (size_t i = 0; i < count; ++i) {
    const AtWork at_work(*all[i]);
    group->partner = all[i ^ 1].get();
    begin_group();
  }
  for (size_t ended = 0; ended < count;) {
    bool moved = false;
    size_t at_barrier = 0;
    ended = 0;
    for (const OwnedGroup& one : all) {
      const AtWork at_work(*one);
      moved = advance(turn++) || moved;
      if (group->failure) {
        std::rethrow_exception(group->failure);
      }
      at_barrier += stand_at_grid_barrier() ? 1 : 0;
      ended += all_wait_for(Waiting::kDone, 0, launch.threads) ? 1 : 0;
    }
    for (const OwnedGroup& one : all) {
      if (at_barrier == count) {
        const AtWork at_work(*one);
        pass_grid_barrier();
        moved = true;
      }
    }
    check(moved || ended == count, "the groups of a GPU kernel wait for what none of them does");
  }
}

}  // namespace

void run(Body body, const Launch& launch) {
  const int threads = launch.threads;
  check(threads >= kSimdWidth && threads % kSimdWidth == 0, "a GPU group of {} threads is no multiple of {}", threads,
        kSimdWidth);
  if (launch.in_pairs) {
    run_in_pairs(body, launch);
    return;
  }
  static thread_local int64_t turn = 0;
  // Groups that wait for all others stay as they are; one that has ended makes room for the next.
  std::vector<OwnedGroup> waiting;
  OwnedGroup next;
  size_t ended = 0;
  for (int z = 0; z < launch.groups[2]; ++z) {
    for (int y = 0; y < launch.groups[1]; ++y) {
      for (int x = 0; x < launch.groups[0]; ++x) {
        if (next == nullptr) {
          next = make_group(body, launch);
        }
        next->index[0] = x;
        next->index[1] = y;
        next->index[2] = z;
        if (run_group(*next, turn++, true)) {
          ++ended;
        } else {
          waiting.push_back(std::move(next));
        }
      }
    }
  }
  while (!waiting.empty()) {
    check(ended == 0, "a GPU kernel's grid barrier is not reached by all groups");
    for (const OwnedGroup& one : waiting) {
      ended += run_group(*one, turn++, false) ? 1 : 0;
    }
    if (ended == waiting.size()) {
      waiting.clear();
    }
  }
}

int thread_index() {
  return group->current;
}

int group_index(int axis) {
  return group->index[axis];
}

int groups(int axis) {
  return group->launch->groups[axis];
}

void barrier() {
  wait_for(Waiting::kBarrier);
}

void barrier_of(int threads) {
  group->fibers[static_cast<size_t>(group->current)].part = threads;
  wait_for(Waiting::kPartBarrier);
}

void wait_until(const std::function<bool()>& condition) {
  if (!condition()) {
    group->fibers[static_cast<size_t>(group->current)].condition = &condition;
    wait_for(Waiting::kCondition);
  }
}

void grid_barrier() {
  wait_for(Waiting::kGridBarrier);
}

const float* share(const float* values, int count) {
  check(count > 0 && count <= kMostPosted, "a GPU kernel's lane shares {} numbers", count);
  const int self = group->current;
  std::vector<float>& row = group->posted[group->fibers[static_cast<size_t>(self)].shuffles++ % 2];
  float* const all = row.data() + self / kSimdWidth * kSimdWidth * kMostPosted;
  std::copy_n(values, count, all + self % kSimdWidth * count);
  wait_for(Waiting::kShuffle);
  return all;
}

float shuffle(float value, int lane) {
  check(lane >= 0 && lane < kSimdWidth, "a GPU kernel shuffles from lane {}", lane);
  return share(&value, 1)[lane];
}

float shuffle_xor(float value, int mask) {
  return shuffle(value, (group->current % kSimdWidth) ^ mask);
}

void* shared_bytes(int64_t bytes) {
  Fiber& self = group->fibers[static_cast<size_t>(group->current)];
  void* out = shared_of(*group) + self.shared_used;
  self.shared_used += (bytes + 15) / 16 * 16;
  const int64_t most = kSharedBytes + group->launch->shared_more;
  check(self.shared_used <= most, "a GPU kernel uses {} bytes of shared memory; it has {}", self.shared_used, most);
  return out;
}

void* at_partner(void* at) {
  check(group->partner != nullptr, "this GPU kernel's groups have no partners");
  return shared_of(*group->partner) + (static_cast<char*>(at) - shared_of(*group));
}

}  // namespace mamba::ops::gpu::host
