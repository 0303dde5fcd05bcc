// AdamW (adamw.h) of many arrays on GPUs. What it keeps of them lies side by side in a few long arrays, which each step
// overwrites: so a step is a few nodes of MLX's graph, whatever the number of parameters. For each array of a node MLX
// counts references, asks for an event and looks at all others of its node, which for a model's parameters one by one
// took the host longer than the update takes the device.
#pragma once

#include <mlx/array.h>
#include <mlx/stream.h>
#include <mlx/utils.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "mamba/ops/adamw/adamw.h"

namespace mamba::ops {

class FlatAdamW {
 public:
  struct Item {
    mlx::core::array parameter;                              // any shape, float32
    std::optional<mlx::core::array> m = std::nullopt;        // the same shape, float32; zeros where it is absent
    std::optional<mlx::core::array> v = std::nullopt;        // likewise
    std::optional<mlx::core::array> average = std::nullopt;  // the same shape, float32: all items have one or none has
    double weight_decay = 0;
    std::optional<mlx::core::Dtype> copy_dtype = std::nullopt;  // as in AdamWOptions
    bool is_apart = false;  // its gradient may have another dtype than those of others
  };

  // Evaluates. Where the caller gives up its own arrays they are not in memory twice, but for one group at a time.
  // Throws Error when shapes or dtypes do not fit.
  FlatAdamW(std::vector<Item> items, mlx::core::StreamOrDevice s = {});

  // One step with `gradients` of the items' shapes, times `gradient_scale` (), float32. Of the options, weight_decay
  // and copy_dtype are the items' own. Gives what has to be evaluated, before the next step; until then the values and
  // the rest below are nodes of the graph.
  std::vector<mlx::core::array> step(const std::vector<mlx::core::array>& gradients, const AdamWOptions& options,
                                     const mlx::core::array& gradient_scale);

  size_t size() const { return places_.size(); }

  bool has_copy(size_t item) const { return places_.at(item).copy_dtype.has_value(); }

  // What to compute with: the parameter, or its copy where there is one.
  mlx::core::array value(size_t item) const;
  mlx::core::array parameter(size_t item) const;
  mlx::core::array m(size_t item) const;
  mlx::core::array v(size_t item) const;
  std::optional<mlx::core::array> average(size_t item) const;

 private:
  // Where an item lies.
  struct Place {
    size_t group;
    int64_t offset;
    mlx::core::Shape shape;
    std::optional<mlx::core::Dtype> copy_dtype;
  };

  // Items that share a launch.
  struct Group {
    std::vector<size_t> items;
    std::vector<mlx::core::array> state;   // parameter, m, v and, where there is one, the average: (count,) float32
    std::optional<mlx::core::array> copy;  // (count,)
    mlx::core::array table;                // gpu_flat_begin.h
    int launch_groups;
  };

  Group make_group(std::vector<Item>& items, const std::vector<size_t>& members) const;
  mlx::core::array part(size_t item, size_t which) const;

  mlx::core::Stream stream_;
  bool has_average_;
  std::vector<Place> places_;
  std::vector<Group> groups_;
  std::vector<double> decays_;                               // those that occur
  std::shared_ptr<std::vector<mlx::core::array>> replaced_;  // by the last step, what the device may still read
};

}  // namespace mamba::ops
