#include "mamba/ops/quantized_linear/forward.h"

#include <mlx/ops.h>
#include <mlx/primitives.h>

#include <algorithm>
#include <memory>
#include <type_traits>

#include "mamba/base/error.h"
#include "mamba/base/threads.h"
#include "mamba/ops/cpu/node.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/linear/multiply.h"
#include "mamba/ops/linear/onednn.h"
#include "mamba/ops/linear/weights.h"
#include "mamba/ops/quantized_linear/kernel.h"

namespace mamba::ops::quantized_detail {

namespace mx = mlx::core;

using linear_detail::float_type;
using linear_detail::Product;
using linear_detail::Right;
using linear_detail::WeightFormat;
using linear_detail::Weights;

namespace {

// How the parts lie, and what the shapes of the arrays do not tell.
struct Form {
  bool packed = false;
  int group_size = 0;
  int bits = 0;
  // Of packed ones:
  mx::Shape shape = {};
  mx::Dtype dtype = mx::float32;

  bool operator==(const Form&) const = default;
  size_t arrays() const { return packed ? 1 : 3; }
};

Form form_of(const QuantizedWeight& weight) {
  return {.packed = false, .group_size = weight.group_size, .bits = weight.bits};
}

Form form_of(const PackedWeight& weight) {
  return {.packed = true,
          .group_size = weight.group_size,
          .bits = weight.bits,
          .shape = weight.shape,
          .dtype = weight.dtype};
}

// inputs[index] as memory. Its copy, if one had to be made, lives as long as the encoder's work.
mx::array read_array(const std::vector<mx::array>& inputs, size_t index, mx::cpu::CommandEncoder& encoder) {
  const mx::array array = row_contiguous(inputs[index], encoder);
  encoder.set_input_array(array);
  return array;
}

Quantized read_quantized(const std::vector<mx::array>& inputs, size_t first, const Form& form,
                         mx::cpu::CommandEncoder& encoder) {
  const mx::array codes = read_array(inputs, first, encoder);
  const mx::array scales = read_array(inputs, first + 1, encoder);
  const mx::array biases = read_array(inputs, first + 2, encoder);
  Quantized weight;
  weight.codes = codes.data<uint8_t>();
  weight.scales = scales.data<uint8_t>();
  weight.biases = biases.data<uint8_t>();
  weight.type = float_type(scales.dtype());
  weight.group_size = form.group_size;
  weight.bits = form.bits;
  weight.n = codes.shape(0);
  weight.k = int64_t{codes.shape(1)} * 32 / form.bits;
  return weight;
}

Packed read_packed(const std::vector<mx::array>& inputs, size_t first, const Form& form,
                   mx::cpu::CommandEncoder& encoder) {
  Packed weight;
  weight.tiles = read_array(inputs, first, encoder).data<uint8_t>();
  weight.type = float_type(form.dtype);
  weight.group_size = form.group_size;
  weight.bits = form.bits;
  weight.n = form.shape[0];
  weight.k = form.shape[1];
  return weight;
}

class PackedPanels : public linear_detail::PanelSource {
 public:
  explicit PackedPanels(const Packed& weight) : weight_(weight) {}
  explicit PackedPanels(const Quantized&) {}

  void pack(int64_t n, int64_t columns, int64_t first, int64_t depth, uint32_t* panel) const override {
    bf16::pack_panel(weight_, n, columns, first, depth, panel);
  }

 private:
  Packed weight_;
};

// Many rows multiply a tile of W after another, each written out as floats that stay in the last-level cache; or, where
// codes become panels of the product by themselves, all of it at once.
template <typename Codes>
class CodedWeights : public Weights {
 public:
  explicit CodedWeights(const Codes& weight) : weight_(weight), panels_(weight) {
    n = weight.n;
    k = weight.k;
  }

  // Where unpacking the codes for every few rows costs as much as unpacking them once and writing them out.
  int64_t few_rows_limit(Float) const override { return 32; }

  int64_t workspace(int64_t rows, int64_t sequences, Float x) const override {
    const Float type = tile_type(x);
    const int64_t many = tile_floats(type) + linear_detail::multiply_workspace(rows, sequences, k, x, type);
    return std::max(many, few_rows_workspace(rows, k));
  }

  void few(const Rows& x, const float* bias, const OutRows& y, float* workspace) const override {
    few_rows(x, weight_, bias, y, workspace);
  }

  int64_t few_workspace(int64_t rows) const override { return few_rows_workspace(rows, k); }
  int64_t few_step() const override { return kFewColumnStep; }

  void pack_few(const Rows& x, int64_t begin, int64_t end, float* packed) const override {
    quantized_detail::pack_few(x, weight_, begin, end, packed);
  }

  int64_t few_part_step() const override {
    return std::is_same_v<Codes, Packed> ? weight_.group_size : Weights::few_part_step();
  }

