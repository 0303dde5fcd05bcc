#include "mamba/ops/product/product.h"

#include <mlx/backend/cuda/cuda.h>
#include <mlx/device.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cstdlib>
#include <utility>
#include <variant>
#include <vector>

#include "mamba/ops/dispatch.h"
#include "mamba/ops/product/gpu.h"

namespace mamba::ops {

namespace mx = mlx::core;

namespace {

constexpr product_detail::Parts kLeft{.count = 3, .low = 0, .blocks = false};
constexpr product_detail::Parts kRight{.count = 3, .low = 1, .blocks = false};

// Up to so many rows are multiplied one by one, by kernels of MLX that know no TF32: that reads the other matrix once
// for each, and splitting it seven times over.
constexpr int kFewRows = 6;

// Tensor cores round a sum towards 0 at each step, by about 2^-24 of it (measured): so sums that are longer are made in
// pieces, and those are added as float32 is.
constexpr int kLongestSum = 1024;

// Pieces of a sum, whose splits still begin at multiples of 16 bytes.
int piece_of_sum(int length) {
  const int pieces = (length + kLongestSum - 1) / kLongestSum;
  return ((length + pieces - 1) / pieces + 3) / 4 * 4;
}

// 0 where they are not of equal length.
int equal_piece(int length) {
  const int piece = std::min(piece_of_sum(length), length);
  return length % piece == 0 ? piece : 0;
}

bool multiplies_tf32() {
  // As MLX reads it, which does not export that.
  const char* const allowed = std::getenv("MLX_ENABLE_TF32");
  if (!mx::cu::is_available() || (allowed != nullptr && std::atoi(allowed) == 0)) {
    return false;
  }
  const auto& info = mx::device_info(mx::Device::gpu);
  const auto major = info.find("compute_capability_major");
  return major != info.end() && std::get<size_t>(major->second) >= 8;
}

bool splits(const Operand& x, const Operand& y, const mx::Stream& stream) {
  return x.matrix().dtype() == mx::float32 && x.matrix().size() > 0 && y.matrix().size() > 0 && splits_products(stream);
}

mx::array multiplied(const mx::array& x, const mx::array& y, const std::optional<mx::array>& sum,
                     const mx::Stream& stream) {
  return sum ? mx::addmm(*sum, x, y, 1.0f, 1.0f, stream) : mx::matmul(x, y, stream);
}

mx::array part(const mx::array& a, int axis, int from, int to, const mx::Stream& stream) {
  if (from == 0 && to == a.shape(axis)) {
    return a;
  }
  mx::Shape start(a.ndim(), 0);
  mx::Shape stop = a.shape();
  start[static_cast<size_t>(axis)] = from;
  stop[static_cast<size_t>(axis)] = to;
  return mx::slice(a, start, stop, stream);
}

// x y of x (M, K), `right` giving y's rows from one to another, split; added to `sum`.
template <typename Right>
mx::array sum_of_pieces(const Operand& x, std::optional<mx::array> sum, const mx::Stream& stream, const Right& right) {
  const int length = x.matrix().shape(1);
  const int equal = equal_piece(length);
  const int piece = equal > 0 ? equal : piece_of_sum(length);
  for (int from = 0; from < length; from += piece) {
    const int to = std::min(from + piece, length);
    const mx::array left = equal > 0 ? x.left(stream)[static_cast<size_t>(from / piece)]
                                     : product_detail::gpu_split(part(x.matrix(), 1, from, to, stream), kLeft, stream);
    sum = multiplied(left, right(from, to), sum, stream);
  }
  return *sum;
}

const std::vector<mx::array>& made(std::vector<mx::array>& pieces, const mx::array& matrix,
                                   const product_detail::Parts& parts, const mx::Stream& stream) {
  if (pieces.empty()) {
    const int columns = matrix.shape(1);
    const int piece = equal_piece(columns) > 0 ? equal_piece(columns) : columns;
    const mx::array whole = product_detail::gpu_split(matrix, parts, stream, piece);
    pieces = piece == columns ? std::vector{whole} : mx::split(whole, columns / piece, 0, stream);
  }
  return pieces;
}

// As many pieces of a sum over a's rows as are whole, each turned and split.
mx::array turned_pieces(const mx::array& a, const product_detail::Parts& parts, const mx::Stream& stream) {
  const int rows = a.shape(0) / kLongestSum * kLongestSum;
  return product_detail::gpu_split_turned(part(a, 0, 0, rows, stream), parts, kLongestSum, stream);
}

}  // namespace

Operand::Operand(mx::array matrix) : matrix_(std::move(matrix)), forms_(std::make_shared<Forms>()) {}

const mx::array& Operand::transposed(const mx::Stream& stream) const {
  if (!forms_->transposed) {
    forms_->transposed = mx::transpose(matrix_, stream);
  }
  return *forms_->transposed;
}

const std::vector<mx::array>& Operand::left(const mx::Stream& stream) const {
  return made(forms_->left, matrix_, kLeft, stream);
}

const std::vector<mx::array>& Operand::right(const mx::Stream& stream) const {
  if (forms_->right.empty()) {
    std::vector<mx::array> pieces;
    for (const mx::array& piece : made(pieces, matrix_, kRight, stream)) {
      forms_->right.push_back(mx::transpose(piece, stream));
    }
  }
  return forms_->right;
}

void Operand::prepare_right(const mx::Stream& stream) const {
  std::vector<mx::array> forms = {transposed(stream)};
  if (matrix_.dtype() == mx::float32 && splits_products(stream)) {
    forms.insert(forms.end(), right(stream).begin(), right(stream).end());
  }
  mx::eval(forms);
}

mx::array Operand::turned_right(const mx::Stream& stream) const {
  if (!forms_->turned_right) {
    forms_->turned_right = turned_pieces(matrix_, kRight, stream);
  }
  return *forms_->turned_right;
}

bool splits_products(const mx::Stream& stream) {
  if (stream.device == mx::Device::cpu) {
    return !on_cpu(stream);
  }
  static const bool tf32 = multiplies_tf32();
  return tf32;
}

bool can_keep_operands(size_t bytes, const mx::Stream& stream) {
  if (stream.device == mx::Device::cpu) {
    return true;
  }
  const auto& info = mx::device_info(stream.device);
  const auto total = info.find("total_memory");
  return total != info.end() && 3 * bytes <= std::get<size_t>(total->second) / 16;
}

mx::array product_nt(const Operand& x, const Operand& y, const mx::Stream& stream) {
  const int rows = x.matrix().shape(0);
  if (rows == 1 || !splits(x, y, stream)) {
    return mx::matmul(x.matrix(), y.transposed(stream), stream);
  }
  if (rows <= kFewRows) {
    return mx::squeeze(mx::matmul(y.matrix(), mx::expand_dims(x.matrix(), 2, stream), stream), 2, stream);
  }
  return sum_of_pieces(x, {}, stream, [&](int from, int to) {
    const int piece = equal_piece(y.matrix().shape(1));
    return piece > 0 ? y.right(stream)[static_cast<size_t>(from / piece)]
                     : mx::transpose(product_detail::gpu_split(part(y.matrix(), 1, from, to, stream), kRight, stream),
                                     stream);
  });
}

mx::array product_nn(const Operand& x, const Operand& y, const mx::Stream& stream,
                     const std::optional<mx::array>& sum) {
  if (!splits(x, y, stream)) {
    return multiplied(x.matrix(), y.matrix(), sum, stream);
  }
  return sum_of_pieces(x, sum, stream, [&](int from, int to) {
    const mx::array rows = part(y.matrix(), 0, from, to, stream);
    return mx::transpose(product_detail::gpu_split_turned(rows, kRight, 0, stream), stream);
  });
}

// Pieces are a batch of products: as many groups have work, whatever the result's size.
mx::array product_tn(const Operand& x, const Operand& y, const mx::Stream& stream,
                     const std::optional<mx::array>& sum) {
  if (!splits(x, y, stream)) {
    return multiplied(mx::transpose(x.matrix(), stream), y.matrix(), sum, stream);
  }
  const int length = x.matrix().shape(0);
  const int pieces = length / kLongestSum;
  const int in_pieces = pieces * kLongestSum;
  std::optional<mx::array> rest = sum;
  if (in_pieces < length) {
    const auto end = [&](const Operand& operand, const product_detail::Parts& parts) {
      return product_detail::gpu_split_turned(part(operand.matrix(), 0, in_pieces, length, stream), parts, 0, stream);
    };
    rest = multiplied(end(x, kLeft), mx::transpose(end(y, kRight), stream), sum, stream);
  }
  if (pieces == 0) {
    return *rest;
  }
  const mx::array left = turned_pieces(x.matrix(), kLeft, stream);
  const mx::array right = mx::transpose(y.turned_right(stream), {0, 2, 1}, stream);
  if (pieces == 1) {
    const mx::array one = mx::squeeze(right, 0, stream);
    return multiplied(mx::squeeze(left, 0, stream), one, rest, stream);
  }
  std::vector<mx::array> shares = {mx::matmul(left, right, stream)};
  if (rest) {
    shares.push_back(mx::expand_dims(*rest, 0, stream));
  }
  return product_detail::gpu_sum(shares, stream);
}

mx::array differentiable_product_nt(const mx::array& x, const mx::array& y, const mx::Stream& stream) {
  if (!x.is_tracer() && !y.is_tracer()) {
    return product_nt(Operand(x), Operand(y), stream);
  }
  const auto run = mx::custom_vjp(
      [stream](const std::vector<mx::array>& in) {
        return std::vector{product_nt(Operand(in[0]), Operand(in[1]), stream)};
      },
      [stream](const std::vector<mx::array>& in, const std::vector<mx::array>& cotangents,
               const std::vector<mx::array>&) {
        const Operand gradient(cotangents[0]);
        return std::vector{product_nn(gradient, Operand(in[1]), stream), product_tn(gradient, Operand(in[0]), stream)};
      });
  return run({x, y})[0];
}

}  // namespace mamba::ops
