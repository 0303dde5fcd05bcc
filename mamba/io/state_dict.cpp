#include "mamba/io/state_dict.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "mamba/base/error.h"
#include "mamba/base/json.h"

namespace mamba::io {

namespace mx = mlx::core;

namespace {

using Kind = PickleValue::Kind;

constexpr std::string_view kWrappers[] = {"state_dict", "model_state_dict", "model", "module"};
constexpr int kMaxWrappers = 4;

bool valid_utf8(std::string_view text) {
  try {
    (void)json_text(Json(text));
    return true;
  } catch (const Json::exception&) {
    return false;
  }
}

bool holds_tensors(const Pickle& pickle, const PickleValue& dict) {
  for (size_t i = 1; i < dict.items.size(); i += 2) {
    if (pickle.values[dict.items[i]].kind == Kind::tensor) {
      return true;
    }
  }
  return false;
}

// The last value under `key`, as in Python.
const PickleValue* find(const Pickle& pickle, const PickleValue& dict, std::string_view key) {
  for (size_t i = dict.items.size(); i >= 2; i -= 2) {
    const PickleValue& k = pickle.values[dict.items[i - 2]];
    if (k.kind == Kind::text && k.text == key) {
      return &pickle.values[dict.items[i - 1]];
    }
  }
  return nullptr;
}

const PickleValue& unwrap(const Pickle& pickle, const PickleValue& root) {
  const PickleValue* dict = &root;
  for (int depth = 0; depth < kMaxWrappers; ++depth) {
    const PickleValue* inner = nullptr;
    for (const std::string_view key : kWrappers) {
      const PickleValue* candidate = find(pickle, *dict, key);
      if (candidate != nullptr && candidate->kind == Kind::dict) {
        inner = candidate;
        break;
      }
    }
    if (inner == nullptr) {
      break;
    }
    dict = inner;
  }
  return *dict;
}

std::string keys_of(const Pickle& pickle, const PickleValue& dict) {
  std::string keys;
  for (size_t i = 0; i < dict.items.size(); i += 2) {
    const PickleValue& key = pickle.values[dict.items[i]];
    if (keys.size() > 200) {
      return keys + ", ...";
    }
    keys += (keys.empty() ? "" : ", ") + (key.kind == Kind::text ? quote(key.text, 40) : std::string("a key"));
  }
  return keys.empty() ? "nothing at all" : keys;
}

[[noreturn]] void fail(const std::string& file, const std::string& message) {
  throw ParseError(file, ParseError::kNoOffset, message);
}

}  // namespace

std::map<std::string, PickledTensor> find_state_dict(const Pickle& pickle, const std::string& file) {
  const PickleValue& root = pickle.values[pickle.root];
  if (root.kind != Kind::dict) {
    fail(file, root.kind == Kind::tensor ? "holds a single tensor where a dict of named tensors is needed"
                                         : "holds no dict of named tensors");
  }
  const PickleValue& dict = unwrap(pickle, root);
  if (!holds_tensors(pickle, dict)) {
    fail(file, fmt::format("holds no dict of named tensors but {}", keys_of(pickle, dict)));
  }
  std::map<std::string, PickledTensor> tensors;
  for (size_t i = 0; i < dict.items.size(); i += 2) {
    const PickleValue& key = pickle.values[dict.items[i]];
    const PickleValue& value = pickle.values[dict.items[i + 1]];
    if (value.kind != Kind::tensor) {
      continue;
    }
    if (key.kind != Kind::text || !valid_utf8(key.text)) {
      fail(file, key.kind == Kind::text ? fmt::format("the tensor name {} is not valid UTF-8", quote(key.text))
                                        : "holds a tensor whose name is not a string");
    }
    tensors.insert_or_assign(std::string(key.text), pickle.tensors[static_cast<size_t>(value.number)]);
  }
  return tensors;
}

TensorView check_tensor(const std::string& name, const PickledTensor& tensor, uint64_t storage_bytes,
                        const std::string& file, int64_t at) {
  const auto bad = [&](const std::string& message) {
    throw ParseError(file, at, fmt::format("tensor {} {}", quote(name), message));
  };
  if (!tensor.dtype) {
    bad(fmt::format("has dtype {}, which cannot be read; convert it with torch first", tensor.dtype_name));
  }
  const uint64_t item = tensor.dtype->size();
  const PickledStorage& storage = tensor.storage;
  uint64_t claimed = 0;
  if (__builtin_mul_overflow(storage.items, storage.dtype ? storage.dtype->size() : 1, &claimed) ||
      claimed != storage_bytes) {
    bad(fmt::format("claims a storage of {} items of {} but the archive holds {} bytes", storage.items,
                    storage.dtype_name, storage_bytes));
  }
  const uint64_t items = storage_bytes / item;

  mx::Shape shape;
  for (const int64_t axis : tensor.shape) {
    if (axis > kMaxAxis) {
      bad(fmt::format("has an axis of size {}, more than {}", axis, kMaxAxis));
    }
    shape.push_back(static_cast<int>(axis));
  }
  uint64_t bytes = 0;
  if (!checked_bytes(shape, item, bytes)) {
    bad(fmt::format("of shape {} is too large for any memory", shown(shape)));
  }
  // Broadcast axes (stride 0) make a tensor of any size from a few bytes.
  if (bytes > storage_bytes) {
    bad(fmt::format("of shape {} needs {} bytes but its storage has {}; save a contiguous() copy", shown(shape), bytes,
                    storage_bytes));
  }

  bool contiguous = true;
  uint64_t last = tensor.offset;  // the item of the highest index
  int64_t expected = 1;
  bool inside = true;
  for (size_t axis = shape.size(); axis-- > 0;) {
    uint64_t reach = 0;
    inside = inside &&
             !__builtin_mul_overflow(static_cast<uint64_t>(std::max(shape[axis] - 1, 0)),
                                     static_cast<uint64_t>(tensor.strides[axis]), &reach) &&
             !__builtin_add_overflow(last, reach, &last);
    contiguous = contiguous && (shape[axis] == 1 || tensor.strides[axis] == expected);
    expected *= std::max(shape[axis], 1);
  }
  if (bytes > 0 && (!inside || last >= items)) {
    bad(fmt::format("of shape {} and strides ({}) at item {} reaches outside its storage of {} items", shown(shape),
                    fmt::join(tensor.strides, ", "), tensor.offset, items));
  }
  const bool empty = bytes == 0;
  return {TensorInfo{*tensor.dtype, std::move(shape), bytes}, empty ? 0 : tensor.offset * item, tensor.strides,
          contiguous || empty};
}

}  // namespace mamba::io
