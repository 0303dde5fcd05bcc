// The header is read as a stream of JSON events, not as a tree: that sees a key that comes twice, needs no memory
// beyond the result, and knows where in the file each thing stands.

#include "mamba/io/safetensors_header.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>
#include <vector>

#include "mamba/base/error.h"
#include "mamba/base/json.h"
#include "mamba/io/dtype.h"

namespace mamba::io {

namespace mx = mlx::core;

namespace {

// An iterator that tells how far the parser has come.
class TrackedChar {
 public:
  using iterator_category = std::forward_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  TrackedChar() = default;
  TrackedChar(const char* at, const char** furthest) : at_(at), furthest_(furthest) {}
  reference operator*() const { return *at_; }
  TrackedChar& operator++() {
    *furthest_ = ++at_;
    return *this;
  }
  TrackedChar operator++(int) {
    const TrackedChar before = *this;
    ++*this;
    return before;
  }
  bool operator==(const TrackedChar& other) const { return at_ == other.at_; }
  bool operator!=(const TrackedChar& other) const { return at_ != other.at_; }

 private:
  const char* at_ = nullptr;
  const char** furthest_ = nullptr;
};

class Handler {
 public:
  Handler(std::string_view json, const std::string& file, int64_t base, SafetensorsHeader& header)
      : json_(json), furthest_(json.data()), file_(file), base_(base), header_(header) {}

  const char** furthest() { return &furthest_; }

  bool null() { unexpected("null"); }
  bool boolean(bool) { unexpected("a truth value"); }
  bool number_integer(Json::number_integer_t value) { unexpected(fmt::format("the number {}", value)); }
  bool number_float(Json::number_float_t, const std::string& text) {
    unexpected(fmt::format("the number {}", text.substr(0, 40)));
  }
  bool binary(Json::binary_t&) { unexpected("binary data"); }

  bool number_unsigned(Json::number_unsigned_t value) {
    if (place_ == Place::shape) {
      if (value > static_cast<uint64_t>(kMaxAxis)) {
        fail(fmt::format("tensor {} has an axis of size {}, more than {}", quote(name_), value, kMaxAxis));
      }
      if (shape_->size() == kMaxAxes) {
        fail(fmt::format("tensor {} has more than {} axes", quote(name_), kMaxAxes));
      }
      shape_->push_back(static_cast<int>(value));
    } else if (place_ == Place::offsets && offsets_.size() < 2) {
      offsets_.push_back(value);
    } else {
      unexpected(fmt::format("the number {}", value));
    }
    return moved();
  }

  bool string(std::string& value) {
    if (place_ == Place::metadata) {
      header_.metadata[field_] = value;
    } else if (place_ == Place::tensor && field_ == "dtype") {
      dtype_ = dtype_of_safetensors_name(value);
      if (!dtype_) {
        fail(fmt::format("tensor {} has dtype {}, which cannot be read; convert it to F32, F16 or BF16 first",
                         quote(name_), quote(value)));
      }
    } else {
      unexpected(fmt::format("the string {}", quote(value, 40)));
    }
    return moved();
  }

  bool start_object(size_t) {
    if (place_ == Place::start) {
      place_ = Place::top;
    } else if (place_ == Place::top) {
      place_ = name_ == "__metadata__" ? Place::metadata : Place::tensor;
      dtype_.reset();
      shape_.reset();
      offsets_.clear();
      seen_offsets_ = false;
    } else {
      unexpected("an object");
    }
    return moved();
  }

  bool key(std::string& value) {
    const int64_t at = start_of_string();
    if (place_ == Place::top) {
      const bool twice =
          value == "__metadata__" ? std::exchange(seen_metadata_, true) : header_.tensors.contains(value);
      if (twice) {
        fail_at(at, fmt::format("the header names {} twice", quote(value)));
      }
      name_ = value;
      name_at_ = at;
    } else if (place_ == Place::metadata) {
      if (header_.metadata.contains(value)) {
        fail_at(at, fmt::format("the metadata names {} twice", quote(value)));
      }
      field_ = value;
    } else {
      if ((value == "dtype" && dtype_) || (value == "shape" && shape_) || (value == "data_offsets" && seen_offsets_)) {
        fail_at(at, fmt::format("tensor {} has the field {} twice", quote(name_), quote(value)));
      }
      if (value != "dtype" && value != "shape" && value != "data_offsets") {
        fail_at(at, fmt::format("tensor {} has the unknown field {}", quote(name_), quote(value)));
      }
      field_ = value;
    }
    return moved();
  }

  bool end_object() {
    if (place_ == Place::tensor) {
      finish_tensor();
    }
    place_ = place_ == Place::top ? Place::end : Place::top;
    return moved();
  }

  bool start_array(size_t) {
    if (place_ == Place::tensor && field_ == "shape") {
      place_ = Place::shape;
      shape_.emplace();
    } else if (place_ == Place::tensor && field_ == "data_offsets") {
      place_ = Place::offsets;
      seen_offsets_ = true;
    } else {
      unexpected("a list");
    }
    return moved();
  }

  bool end_array() {
    place_ = Place::tensor;
    return moved();
  }

  bool parse_error(size_t position, const std::string&, const Json::exception& error) {
    const bool range = dynamic_cast<const Json::out_of_range*>(&error) != nullptr;
    fail_at(base_ + (position > 0 ? static_cast<int64_t>(position) - 1 : 0),
            range ? "the header is not valid JSON: a number is out of range" : "the header is not valid JSON");
  }

