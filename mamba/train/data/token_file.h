// Files that hold token ids already: .npy and .bin.
#pragma once

#include <cstdint>

#include "mamba/base/file.h"
#include "mamba/base/progress.h"
#include "mamba/train/data/sources.h"
#include "mamba/train/data/token_array.h"

namespace mamba::train {

struct TokenFile {
  MappedFile file;
  TokenArray tokens;
  int64_t rows = 1;       // a document each where the file has rows
  bool is_stream = true;  // one dimension
};

// A .npy (npy.h), or a .bin of little-endian uint16 or uint32. Every id is looked at: throws Error naming position and
// value of the first that is not in [0, vocab_size).
//
// A .bin does not say what it holds. Above 65536 tokens it must be uint32; else it is uint16, unless every second
// 16-bit word is zero, as the upper halves of uint32 ids are: no text has one token at every second place.
TokenFile open_token_file(const Source& source, int64_t vocab_size, const ProgressFn& progress);

}  // namespace mamba::train
