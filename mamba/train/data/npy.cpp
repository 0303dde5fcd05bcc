#include "mamba/train/data/npy.h"

#include <limits>
#include <optional>
#include <vector>

#include "mamba/base/error.h"

namespace mamba::train {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr size_t kMaxHeader = 1u << 16;

// The header is a Python literal: {'descr': '<i8', 'fortran_order': False, 'shape': (3, 4), }.
class HeaderParser {
 public:
  HeaderParser(std::string_view text, size_t base, const std::string& file) : text_(text), base_(base), file_(file) {}

  struct Header {
    std::optional<std::string> descr;
    std::optional<bool> fortran_order;
    std::optional<std::vector<int64_t>> shape;
  };

  Header parse() {
    Header header;
    expect('{');
    while (!accept('}')) {
      const std::string key = string();
      expect(':');
      if (key == "descr") {
        if (peek() == '[') {
          fail("its dtype is a record: one-dimensional or two-dimensional arrays of integers are needed");
        }
        header.descr = string();
      } else if (key == "fortran_order") {
        header.fortran_order = boolean();
      } else if (key == "shape") {
        header.shape = shape();
      } else {
        fail(fmt::format("its header has an unknown key {}", quote(key)));
      }
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    if (peek() != '\0') {
      fail("text follows its header");
    }
    return header;
  }

  [[noreturn]] void fail(const std::string& message) const {
    throw ParseError(file_, static_cast<int64_t>(base_ + at_), message);
  }

 private:
  char peek() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t')) {
      ++at_;
    }
    return at_ < text_.size() ? text_[at_] : '\0';
  }

  bool accept(char c) {
    if (peek() != c) {
      return false;
    }
    ++at_;
    return true;
  }

  void expect(char c) {
    if (!accept(c)) {
      fail(fmt::format("its header is no NumPy header: \"{}\" is missing", c));
    }
  }

  std::string string() {
    const char mark = peek();
    if (mark != '\'' && mark != '"') {
      fail("its header is no NumPy header: a string is missing");
    }
    const size_t end = text_.find(mark, ++at_);
    if (end == std::string_view::npos) {
      fail("its header is no NumPy header: a string has no end");
    }
    std::string out(text_.substr(at_, end - at_));
    at_ = end + 1;
    return out;
  }

  bool boolean() {
    peek();
    for (const bool value : {true, false}) {
      const std::string_view word = value ? "True" : "False";
      if (text_.substr(at_).starts_with(word)) {
        at_ += word.size();
        return value;
      }
    }
    fail("its header is no NumPy header: True or False is missing");
  }

  std::vector<int64_t> shape() {
    std::vector<int64_t> out;
    expect('(');
    while (!accept(')')) {
      if (peek() < '0' || peek() > '9') {
        fail("its header is no NumPy header: a length is missing in the shape");
      }
      int64_t value = 0;
      for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
        if (value > (std::numeric_limits<int64_t>::max() - 9) / 10) {
          fail("a length in its shape is too large");
        }
        value = 10 * value + (text_[at_] - '0');
      }
      accept('L');  // Python 2 wrote long integers like this
      out.push_back(value);
      if (!accept(',')) {
        expect(')');
        break;
      }
    }
    return out;
  }

  std::string_view text_;
  size_t base_;
  const std::string& file_;
  size_t at_ = 0;
};

std::optional<TokenType> integer_type(const std::string& descr) {
  if (descr.size() != 3 || (descr[1] != 'i' && descr[1] != 'u') ||
      (descr[0] != '<' && descr[0] != '>' && descr[0] != '|' && descr[0] != '=')) {
    return std::nullopt;
  }
  const int size = descr[2] - '0';
  if (size != 1 && size != 2 && size != 4 && size != 8) {
    return std::nullopt;
  }
  return TokenType{.size = size, .is_signed = descr[1] == 'i', .big_endian = descr[0] == '>'};
}

}  // namespace

Npy parse_npy(std::string_view bytes, const std::string& file) {
  const auto fail = [&](int64_t offset, const std::string& message) { throw ParseError(file, offset, message); };
  if (bytes.size() < 10 || !bytes.starts_with(kMagic)) {
    fail(0, "it is no .npy file: the bytes \\x93NUMPY are not at its start");
  }
  const auto byte = [&](size_t at) { return static_cast<size_t>(static_cast<unsigned char>(bytes[at])); };
  const size_t version = byte(6);
  if (version < 1 || version > 3) {
    fail(6, fmt::format(".npy version {} is not supported: 1, 2 and 3 are", version));
  }
  const size_t begin = version == 1 ? 10 : 12;
  if (bytes.size() < begin) {
    fail(static_cast<int64_t>(bytes.size()), "the file is cut off inside its header");
  }
  const size_t length =
      version == 1 ? byte(8) | byte(9) << 8 : byte(8) | byte(9) << 8 | byte(10) << 16 | byte(11) << 24;
  if (length > kMaxHeader) {
    fail(8, fmt::format("its header is {} bytes long, more than the {} that make sense", length, kMaxHeader));
  }
  if (bytes.size() - begin < length) {
    fail(static_cast<int64_t>(bytes.size()), "the file is cut off inside its header");
  }
  HeaderParser parser(bytes.substr(begin, length), begin, file);
  const HeaderParser::Header header = parser.parse();
  if (!header.descr || !header.fortran_order || !header.shape) {
    parser.fail("its header lacks descr, fortran_order or shape");
  }
  const std::optional<TokenType> type = integer_type(*header.descr);
  if (!type) {
    parser.fail(fmt::format("its dtype is {}: token ids are integers, so save it with .astype(numpy.uint32) or similar",
                            quote(*header.descr)));
  }
  const std::vector<int64_t>& shape = *header.shape;
  if (shape.size() != 1 && shape.size() != 2) {
    parser.fail(fmt::format("its shape is ({}): one dimension is a stream of tokens, two are a document in each row",
                            fmt::join(shape, ", ")));
  }
  Npy npy;
  npy.type = *type;
  npy.one_dimensional = shape.size() == 1;
  npy.rows = npy.one_dimensional ? 1 : shape[0];
  npy.columns = shape.back();
  npy.offset = static_cast<int64_t>(begin + length);
  if (*header.fortran_order && npy.rows > 1 && npy.columns > 1) {
    parser.fail("it is in Fortran order: save numpy.ascontiguousarray of it");
  }
  const int64_t held = (static_cast<int64_t>(bytes.size()) - npy.offset) / npy.type.size;
  // Divides before it multiplies: lengths in a header may be anything.
  const bool too_many = npy.columns > 0 && npy.rows > held / npy.columns;
  if (too_many || npy.rows * npy.columns * npy.type.size != static_cast<int64_t>(bytes.size()) - npy.offset) {
    fail(static_cast<int64_t>(bytes.size()),
         fmt::format("its header announces ({}) values of {} bytes but {} bytes follow: the file is {}",
                     fmt::join(shape, ", "), npy.type.size, static_cast<int64_t>(bytes.size()) - npy.offset,
                     too_many ? "cut off" : "damaged"));
  }
  return npy;
}

}  // namespace mamba::train
