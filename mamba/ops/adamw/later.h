// An update that is done in slices, beside other work. Private to this folder.
#pragma once

#include <mlx/array.h>

#include <memory>
#include <vector>

#include "mamba/base/sliced_work.h"
#include "mamba/ops/adamw/kernel.h"

namespace mamba::ops::adamw_detail {

class LaterUpdate : public SlicedWork {
 public:
  static constexpr int64_t kSliceElements = 1024;
  using Memory = std::vector<std::shared_ptr<mlx::core::array::Data>>;

  explicit LaterUpdate(int64_t count);

  // What there is to do, before anybody is let at it. `memory` is kept until it is done.
  void set(const Update& update, const Factors& factors, Memory memory);

 private:
  void do_slice(int64_t slice) override;
  void release() override { memory_.clear(); }

  Update update_{};
  Factors factors_{};
  Memory memory_;
};

}  // namespace mamba::ops::adamw_detail
