// Inside linear: what its node needs to know of the weights, whichever form they have. Projections from float weights
// and from quantised ones are one node with two of these.
#pragma once

#include <mlx/array.h>
#include <mlx/backend/cpu/encoder.h>
#include <mlx/stream.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "mamba/ops/linear/linear.h"
#include "mamba/ops/linear/many_rows.h"

namespace mamba::ops::linear_detail {

// Weights in memory: (N, K).
class Weights {
 public:
  virtual ~Weights() = default;

  int64_t n = 0;
  int64_t k = 0;

  // Sequences of at most this many real rows take few(): below it, reading the weights is what costs.
  virtual int64_t few_rows_limit(Float x) const = 0;
  // Floats of workspace for so many rows, in so many sequences.
  virtual int64_t workspace(int64_t rows, int64_t sequences, Float x) const = 0;
  // y = x W^T + bias; each row the same whatever the others are. `bias` may be null. Does not throw.
  virtual void few(const Rows& x, const float* bias, const OutRows& y, float* workspace) const = 0;
  // few() in pieces, for who hands them to threads himself: rows [begin, end) of x into few_workspace() floats, and
  // from there columns [begin, end) of y. The same bits however columns are cut; fastest where ranges begin at
  // multiples of few_step().
  virtual int64_t few_workspace(int64_t rows) const = 0;
  virtual int64_t few_step() const = 0;
  virtual void pack_few(const Rows& x, int64_t begin, int64_t end, float* packed) const = 0;
  // The same of elements [begin, end) of all rows, multiples of few_part_step(), which is k where rows stay whole.
  virtual int64_t few_part_step() const { return k; }
  virtual void pack_few_part(const Rows& x, int64_t /*begin*/, int64_t /*end*/, float* packed) const {
    pack_few(x, 0, x.count(), packed);
  }
  virtual void few_columns(const float* packed, int64_t rows, Float x_type, const float* bias, int64_t begin,
                           int64_t end, const OutRows& y) const = 0;
  // Row `index`, rounded once to `type`, on the calling thread.
  virtual void row(int64_t index, Float type, void* to) const = 0;
  // few() of `product`, whose right operand is these weights and not yet set. `groups` as in multiply().
  virtual void many(Product& product, const std::vector<int64_t>& groups, float* workspace) const = 0;
  // How many() goes about it where that can be done in pieces, else null; and the right operand for them.
  virtual const ManyRows* many_in_pieces(Float x) const = 0;
  virtual Right right() const = 0;
};

// How weights lie in the inputs of a node.
class WeightFormat {
 public:
  virtual ~WeightFormat() = default;

  virtual size_t arrays() const = 0;
  // For eval_cpu: from inputs[first] on. Registers the arrays with the encoder.
  virtual std::unique_ptr<Weights> read(const std::vector<mlx::core::array>& inputs, size_t first,
                                        mlx::core::cpu::CommandEncoder& encoder) const = 0;
  virtual bool equals(const WeightFormat& other) const = 0;
  // (N, K) floats, for the gradient in x, of a node that has them from inputs[1] on.
  virtual mlx::core::array dense(const std::vector<mlx::core::array>& inputs, mlx::core::Stream stream) const = 0;
  // Whether they have a gradient: then arrays() is 1 and inputs[1] is dense.
  virtual bool is_trainable() const = 0;
};

// Of weights that are floats, one array.
std::shared_ptr<const WeightFormat> float_format();

// The node: x (..., K) -> (..., n). Arguments are checked by the caller.
mlx::core::array forward(const mlx::core::array& x, const std::vector<mlx::core::array>& weights, int n,
                         std::shared_ptr<const WeightFormat> format, const std::optional<mlx::core::array>& bias,
                         const LinearOptions& options, mlx::core::Stream stream);

}  // namespace mamba::ops::linear_detail
