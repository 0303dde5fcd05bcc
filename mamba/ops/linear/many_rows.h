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
}  // namespace bf16

}  // namespace mamba::ops::linear_detail
