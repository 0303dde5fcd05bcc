// Inside linear: products of bfloat16 through oneDNN, on processors that multiply bfloat16 (AVX512_BF16, AMX). There it
// is several times as fast as widening to float32. Where the units are AVX512_BF16's, bf16::many_rows is faster still.
#pragma once

#include <cstdint>
#include <vector>

#include "mamba/ops/linear/many_rows.h"

namespace mamba::ops::linear_detail {

// Whether onednn_product, or bf16::many_rows in its place, is a better choice for these operands on this processor than
// widening them.
bool prefers_onednn(Float left, Float right);

// Whether bf16::many_rows takes its place: where multipliers are those of AVX512_BF16 and not AMX's.
bool prefers_own_bf16();

// For tests, which must reach this code on any processor: float32 products go through it as well, and bfloat16 ones
// that bf16::many_rows would take.
void set_always_onednn(bool on);

// Floats of workspace for a product of m rows in `groups` groups.
int64_t onednn_workspace(int64_t m, int64_t groups, int64_t k, Float type);

// many_rows' product, of operands that are both bfloat16 or both float32, K > 0. `groups` are the numbers of rows that
// belong together, in order: each group gives the bits it gives alone. False, and `out` as before, when
// oneDNN has no kernel for it. Does not throw. `workspace` is locked by the caller.
bool onednn_product(const Product& product, const std::vector<int64_t>& groups, float* workspace);

}  // namespace mamba::ops::linear_detail
