// The pickles of torch.save, and of those only what a state dict is made of.
#pragma once

#include <mlx/array.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mamba::io {

// A storage that the pickle refers to by its persistent id.
struct PickledStorage {
  std::string_view key;                   // "0": the archive's record data/0
  std::optional<mlx::core::Dtype> dtype;  // nothing for one of bytes, whose tensors say their dtype
  std::string_view dtype_name;            // for messages, also where `dtype` has no counterpart here
  uint64_t items;
};

struct PickledTensor {
  PickledStorage storage;
  std::optional<mlx::core::Dtype> dtype;  // nothing where `dtype_name` has no counterpart here
  std::string_view dtype_name;
  uint64_t offset;  // in items
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;  // in items, as many as `shape`
};

// Everything that the pickle builds, in one pool: values refer to each other by index, so that neither depth nor cycles
// can exhaust the stack of whoever walks or destroys them. Text points into the pickle's bytes.
struct PickleValue {
  enum class Kind : uint8_t {
    none,
    boolean,
    integer,
    real,
    text,
    bytes,
    tuple,
    list,
    set,
    dict,
    global,
    storage,
    tensor,
    other
  };
  Kind kind = Kind::none;
  int64_t number = 0;           // boolean, integer (saturated), or an index into the tables of Pickle
  std::string_view text;        // text, bytes
  std::vector<uint32_t> items;  // tuple, list, set; dict: key, value, key, value, ...
};

struct Pickle {
  std::vector<PickleValue> values;
  std::vector<PickledStorage> storages;
  std::vector<PickledTensor> tensors;
  uint32_t root = 0;
};

// Runs the pickle. Allowed are the opcodes of protocols 2 to 5 for plain values, dicts, lists and tuples, persistent
// ids of storages, and calls of torch's functions that rebuild tensors and parameters, OrderedDict, Size and device. No
// other name is ever looked up: ParseError `refuses to load: the pickle calls "os.system"`. Offsets in errors count
// from the start of the pickle, as in `python -m pickletools`. `pickle` must outlive the result.
Pickle read_pickle(std::string_view pickle, const std::string& file);

// A state dict of 10,000 tensors takes 3 MB and 200,000 values.
inline constexpr uint64_t kMaxPickleBytes = uint64_t{64} << 20;
inline constexpr size_t kMaxPickleValues = 2'000'000;

}  // namespace mamba::io
