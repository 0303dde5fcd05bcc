#include "mamba/ops/adamw/flat.h"

#include <fmt/format.h>
#include <mlx/backend/metal/metal.h>
#include <mlx/ops.h>
#include <mlx/primitives.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <tuple>
#include <utility>

#include "mamba/base/error.h"
#include "mamba/ops/adamw/flat_detail.h"
#include "mamba/ops/adamw/kernel.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/gpu/kernel.h"
#include "mamba/ops/gpu/part.h"
#include "mamba/ops/gpu/upload.h"

namespace mamba::embedded {
std::string_view gpu_adamw_flat_begin();
std::string_view gpu_adamw_step();
}  // namespace mamba::embedded

namespace mamba::ops {

namespace mx = mlx::core;

namespace {

constexpr const char* kFlatOp = "adamw";
constexpr int kFlatThreads = 256;
constexpr int64_t kFlatAlign = 64;  // elements: what copies are read by needs 16 bytes, 128 are a line
constexpr int kFlatChunk = 8192;
// Elements of a group that has several items: new copies are there beside old ones until it is done.
constexpr int64_t kFlatMost = 32 << 20;

enum State { kParameter, kM, kV, kAverage };

// Metal allows a kernel 31 arrays, and has small ones in another address space.
size_t most_items() {
  return mx::metal::is_available() ? 16 : adamw_detail::kFlatItems;
}

const gpu::Kernel& flat_kernel_for(size_t items) {
  const auto make = [](size_t count) {
    std::string source(embedded::gpu_adamw_flat_begin());
    std::vector<std::string> inputs = {"factors", "scale", "table", "parameter", "m", "v", "average"};
    for (size_t i = 0; i < count; ++i) {
      inputs.push_back(fmt::format("gradient{}", i));
      source += fmt::format("if (mine == {0}) gradient = gradient{0};\n", i);
    }
    source += embedded::gpu_adamw_step();
    return gpu::Kernel(fmt::format("mamba_adamw_flat{}", count), source, inputs,
                       {"new_parameter", "new_m", "new_v", "new_average", "copy"});
  };
  static const gpu::Kernel one = make(1);
  static const gpu::Kernel many = make(most_items());
  return items == 1 ? one : many;
}

// The update of a group. Inputs: factors, scale, the parameter where there is no copy, and gradients. Outputs: what it
// keeps, then the copy where there is one. What is overwritten is held by the node itself, as in adamw.cpp; the
// parameter is what others compute with where there is no copy, and so it is not.
class FlatUpdate : public mx::Primitive {
 public:
  FlatUpdate(const mx::Stream& stream, std::vector<mx::array> overwritten, mx::array table, size_t items,
             int launch_groups, std::optional<mx::Dtype> copy_dtype, std::shared_ptr<std::vector<mx::array>> replaced)
      : Primitive(stream),
        overwritten_(std::move(overwritten)),
        table_(std::move(table)),
        items_(items),
        launch_groups_(launch_groups),
        copy_dtype_(copy_dtype),
        replaced_(std::move(replaced)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    run(inputs, outputs, [](mx::Primitive& launch, const std::vector<mx::array>& in, std::vector<mx::array>& out) {
      launch.eval_cpu(in, out);
    });
  }

  void eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    run(inputs, outputs, [](mx::Primitive& launch, const std::vector<mx::array>& in, std::vector<mx::array>& out) {
      launch.eval_gpu(in, out);
    });
  }

  std::vector<mx::array> vjp(const std::vector<mx::array>&, const std::vector<mx::array>&, const std::vector<int>&,
                             const std::vector<mx::array>&) override {
    throw Error("[adamw] is not differentiable");
  }

  const char* name() const override { return "FlatUpdate"; }