 private:
  enum class Place { start, top, metadata, tensor, shape, offsets, end };

  int64_t position() const { return base_ + (furthest_ - json_.data()); }

  // The string that was just read began at the first quote after the event before it.
  int64_t start_of_string() const {
    const size_t quote_at = json_.find('"', last_);
    return base_ + static_cast<int64_t>(quote_at == std::string_view::npos ? last_ : quote_at);
  }

  bool moved() {
    last_ = static_cast<size_t>(furthest_ - json_.data());
    return true;
  }

  [[noreturn]] void fail_at(int64_t at, const std::string& message) const { throw ParseError(file_, at, message); }
  [[noreturn]] void fail(const std::string& message) const { fail_at(position(), message); }

  [[noreturn]] void unexpected(const std::string& what) const {
    switch (place_) {
      case Place::start:
      case Place::end:
        fail(fmt::format("the header must be one JSON object but is {}", what));
      case Place::top:
        fail(fmt::format("header entry {} must be an object but is {}", quote(name_), what));
      case Place::metadata:
        fail(fmt::format("metadata {} must be a string but is {}", quote(field_), what));
      case Place::tensor:
        fail(fmt::format("field {} of tensor {} must not be {}", quote(field_), quote(name_), what));
      case Place::shape:
        fail(fmt::format("the shape of tensor {} must hold sizes but has {}", quote(name_), what));
      case Place::offsets:
        break;
    }
    fail(fmt::format("data_offsets of tensor {} must be two offsets but has {}", quote(name_), what));
  }

  void finish_tensor() {
    const char* missing = !dtype_ ? "dtype" : !shape_ ? "shape" : offsets_.size() != 2 ? "data_offsets" : nullptr;
    if (missing != nullptr) {
      fail_at(name_at_, fmt::format("tensor {} has no complete {}", quote(name_), missing));
    }
    uint64_t bytes = 0;
    if (!checked_bytes(*shape_, dtype_->size(), bytes)) {
      fail_at(name_at_, fmt::format("tensor {} of shape {} is too large for any memory", quote(name_), shown(*shape_)));
    }
    if (offsets_[0] > offsets_[1] || offsets_[1] - offsets_[0] != bytes) {
      fail_at(name_at_,
              fmt::format("tensor {} of shape {} and dtype {} needs {} bytes but its data_offsets are {} and {}",
                          quote(name_), shown(*shape_), dtype_name(*dtype_), bytes, offsets_[0], offsets_[1]));
    }
    header_.tensors.emplace(
        name_, SafetensorsHeader::Tensor{TensorInfo{*dtype_, *shape_, bytes}, offsets_[0], offsets_[1], name_at_});
  }

  std::string_view json_;
  const char* furthest_;
  const std::string& file_;
  int64_t base_;
  SafetensorsHeader& header_;

  Place place_ = Place::start;
  size_t last_ = 0;
  std::string name_;
  int64_t name_at_ = 0;
  std::string field_;
  bool seen_metadata_ = false;
  bool seen_offsets_ = false;
  std::optional<mx::Dtype> dtype_;
  std::optional<mx::Shape> shape_;
  std::vector<uint64_t> offsets_;
};

// Tensors must lie one after the other from the first byte of the data to its last.
void check_cover(const SafetensorsHeader& header, const std::string& file, int64_t data_start, uint64_t data_size) {
  std::vector<const std::pair<const std::string, SafetensorsHeader::Tensor>*> order;
  order.reserve(header.tensors.size());
  for (const auto& entry : header.tensors) {
    if (entry.second.end > data_size) {
      throw ParseError(file, entry.second.at,
                       fmt::format("tensor {} ends at {} but only {} bytes of data follow the header: the file is "
                                   "cut off; download or copy it again",
                                   quote(entry.first), entry.second.end, data_size));
    }
    order.push_back(&entry);
  }
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
  });
  uint64_t end = 0;
  const std::string* before = nullptr;
  for (const auto* entry : order) {
    if (entry->second.begin < end) {
      throw ParseError(file, entry->second.at,
                       fmt::format("tensors {} and {} overlap", quote(*before), quote(entry->first)));
    }
    if (entry->second.begin > end) {
      throw ParseError(
          file, entry->second.at,
          fmt::format("{} bytes before tensor {} belong to no tensor", entry->second.begin - end, quote(entry->first)));
    }
    end = entry->second.end;
    before = &entry->first;
  }
  if (end != data_size) {
    throw ParseError(file, data_start + static_cast<int64_t>(end),
                     fmt::format("{} bytes after the last tensor belong to no tensor", data_size - end));
  }
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view json, const std::string& file, int64_t base,
                                           uint64_t data_size) {
  SafetensorsHeader header;
  Handler handler(json, file, base, header);
  const TrackedChar first(json.data(), handler.furthest());
  const TrackedChar last(json.data() + json.size(), handler.furthest());
  // Events throw, so a false return cannot happen; the trailing text must be blank.
  if (!Json::sax_parse(first, last, &handler, Json::input_format_t::json, true)) {
    throw ParseError(file, base, "the header is not valid JSON");
  }
  check_cover(header, file, base + static_cast<int64_t>(json.size()), data_size);
  return header;
}

}  // namespace mamba::io