  void pack_few_part(const Rows& x, int64_t begin, int64_t end, float* packed) const override {
    if constexpr (std::is_same_v<Codes, Packed>) {
      pack_few_groups(x, weight_, begin / weight_.group_size, end / weight_.group_size, packed);
    } else {
      Weights::pack_few_part(x, begin, end, packed);
    }
  }

  void few_columns(const float* packed, int64_t rows, Float x_type, const float* bias, int64_t begin, int64_t end,
                   const OutRows& y) const override {
    quantized_detail::few_columns(weight_, rows, x_type, packed, bias, begin, end, y);
  }

  void row(int64_t index, Float type, void* to) const override { dequantize_row(weight_, index, type, to); }

  void many(Product& product, const std::vector<int64_t>& groups, float* workspace) const override {
    if (makes_panels(product.left.rows.type)) {
      product.right = right();
      linear_detail::bf16::many_rows(product, workspace);
      return;
    }
    const Float type = tile_type(product.left.rows.type);
    const int64_t row_bytes = k * linear_detail::size_of(type);
    const int64_t out_bytes = linear_detail::size_of(product.out.type);
    auto* const tile = reinterpret_cast<uint8_t*>(workspace);
    product.right.matrix = {.data = tile, .stride = k, .type = type};
    const float* const bias = product.bias;
    const int64_t step = tile_rows(type);
    for (int64_t begin = 0; begin < n; begin += step) {
      const int64_t count = std::min(step, n - begin);
      parallel_for(count, 16, [&](int64_t from, int64_t to) {
        for (int64_t row = from; row < to; ++row) {
          dequantize_row(weight_, begin + row, type, tile + row * row_bytes);
        }
      });
      product.n = count;
      product.bias = bias == nullptr ? nullptr : bias + begin;
      linear_detail::multiply(product, groups, workspace + tile_floats(type));
      for (void*& row : product.out.rows) {
        row = static_cast<uint8_t*>(row) + count * out_bytes;
      }
    }
  }

  const linear_detail::ManyRows* many_in_pieces(Float x) const override {
    return makes_panels(x) ? linear_detail::multiply_in_pieces(x, Float::kBfloat16, k) : nullptr;
  }
  Right right() const override {
    return {.matrix = {.data = nullptr, .stride = k, .type = Float::kBfloat16}, .by_k = false, .panels = &panels_};
  }

 private:
  // As few tiles as may be, since each packs all rows of x again, and no fewer rows than keep the product busy.
  static constexpr int64_t kTileBytes = 6 << 20;
  static constexpr int64_t kMinTileRows = 384;

  int64_t tile_rows(Float type) const {
    const int64_t fit = kTileBytes / std::max<int64_t>(1, k * linear_detail::size_of(type));
    return std::min(n, std::max(kMinTileRows, fit / kMinTileRows * kMinTileRows));
  }
  int64_t tile_floats(Float type) const {
    return linear_detail::copied_floats(tile_rows(type), (k * linear_detail::size_of(type) + 3) / 4);
  }

  // Whether codes become panels of the product. Those that multiply() would take before this one need rows that lie in
  // memory.
  bool makes_panels(Float x) const {
    Product product;
    product.k = k;
    product.left.rows.type = x;
    product.right = right();
    return std::is_same_v<Codes, Packed> && !linear_detail::always_onednn() &&
           !linear_detail::amx::can_multiply(product) && linear_detail::bf16::can_multiply(product);
  }

  // bfloat16 where x is no wider and oneDNN multiplies it.
  Float tile_type(Float x) const {
    const bool narrow = x == Float::kBfloat16 && linear_detail::multiplies_in_bf16(x, x);
    return narrow ? Float::kBfloat16 : Float::kFloat32;
  }

  Codes weight_;
  PackedPanels panels_;
};

class CodedFormat : public WeightFormat {
 public:
  explicit CodedFormat(Form form) : form_(std::move(form)) {}

  size_t arrays() const override { return form_.arrays(); }

  std::unique_ptr<Weights> read(const std::vector<mx::array>& inputs, size_t first,
                                mx::cpu::CommandEncoder& encoder) const override {
    if (form_.packed) {
      return std::make_unique<CodedWeights<Packed>>(read_packed(inputs, first, form_, encoder));
    }
    return std::make_unique<CodedWeights<Quantized>>(read_quantized(inputs, first, form_, encoder));
  }

  bool equals(const WeightFormat& other) const override {
    const auto* same = dynamic_cast<const CodedFormat*>(&other);
    return same != nullptr && same->form_ == form_;
  }

  mx::array dense(const std::vector<mx::array>& inputs, mx::Stream stream) const override {
    if (form_.packed) {
      const PackedWeight weight{.tiles = inputs[1],
                                .shape = form_.shape,
                                .dtype = form_.dtype,
                                .group_size = form_.group_size,
                                .bits = form_.bits};
      return dequantized_rows(weight, {}, mx::float32, stream);
    }
    const QuantizedWeight weight{.codes = inputs[1],
                                 .scales = inputs[2],
                                 .biases = inputs[3],
                                 .group_size = form_.group_size,
                                 .bits = form_.bits};
    return dequantized_rows(weight, {}, mx::float32, stream);
  }

