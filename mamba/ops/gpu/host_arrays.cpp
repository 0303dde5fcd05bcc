// The arrays of a launch as the emulated threads see them: every access is checked.
#include <mlx/types/half_types.h>

#include <cstdint>
#include <string_view>

#include "mamba/base/error.h"
#include "mamba/ops/gpu/host.h"

namespace mamba::ops::gpu::host {

namespace mx = mlx::core;

namespace {

template <typename T>
double number(const mx::array& a, int64_t i) {
  return static_cast<double>(static_cast<float>(a.data<T>()[i]));
}

}  // namespace

Input::Input(const mx::array& a) : array_(&a), first_(0), last_(a.size() == 0 ? -1 : 0) {
  for (size_t axis = 0; axis < a.ndim() && last_ >= 0; ++axis) {
    const int64_t reach = (a.shape()[axis] - 1) * a.strides()[axis];
    (reach < 0 ? first_ : last_) += reach;
  }
}

double Input::operator[](int64_t at) const {
  const int64_t i = start_ + at;
  check(i >= first_ && i <= last_, "a GPU kernel reads element {} of an array that has [{}, {}]", i, first_, last_);
  const mx::array& a = *array_;
  switch (a.dtype().val()) {
    case mx::Dtype::Val::float32:
      return number<float>(a, i);
    case mx::Dtype::Val::bfloat16:
      return number<mx::bfloat16_t>(a, i);
    case mx::Dtype::Val::float16:
      return number<mx::float16_t>(a, i);
    case mx::Dtype::Val::int32:
      return a.data<int32_t>()[i];
    case mx::Dtype::Val::uint8:
      return a.data<uint8_t>()[i];
    default:
      throw Error("a GPU kernel was given an array of an unknown dtype");
  }
}

Input Input::operator+(int64_t by) const {
  Input moved = *this;
  moved += by;
  return moved;
}

Output Output::operator+(int64_t by) const {
  Output moved = *this;
  moved += by;
  return moved;
}

Sizes Input::shape() const {
  return Sizes(array_->shape());
}

int Input::number_bytes() const {
  return static_cast<int>(array_->itemsize());
}

Sizes Input::strides() const {
  return Sizes(array_->strides());
}

Output Input::writable() const {
  return Output(const_cast<mx::array&>(*array_)) + start_;  // NOLINT(cppcoreguidelines-pro-type-const-cast)
}

template <typename T>
void Output::store_number(int64_t i, T value) const {
  mx::array& a = *array_;
  check(i >= 0 && i < static_cast<int64_t>(a.size()), "a GPU kernel writes element {} of an array that has {}", i,
        a.size());
  switch (a.dtype().val()) {
    case mx::Dtype::Val::float32:
      a.data<float>()[i] = static_cast<float>(value);
      return;
    case mx::Dtype::Val::bfloat16:
      a.data<mx::bfloat16_t>()[i] = static_cast<mx::bfloat16_t>(static_cast<float>(value));
      return;
    case mx::Dtype::Val::float16:
      a.data<mx::float16_t>()[i] = static_cast<mx::float16_t>(static_cast<float>(value));
      return;
    case mx::Dtype::Val::int32:
      a.data<int32_t>()[i] = static_cast<int32_t>(value);
      return;
    case mx::Dtype::Val::uint8:
      a.data<uint8_t>()[i] = static_cast<uint8_t>(value);
      return;
    default:
      throw Error("a GPU kernel writes an array of an unknown dtype");
  }
}

void Output::store(int64_t i, float value) const {
  store_number(i, value);
}

void Output::store(int64_t i, int value) const {
  store_number(i, value);
}

double Output::load(int64_t i) const {
  return Input(*array_)[i];
}

Input Launch::input(std::string_view name) const {
  const auto it = inputs.find(name);
  check(it != inputs.end(), "this GPU kernel has no input {}", name);
  return Input(*it->second);
}

Output Launch::output(std::string_view name) const {
  const auto it = outputs.find(name);
  check(it != outputs.end(), "this GPU kernel has no output {}", name);
  return Output(*it->second);
}

int Launch::constant(std::string_view name) const {
  const auto it = constants.find(name);
  check(it != constants.end(), "this GPU kernel has no constant {}", name);
  return it->second;
}

}  // namespace mamba::ops::gpu::host
