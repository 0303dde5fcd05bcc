// Work that waits for memory, done slice by slice beside loops that wait for arithmetic: a thread that multiplies asks
// for a slice's lines of memory meanwhile, and does the slice between two blocks of its product, when they have come.
// Threads of the pool that wait for others do slices, too.
// Nobody has to: who needs the result calls finish(), which does what is left.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

namespace mamba {

class SlicedWork {
 public:
  // Lines of memory are asked for in parts of a slice.
  static constexpr int64_t kParts = 64;
  // An array that slices go through: from `data` on, so many bytes for each part of each slice.
  struct Stream {
    const char* data = nullptr;
    int64_t part_bytes = 0;
  };
  static constexpr size_t kMaxStreams = 6;

  explicit SlicedWork(int64_t slices);
  virtual ~SlicedWork() = default;
  SlicedWork(const SlicedWork&) = delete;
  SlicedWork& operator=(const SlicedWork&) = delete;

  int64_t slices() const { return static_cast<int64_t>(state_.size()); }

  // Does the slice unless somebody has begun it.
  void run(int64_t slice);
  // Returns when this slice is done, whoever does it.
  void finish(int64_t slice);
  // The same of all, on all threads.
  void finish();

 protected:
  // Any slice, on any thread, once. Must not throw.
  virtual void do_slice(int64_t slice) = 0;
  // Called once when all are done, to give back what they needed.
  virtual void release() = 0;

  void add_stream(const Stream& stream) { streams_[num_streams_++] = stream; }

 private:
  friend class SlicesBeside;
  friend class WaitingWork;
  enum : uint8_t { kOpen, kBegun, kDone };

  std::array<Stream, kMaxStreams> streams_ = {};
  size_t num_streams_ = 0;
  std::vector<std::atomic<uint8_t>> state_;
  std::atomic<int64_t> done_{0};
  std::atomic<bool> is_released_{false};
  int64_t next_ = 0;  // of those that nobody has taken yet; guarded by the queue
};

// Lets others do slices of it. What has the lowest rank is done first, at equal ranks what came first.
void do_later(std::shared_ptr<SlicedWork> work, int64_t rank);

// The slices that a thread does beside a loop of its own. What it has taken is done when this goes.
class SlicesBeside {
 public:
  // None, ever.
  SlicesBeside() = default;
  // Of what waits, while `steps` steps of the loop are done.
  explicit SlicesBeside(int64_t steps);
  ~SlicesBeside();
  SlicesBeside(const SlicesBeside&) = delete;
  SlicesBeside& operator=(const SlicesBeside&) = delete;

  // Asks for some lines. Of a slice they are as many as a core waits for at a time in some hundred cycles.
  __attribute__((always_inline)) inline void step() {
    for (int64_t i = 0; i < kPartsOfStep && part_ < end_; ++i, ++part_) {
      for (size_t j = 0; j < num_streams_; ++j) {
        __builtin_prefetch(streams_[j].data + part_ * streams_[j].part_bytes, 0, 2);
      }
    }
  }

  // Does the slices whose lines have been asked for.
  void run_ready() {
    if (part_ >= done_ + SlicedWork::kParts) {
      run_until(part_);
    }
  }

 private:
  static constexpr int64_t kPartsOfStep = 3;

  void take();
  void run_until(int64_t part);

  std::shared_ptr<SlicedWork> work_;
  std::array<SlicedWork::Stream, SlicedWork::kMaxStreams> streams_ = {};
  size_t num_streams_ = 0;
  int64_t part_ = 0, done_ = 0, end_ = 0;  // in parts: asked for, done, taken
  int64_t left_ = 0;                       // parts that may still be taken
};

}  // namespace mamba