  bool is_trainable() const override { return false; }

 private:
  Form form_;
};

struct RowsSettings {
  Form form;
  bool has_indices;

  bool operator==(const RowsSettings&) const = default;
};

class DequantizedRows : public cpu::CpuGradientNode<DequantizedRows, RowsSettings> {
 public:
  static constexpr const char* kOp = "dequantize";
  using CpuGradientNode::CpuGradientNode;

  // Inputs: the weights' arrays, and the indices where there are some.
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    mx::array& out = outputs[0];
    allocate(out);
    if (out.size() == 0) {
      return;
    }
    mx::cpu::CommandEncoder& encoder = mx::cpu::get_command_encoder(stream());
    if (settings_.form.packed) {
      write_rows(read_packed(inputs, 0, settings_.form, encoder), inputs, out, encoder);
    } else {
      write_rows(read_quantized(inputs, 0, settings_.form, encoder), inputs, out, encoder);
    }
  }

  // As in quantized_linear, the parts are constants.
  std::vector<mx::array> vjp(const std::vector<mx::array>& primals, const std::vector<mx::array>&,
                             const std::vector<int>& argnums, const std::vector<mx::array>&) override {
    std::vector<mx::array> zeros;
    for (const int argument : argnums) {
      zeros.push_back(mx::zeros_like(primals[static_cast<size_t>(argument)], stream()));
    }
    return zeros;
  }

  const char* name() const override { return "DequantizedRows"; }

 private:
  template <typename Codes>
  void write_rows(const Codes& weight, const std::vector<mx::array>& inputs, mx::array& out,
                  mx::cpu::CommandEncoder& encoder) const {
    const int32_t* indices =
        settings_.has_indices ? read_array(inputs, inputs.size() - 1, encoder).template data<int32_t>() : nullptr;
    encoder.set_output_array(out);
    const auto rows = static_cast<int64_t>(out.size()) / weight.k;
    const Float type = float_type(out.dtype());
    auto* to = out.data<uint8_t>();
    encoder.dispatch([=] {
      const int64_t bytes = weight.k * linear_detail::size_of(type);
      parallel_for(rows, 16, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
          // An index outside the rows is the caller's fault, but must not read outside them.
          const int64_t from = indices == nullptr ? row : std::clamp<int64_t>(indices[row], 0, weight.n - 1);
          dequantize_row(weight, from, type, to + row * bytes);
        }
      });
    });
  }
};

template <typename Weight>
mx::array forward_of(const mx::array& x, const Weight& weight, const std::optional<mx::array>& bias,
                     const LinearOptions& options, mx::Stream stream) {
  return linear_detail::forward(x, arrays_of(weight), weight.rows(), format_of(weight), bias, options, stream);
}

template <typename Weight>
mx::array rows_of(const Weight& weight, const std::optional<mx::array>& indices, mx::Dtype dtype, mx::Stream stream) {
  std::vector<mx::array> inputs = arrays_of(weight);
  mx::Shape shape = {weight.rows()};
  if (indices) {
    inputs.push_back(*indices);
    shape = indices->shape();
  }
  shape.push_back(weight.columns());
  const RowsSettings settings{.form = form_of(weight), .has_indices = indices.has_value()};
  return mx::array(shape, dtype, std::make_shared<DequantizedRows>(stream, settings), std::move(inputs));
}

}  // namespace

std::shared_ptr<const WeightFormat> format_of(const QuantizedWeight& weight) {
  return std::make_shared<const CodedFormat>(form_of(weight));
}

std::shared_ptr<const WeightFormat> format_of(const PackedWeight& weight) {
  return std::make_shared<const CodedFormat>(form_of(weight));
}

std::vector<mx::array> arrays_of(const QuantizedWeight& weight) {
  return {weight.codes, weight.scales, weight.biases};
}

std::vector<mx::array> arrays_of(const PackedWeight& weight) {
  return {weight.tiles};
}

mx::array forward(const mx::array& x, const QuantizedWeight& weight, const std::optional<mx::array>& bias,
                  const LinearOptions& options, mx::Stream stream) {
  return forward_of(x, weight, bias, options, stream);
}

mx::array forward(const mx::array& x, const PackedWeight& weight, const std::optional<mx::array>& bias,
                  const LinearOptions& options, mx::Stream stream) {
  return forward_of(x, weight, bias, options, stream);
}

mx::array dequantized_rows(const QuantizedWeight& weight, const std::optional<mx::array>& indices, mx::Dtype dtype,
                           mx::Stream stream) {
  return rows_of(weight, indices, dtype, stream);
}

mx::array dequantized_rows(const PackedWeight& weight, const std::optional<mx::array>& indices, mx::Dtype dtype,
                           mx::Stream stream) {
  return rows_of(weight, indices, dtype, stream);
}

}  // namespace mamba::ops::quantized_detail