 private:
  template <typename Evaluate>
  void run(const std::vector<mx::array>& in, std::vector<mx::array>& outputs, const Evaluate& evaluate) {
    const bool in_place = std::all_of(overwritten_.begin(), overwritten_.end(), is_free);
    const size_t only_read = copy_dtype_ ? 0 : 1;
    std::vector<mx::array> state(in.begin() + 2, in.begin() + 2 + static_cast<int64_t>(only_read));
    state.insert(state.end(), overwritten_.begin(), overwritten_.end());
    const bool has_average = state.size() > kAverage;
    std::vector<mx::array> inputs = {in[0], in[1], table_};
    inputs.insert(inputs.end(), state.begin(), state.end());
    if (!has_average) {
      inputs.push_back(in[0]);  // a stand-in
    }
    inputs.insert(inputs.end(), in.begin() + 2 + static_cast<int64_t>(only_read), in.end());
    const size_t kernel_items = items_ == 1 ? 1 : most_items();
    inputs.insert(inputs.end(), kernel_items - items_, in.back());  // for which the table has no work
    const mx::Shape all = state[kM].shape();
    const mx::Shape none = {1};
    const mx::Shape& kept = in_place ? none : all;
    const mx::Dtype copy_dtype = copy_dtype_.value_or(mx::float32);
    std::vector<mx::array> made = flat_kernel_for(items_)(
        inputs, {copy_dtype_ ? kept : all, kept, kept, has_average ? kept : none, copy_dtype_ ? all : none},
        {mx::float32, mx::float32, mx::float32, mx::float32, copy_dtype}, {{launch_groups_, 1, 1}, kFlatThreads},
        {{"T", copy_dtype},
         {"kThreads", kFlatThreads},
         {"kArrays", static_cast<int>(kernel_items)},
         {"kChunk", kFlatChunk},
         {"kAlign", static_cast<int>(kFlatAlign)},
         {"kInPlace", in_place},
         {"kHasAverage", has_average},
         {"kHasCopy", copy_dtype_.has_value()}},
        stream());
    evaluate(made[0].primitive(), inputs, made);
    made[0].detach();
    for (size_t i = 0; i < state.size(); ++i) {
      outputs[i].copy_shared_buffer(in_place && i >= only_read ? state[i] : made[i]);
    }
    if (copy_dtype_) {
      outputs[state.size()].copy_shared_buffer(made.back());
    }
    if (!in_place) {
      // They must be there until the device has read them: until the next step at least.
      replaced_->insert(replaced_->end(), overwritten_.begin(), overwritten_.end());
    }
    overwritten_.clear();
  }

  std::vector<mx::array> overwritten_;
  mx::array table_;
  size_t items_;
  int launch_groups_;
  std::optional<mx::Dtype> copy_dtype_;
  std::shared_ptr<std::vector<mx::array>> replaced_;
};

int64_t aligned(int64_t size) {
  return (size + kFlatAlign - 1) / kFlatAlign * kFlatAlign;
}

void check_item(const FlatAdamW::Item& item, bool has_average) {
  for (const std::optional<mx::array>& a : {item.m, item.v, item.average}) {
    check(!a || (a->shape() == item.parameter.shape() && a->dtype() == mx::float32),
          "[{}] m, v and average must be {} float32 but one is {} {}", kFlatOp, shown(item.parameter.shape()),
          a ? shown(a->shape()) : shown(item.parameter.shape()), shown(a ? a->dtype() : mx::float32));
  }
  check(item.parameter.dtype() == mx::float32, "[{}] parameters must be float32 but one is {}", kFlatOp,
        shown(item.parameter.dtype()));
  check(item.average.has_value() == has_average, "[{}] some parameters have an average and some have none", kFlatOp);
  check(!item.copy_dtype || *item.copy_dtype == mx::bfloat16 || *item.copy_dtype == mx::float16,
        "[{}] the copy can be bfloat16 or float16", kFlatOp);
}

// One after another, each from a multiple of kFlatAlign on.
mx::array laid_out(const std::vector<mx::array>& arrays, const mx::Stream& stream) {
  std::vector<mx::array> parts;
  for (const mx::array& a : arrays) {
    const auto size = static_cast<int64_t>(a.size());
    parts.push_back(mx::reshape(a, {static_cast<int>(size)}, stream));
    if (aligned(size) > size) {
      parts.push_back(mx::zeros({static_cast<int>(aligned(size) - size)}, a.dtype(), stream));
    }
  }
  return mx::contiguous(mx::concatenate(parts, 0, stream), false, stream);
}

}  // namespace

