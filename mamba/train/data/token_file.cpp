#include "mamba/train/data/token_file.h"

#include <algorithm>
#include <mutex>

#include "mamba/base/error.h"
#include "mamba/base/threads.h"
#include "mamba/train/data/npy.h"

namespace mamba::train {
namespace {

constexpr int64_t kBlock = 1 << 16;             // ids that a thread looks at in one go
constexpr int64_t kStretch = int64_t{1} << 24;  // ids between two reports of progress
constexpr int64_t kTwoByteIds = 65536;

// Fewer words than this may have zeros at every second place by chance.
constexpr int64_t kWordsToTell = 8;

bool upper_halves_are_zero(const MappedFile& file) {
  const auto words = static_cast<int64_t>(file.size() / 2);
  if (file.size() % 4 != 0 || words < kWordsToTell) {
    return false;
  }
  const TokenArray halves(file.data(), words, {.size = 2});
  int32_t pair[2];
  for (int64_t i = 0; i < words; i += 2) {
    halves.copy(i, 2, pair);
    if (pair[1] != 0) {
      return false;
    }
  }
  return true;
}

void check_ids(const std::string& name, const TokenFile& file, int64_t vocab_size, const ProgressFn& progress) {
  const int64_t size = file.tokens.size();
  for (int64_t done = 0; done < size;) {
    const int64_t stretch = std::min(kStretch, size - done);
    std::mutex mutex;
    std::optional<TokenArray::Outside> first;
    const int64_t blocks = (stretch + kBlock - 1) / kBlock;
    parallel_for(blocks, 1, [&](int64_t begin, int64_t end) {
      const int64_t last = std::min(done + end * kBlock, done + stretch);
      if (auto found = file.tokens.first_outside(done + begin * kBlock, last, vocab_size)) {
        const std::lock_guard lock(mutex);
        if (!first || found->position < first->position) {
          first = found;
        }
      }
    });
    if (first) {
      const std::string row = file.is_stream ? ""
                                             : fmt::format(" (row {}, column {})", first->position / (size / file.rows),
                                                           first->position % (size / file.rows));
      throw Error(
          fmt::format("{}: token {} at position {}{} is outside the vocabulary of {}: it was made with another "
                      "tokenizer",
                      name, first->value, first->position, row, vocab_size));
    }
    file.file.release();
    done += stretch;
    if (progress) {
      progress({.what = name, .done = done, .total = size, .unit = "tokens", .finished = done == size});
    }
  }
}

}  // namespace

TokenFile open_token_file(const Source& source, int64_t vocab_size, const ProgressFn& progress) {
  const std::string name = source.path.string();
  TokenFile out{MappedFile(source.path), {}};
  const MappedFile& file = out.file;
  if (source.kind == SourceKind::kNpy) {
    const Npy npy = parse_npy(file.text(), name);
    out.tokens = TokenArray(file.data() + npy.offset, npy.rows * npy.columns, npy.type);
    out.rows = npy.rows;
    out.is_stream = npy.one_dimensional;
  } else {
    const int size = vocab_size > kTwoByteIds || upper_halves_are_zero(file) ? 4 : 2;
    if (file.size() % static_cast<size_t>(size) != 0) {
      throw ParseError(
          name, static_cast<int64_t>(file.size()),
          fmt::format("the file is cut off: {} bytes are no whole number of uint{} ids", file.size(), 8 * size));
    }
    out.tokens = TokenArray(file.data(), static_cast<int64_t>(file.size()) / size, {.size = size});
  }
  check(out.tokens.size() > 0, "{}: there is no token in it", name);
  check_ids(name, out, vocab_size, progress);
  return out;
}

}  // namespace mamba::train
