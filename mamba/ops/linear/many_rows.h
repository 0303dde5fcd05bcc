// Inside linear: products in which every operand is used often enough to be packed first, at the speed of the
// multipliers.
#pragma once

#include "mamba/ops/linear/products.h"

namespace mamba::ops::linear_detail {

// The left operand, M x K.
struct Left {
  Rows rows;                // M rows of K elements, or
  bool transposed = false;  // true: K rows of M elements
};

// A right operand in bfloat16 that is made as it is packed, instead of lying in memory.
class PanelSource {
 public:
  virtual ~PanelSource() = default;
  // Columns [n, n + columns), n a multiple of 16, in whole vectors of 16, of pairs [first, first + depth) of k, first a
  // multiple of 64: pair p of vector v to panel[((p - first) * vectors + v) * 16 ...]. Called by several threads.
  virtual void pack(int64_t n, int64_t columns, int64_t first, int64_t depth, uint32_t* panel) const = 0;
};

// The right operand, N x K: the sum is over both operands' k.
struct Right {
  Matrix matrix;                        // N rows of K elements, the layout of weights
  bool by_k = false;                    // true: K rows of N elements
  const PanelSource* panels = nullptr;  // for bf16::many_rows: in place of the matrix, whose type is kBfloat16
};

struct Product {
  int64_t m = 0, n = 0, k = 0;
  Left left;
  Right right;
  const float* bias = nullptr;  // (N,) or null
  OutRows out;                  // M rows of N elements
  bool add = false;             // to `addend`; without its rows, to what `out`, float32, holds
  Rows addend;                  // M rows of N float32 elements, or none
};

// The workspace that many_rows needs; it works through M in pieces, so this does not grow with M.
int64_t many_rows_workspace(int64_t m, int64_t k);

// out[i][j] = sum over k of left[i][k] right[j][k] + bias[j] (+ addend[i][j] or out[i][j]), in float32. Each element is
// summed in an order that depends on K alone. `workspace` is locked by the caller. Does not throw.
void many_rows(const Product& product, float* workspace);

// The same for operands that are both bfloat16, on the tiles of AMX. can_multiply() says whether this processor has
// them.
namespace amx {
bool can_multiply(const Product& product);
int64_t many_rows_workspace(int64_t m, int64_t k);
void many_rows(const Product& product, float* workspace);
// For tests: tiles of plain C++ in place of the processor's, where cpu::has_bf16_products().
void set_emulated(bool on);
bool is_emulated();
}  // namespace amx

// The same on units that multiply pairs.
namespace bf16 {
bool can_multiply(const Product& product);
int64_t many_rows_workspace(int64_t m, int64_t k);
void many_rows(const Product& product, float* workspace);

// The two gradients of a linear layer at once, from one matrix of `rows` rows and `columns` columns: dy, the left
// operand of dx = dy W and, transposed, of dW = dy^T x.
bool can_multiply_both(const Product& of_x, const Product& of_weight);
int64_t both_workspace(int64_t rows, int64_t columns);
void multiply_both(const Product& of_x, const Product& of_weight, float* workspace);
}  // namespace bf16

// A product of many rows in pieces, for who hands them to threads himself: the bits of many_rows. All of k is one pass,
// for which fits() says whether it can be. Nothing throws.
class ManyRows {
 public:
  virtual ~ManyRows() = default;

  virtual bool fits(int64_t k) const = 0;
  // Rows of the left operand that are packed side by side, and columns of the right one: ranges begin at multiples.
  virtual int64_t block_rows() const = 0;
  virtual int64_t panel_columns() const = 0;
  // Columns that are best multiplied at a time.
  virtual int64_t tile_columns(int64_t k) const = 0;

  // Floats of packed operands.
  virtual int64_t left_floats(int64_t rows, int64_t k) const = 0;
  virtual int64_t panel_floats(int64_t columns, int64_t k) const = 0;

  // Rows [begin, end), `packed` being where row `first` goes; as far as block_rows() together.
  virtual void pack_left(const Rows& x, int64_t first, int64_t begin, int64_t end, int64_t k, float* packed) const = 0;
  // Columns [begin, end) of product.right, `panels` being where column 0 goes.
  virtual void pack_panels(const Product& product, int64_t begin, int64_t end, float* panels) const = 0;

  // Rows [begin, end) of product.out, all columns; `left` holds those from `first` on.
  virtual void multiply_rows(const Product& product, const float* left, int64_t first, int64_t begin, int64_t end,
                             const float* panels) const = 0;
  // Columns [begin, end) of product.out, all rows, of which `left` has all. Panels are packed as they are needed.
  virtual void multiply_columns(const Product& product, const float* left, int64_t begin, int64_t end) const = 0;
};

const ManyRows& many_rows_in_pieces();
namespace bf16 {
const ManyRows& many_rows_in_pieces();
}  // namespace bf16

}  // namespace mamba::ops::linear_detail
