// A launch costs the host more than a small array costs the device, so arrays that are treated alike share launches.
#include "mamba/ops/adamw/gpu.h"

#include <fmt/format.h>
#include <mlx/backend/metal/metal.h>
#include <mlx/ops.h>

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>
#include <vector>

#include "mamba/ops/adamw/kernel.h"
#include "mamba/ops/gpu/kernel.h"

namespace mamba::embedded {
std::string_view gpu_adamw_update();
}  // namespace mamba::embedded

namespace mamba::ops::adamw_detail {

namespace mx = mlx::core;

namespace {

// Metal allows a kernel 31 arrays.
size_t most_arrays() {
  return mx::metal::is_available() ? 2 : 8;
}

constexpr const char* kInputNames[] = {"parameter", "gradient", "m", "v", "average"};
constexpr const char* kOutputNames[] = {"new_parameter", "new_m", "new_v", "new_average", "copy"};

const gpu::Kernel& kernel_for(size_t arrays) {
  const auto make = [](size_t count) {
    std::string source(embedded::gpu_adamw_update());
    std::vector<std::string> inputs = {"factors", "scale"};
    std::vector<std::string> outputs;
    for (size_t i = 0; i < count; ++i) {
      source += fmt::format("MAMBA_UPDATE({0}, parameter{0}_shape[0])\n", i);
      for (const char* name : kInputNames) {
        inputs.push_back(fmt::format("{}{}", name, i));
      }
      for (const char* name : kOutputNames) {
        outputs.push_back(fmt::format("{}{}", name, i));
      }
    }
    return gpu::Kernel(fmt::format("mamba_adamw_update{}", count), source, inputs, outputs);
  };
  static const gpu::Kernel one = make(1);
  static const gpu::Kernel many = make(most_arrays());
  return arrays == 1 ? one : many;
}

struct Item {
  const AdamWInputs& in;
  const AdamWOptions& options;
  AdamWOutputs& out;

  mx::Dtype copy_dtype() const { return options.copy_dtype.value_or(mx::float32); }
};

// Items that are treated alike: one or most_arrays() of them.
void update(const std::vector<Item>& items, const mx::array& factors, const mx::Stream& stream) {
  constexpr int kThreads = 256;
  constexpr int kPer = 4;
  constexpr int kMostGroups = 2112;  // what fills a large GPU with room to spare
  const Item& first = items.front();
  const auto flat = [&](const mx::array& a) {
    return mx::reshape(gpu::contiguous(a, stream), {static_cast<int>(a.size())}, stream);
  };
  // Of the others no shape is asked for, but kernels take arrays of at least one axis.
  const auto whole = [&](const mx::array& a) { return a.ndim() == 0 ? flat(a) : gpu::contiguous(a, stream); };
  std::vector<mx::array> inputs = {factors, first.in.gradient_scale ? flat(*first.in.gradient_scale) : factors};
  std::vector<mx::Shape> shapes;
  std::vector<mx::Dtype> dtypes;
  int largest = 0;
  for (const Item& item : items) {
    const mx::Shape& shape = item.in.parameter.shape();
    inputs.insert(inputs.end(), {flat(item.in.parameter), whole(item.in.gradient), whole(item.in.m), whole(item.in.v),
                                 item.in.average ? whole(*item.in.average) : factors});
    shapes.insert(shapes.end(), {shape, shape, shape, item.in.average ? shape : mx::Shape{1},
                                 item.options.copy_dtype ? shape : mx::Shape{1}});
    dtypes.insert(dtypes.end(), {mx::float32, mx::float32, mx::float32, mx::float32, item.copy_dtype()});
    largest = std::max(largest, static_cast<int>(item.in.parameter.size()));
  }
  const int groups = std::clamp(largest / (kThreads * kPer), 1, kMostGroups);
  const std::vector<mx::array> out =
      kernel_for(items.size())(inputs, shapes, dtypes, {{groups, static_cast<int>(items.size()), 1}, kThreads},
                               {{"T", first.copy_dtype()},
                                {"kThreads", kThreads},
                                {"kHasScale", first.in.gradient_scale.has_value()},
                                {"kHasAverage", first.in.average.has_value()},
                                {"kHasCopy", first.options.copy_dtype.has_value()}},
                               stream);
  for (size_t i = 0; i < items.size(); ++i) {
    const mx::array* its = &out[i * std::size(kOutputNames)];
    items[i].out = {its[0], its[1], its[2], items[i].in.average ? std::optional(its[3]) : std::nullopt,
                    items[i].options.copy_dtype ? std::optional(its[4]) : std::nullopt};
  }
}

}  // namespace

std::vector<AdamWOutputs> gpu_update(const std::vector<AdamWInputs>& in, const std::vector<AdamWOptions>& options,
                                     const mx::Stream& stream) {
  std::vector<AdamWOutputs> out;
  for (size_t i = 0; i < in.size(); ++i) {
    out.push_back({in[i].parameter, in[i].m, in[i].v, in[i].average,
                   options[i].copy_dtype
                       ? std::optional(mx::zeros(in[i].parameter.shape(), *options[i].copy_dtype, stream))
                       : std::nullopt});
  }
  using Key = std::tuple<mx::Dtype::Val, int, bool, std::uintptr_t>;
  struct Alike {
    Factors factors;
    mx::array factor_array;
    std::map<Key, std::vector<Item>> items;
  };
  std::vector<Alike> all;
  for (size_t i = 0; i < in.size(); ++i) {
    if (in[i].parameter.size() == 0) {
      continue;
    }
    const Factors f = factors_of(options[i]);
    auto found = std::find_if(all.begin(), all.end(), [&](const Alike& alike) { return alike.factors == f; });
    if (found == all.end()) {
      all.push_back({f,
                     mx::array({f.beta1, f.one_minus_beta1, f.beta2, f.one_minus_beta2, f.keep, f.step_size,
                                f.root_of_bias2, f.eps, f.average_decay, f.one_minus_average_decay}),
                     {}});
      found = all.end() - 1;
    }
    const Item item{in[i], options[i], out[i]};
    const Key key{in[i].gradient.dtype().val(),
                  options[i].copy_dtype ? static_cast<int>(options[i].copy_dtype->val()) : -1,
                  in[i].average.has_value(), in[i].gradient_scale ? in[i].gradient_scale->id() : 0};
    found->items[key].push_back(item);
  }
  const size_t most = most_arrays();
  for (const Alike& alike : all) {
    for (const auto& [key, items] : alike.items) {
      for (size_t begin = 0; begin < items.size();) {
        const size_t count = items.size() - begin >= most ? most : 1;
        update({items.begin() + static_cast<int64_t>(begin), items.begin() + static_cast<int64_t>(begin + count)},
               alike.factor_array, stream);
        begin += count;
      }
    }
  }
  return out;
}

}  // namespace mamba::ops::adamw_detail
