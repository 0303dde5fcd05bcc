// NumPy's .npy files of token ids.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "mamba/train/data/token_array.h"

namespace mamba::train {

struct Npy {
  TokenType type;
  int64_t rows = 1;     // 1 for a one-dimensional array
  int64_t columns = 0;  // values in a row
  bool one_dimensional = true;
  int64_t offset = 0;  // of the first value in the file
};

// Understands `bytes`, a whole file of version 1, 2 or 3 with one or two dimensions and integers of any size and byte
// order. Throws ParseError naming `file`: for any other dtype, for Fortran order in two dimensions, and when the file
// does not hold exactly the values that its header announces.
Npy parse_npy(std::string_view bytes, const std::string& file);

}  // namespace mamba::train