FlatAdamW::FlatAdamW(std::vector<Item> items, mx::StreamOrDevice s)
    : stream_(mx::to_stream(s)), has_average_(!items.empty() && items[0].average.has_value()) {
  using Key = std::tuple<int, size_t>;
  std::map<Key, std::pair<size_t, int64_t>> open;  // the group that takes more of a kind, and its elements
  std::vector<std::vector<size_t>> members;
  for (size_t i = 0; i < items.size(); ++i) {
    check_item(items[i], has_average_);
    const auto size = static_cast<int64_t>(items[i].parameter.size());
    places_.push_back({0, 0, items[i].parameter.shape(), items[i].copy_dtype});
    if (size == 0) {
      continue;
    }
    if (std::find(decays_.begin(), decays_.end(), items[i].weight_decay) == decays_.end()) {
      decays_.push_back(items[i].weight_decay);
    }
    constexpr size_t kSmallOnMetal = 8;
    const bool is_apart =
        items[i].is_apart || size < static_cast<int64_t>(mx::metal::is_available() ? kSmallOnMetal : 0);
    const Key key{items[i].copy_dtype ? static_cast<int>(items[i].copy_dtype->val()) : -1, is_apart ? i + 1 : 0};
    const auto found = open.find(key);
    if (found == open.end() || members[found->second.first].size() == most_items() ||
        found->second.second + aligned(size) > kFlatMost) {
      open[key] = {members.size(), 0};
      members.emplace_back();
    }
    auto& [group, elements] = open[key];
    places_[i].group = group;
    places_[i].offset = elements;
    members[group].push_back(i);
    elements += aligned(size);
    check(elements <= std::numeric_limits<int>::max(), "[{}] a parameter has {} elements", kFlatOp, size);
  }
  for (const std::vector<size_t>& some : members) {
    groups_.push_back(make_group(items, some));
  }
}

FlatAdamW::Group FlatAdamW::make_group(std::vector<Item>& items, const std::vector<size_t>& members) const {
  const auto of_all = [&](const std::function<mx::array(Item&)>& one) {
    std::vector<mx::array> arrays;
    for (const size_t i : members) {
      arrays.push_back(one(items[i]));
    }
    return laid_out(arrays, stream_);
  };
  const auto or_zeros = [&](std::optional<mx::array>& a, const Item& item) {
    return a ? *std::exchange(a, std::nullopt) : mx::zeros(item.parameter.shape(), mx::float32, stream_);
  };
  std::vector<mx::array> state = {of_all([](Item& item) { return item.parameter; }),
                                  of_all([&](Item& item) { return or_zeros(item.m, item); }),
                                  of_all([&](Item& item) { return or_zeros(item.v, item); })};
  const Item& first = items[members[0]];
  if (first.average) {
    state.push_back(of_all([](Item& item) { return *std::exchange(item.average, std::nullopt); }));
  }
  std::optional<mx::array> copy;
  if (first.copy_dtype) {
    copy = mx::astype(state[kParameter], *first.copy_dtype, stream_);
  }
  std::vector<int32_t> table;
  int launch_groups = 0;
  for (const size_t i : members) {
    const auto size = static_cast<int>(items[i].parameter.size());
    const auto row = std::find(decays_.begin(), decays_.end(), items[i].weight_decay) - decays_.begin();
    table.insert(table.end(), {launch_groups, static_cast<int32_t>(places_[i].offset / kFlatAlign), size,
                               static_cast<int32_t>(row)});
    launch_groups += (size + kFlatChunk - 1) / kFlatChunk;
  }
  const size_t rows = members.size() == 1 ? 1 : most_items();
  while (table.size() < 4 * rows) {
    table.insert(table.end(), {std::numeric_limits<int32_t>::max(), 0, 0, 0});
  }
  // A copy, in memory of the device.
  const mx::array on_host(table.begin(), {static_cast<int>(rows), 4}, mx::int32);
  Group group{members, std::move(state), std::move(copy), mx::bitwise_or(on_host, on_host, stream_), launch_groups};
  std::vector<mx::array> made = group.state;
  made.push_back(group.table);
  if (group.copy) {
    made.push_back(*group.copy);
  }
  mx::eval(made);
  for (const size_t i : members) {
    items[i].parameter = mx::array(0.0f);
  }
  return group;
}

