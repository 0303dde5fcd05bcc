#include "mamba/ops/adamw/later.h"

#include <algorithm>
#include <utility>

namespace mamba::ops::adamw_detail {

LaterUpdate::LaterUpdate(int64_t count) : SlicedWork((count + kSliceElements - 1) / kSliceElements) {}

void LaterUpdate::set(const Update& update, const Factors& factors, Memory memory) {
  update_ = update;
  factors_ = factors;
  memory_ = std::move(memory);
  constexpr int64_t kPartElements = kSliceElements / kParts;
  const auto add = [&](const void* data, int64_t element_bytes) {
    if (data != nullptr) {
      add_stream({static_cast<const char*>(data), element_bytes * kPartElements});
    }
  };
  const auto bytes = [](cpu::Element element) { return element == cpu::Element::kFloat32 ? 4 : 2; };
  // Results take over their inputs' memory as a rule, and are not asked for again; the copy is, so that writing waits
  // for none.
  add(update.parameter, 4);
  add(update.m, 4);
  add(update.v, 4);
  add(update.gradient.data, bytes(update.gradient.element));
  add(update.copy, bytes(update.copy_element));
  add(update.average, 4);
}

void LaterUpdate::do_slice(int64_t slice) {
  const int64_t begin = slice * kSliceElements;
  adamw_detail::update(update_, factors_, begin, std::min(update_.count, begin + kSliceElements));
}

}  // namespace mamba::ops::adamw_detail