std::vector<mx::array> FlatAdamW::step(const std::vector<mx::array>& gradients, const AdamWOptions& options,
                                       const mx::array& gradient_scale) {
  check(gradients.size() == size(), "[{}] got {} gradients for {} arrays", kFlatOp, gradients.size(), size());
  check(gradient_scale.size() == 1 && gradient_scale.dtype() == mx::float32,
        "[{}] gradient_scale must be one float32 but is {} {}", kFlatOp, shown(gradient_scale.shape()),
        shown(gradient_scale.dtype()));
  for (size_t i = 0; i < gradients.size(); ++i) {
    check_float(kFlatOp, "gradient", gradients[i]);
    check(gradients[i].shape() == places_[i].shape, "[{}] gradient must be {} but got {}", kFlatOp,
          shown(places_[i].shape), shown(gradients[i].shape()));
  }
  if (groups_.empty()) {
    return {};
  }
  std::vector<float> rows;
  for (const double decay : decays_) {
    AdamWOptions own = options;
    own.weight_decay = decay;
    own.copy_dtype = std::nullopt;
    adamw_detail::check_options(own);
    const adamw_detail::Factors f = adamw_detail::factors_of(own);
    rows.insert(rows.end(), {f.beta1, f.one_minus_beta1, f.beta2, f.one_minus_beta2, f.keep, f.step_size,
                             f.root_of_bias2, f.eps, f.average_decay, f.one_minus_average_decay});
  }
  const auto row_count = static_cast<int>(decays_.size());
  const mx::array factors = gpu::uploaded(rows, {row_count, static_cast<int>(rows.size()) / row_count}, stream_);
  const mx::array scale = mx::reshape(gradient_scale, {1}, stream_);
  // Of a gradient's shape nothing is asked, but kernels take arrays of at least one axis.
  const auto whole = [&](const mx::array& gradient) {
    const mx::array a = gpu::contiguous(gradient, stream_);
    return a.ndim() == 0 ? mx::reshape(a, {1}, stream_) : a;
  };
  std::vector<mx::array> results;
  replaced_ = std::make_shared<std::vector<mx::array>>();
  for (Group& group : groups_) {
    std::vector<mx::array> state = std::exchange(group.state, {});
    if (std::any_of(state.begin(), state.end(),
                    [](const mx::array& a) { return a.status() == mx::array::Status::unscheduled; })) {
      mx::async_eval(state);
    }
    std::vector<mx::Shape> shapes(state.size(), state[kM].shape());
    std::vector<mx::Dtype> dtypes(state.size(), mx::float32);
    std::optional<mx::Dtype> copy_dtype;
    std::vector<mx::array> inputs = {factors, scale};
    if (group.copy) {
      copy_dtype = group.copy->dtype();
      shapes.push_back(state[kM].shape());
      dtypes.push_back(*copy_dtype);
      group.copy.reset();
    } else {
      inputs.push_back(state[kParameter]);
      state.erase(state.begin());
    }
    const size_t first_gradient = inputs.size();
    bool same_dtype = true;
    for (const size_t i : group.items) {
      inputs.push_back(whole(gradients[i]));
      same_dtype = same_dtype && inputs.back().dtype() == inputs[first_gradient].dtype();
    }
    for (size_t i = first_gradient; i < inputs.size() && !same_dtype; ++i) {
      inputs[i] = mx::astype(inputs[i], mx::float32, stream_);
    }
    group.state =
        mx::array::make_arrays(std::move(shapes), dtypes,
                               std::make_shared<FlatUpdate>(stream_, std::move(state), group.table, group.items.size(),
                                                            group.launch_groups, copy_dtype, replaced_),
                               inputs);
    if (copy_dtype) {
      group.copy = group.state.back();
      group.state.pop_back();
    }
    results.push_back(group.copy.value_or(group.state[kParameter]));
  }
  return results;
}

mx::array FlatAdamW::part(size_t item, size_t which) const {
  const Place& place = places_.at(item);
  if (std::find(place.shape.begin(), place.shape.end(), 0) != place.shape.end()) {
    return mx::zeros(place.shape, mx::float32, stream_);
  }
  return gpu::part_of(groups_[place.group].state[which], place.offset, place.shape, stream_);
}

mx::array FlatAdamW::value(size_t item) const {
  const Place& place = places_.at(item);
  if (!place.copy_dtype) {
    return parameter(item);
  }
  const std::optional<mx::array>& copy = groups_[place.group].copy;
  return copy ? gpu::part_of(*copy, place.offset, place.shape, stream_)
              : mx::zeros(place.shape, *place.copy_dtype, stream_);
}

mx::array FlatAdamW::parameter(size_t item) const {
  return part(item, kParameter);
}

mx::array FlatAdamW::m(size_t item) const {
  return part(item, kM);
}

mx::array FlatAdamW::v(size_t item) const {
  return part(item, kV);
}

std::optional<mx::array> FlatAdamW::average(size_t item) const {
  return has_average_ ? std::optional(part(item, kAverage)) : std::nullopt;
}

}  // namespace mamba::ops
