#include "mamba/io/pickle.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "mamba/base/error.h"
#include "mamba/io/pickle_bytes.h"
#include "mamba/io/pickle_names.h"
#include "mamba/io/tensor_source.h"

namespace mamba::io {
namespace {

using Kind = PickleValue::Kind;
using Role = PickleGlobal::Role;
using Index = uint32_t;

constexpr size_t kMaxPickleItems = 16'000'000;
constexpr size_t kMaxPickleTensors = 200'000;
constexpr size_t kMaxArguments = 8;

// The machine that a pickle is a program for: a stack of values, marks on it, and a memo.
class Machine {
 public:
  Machine(std::string_view pickle, const std::string& file) : bytes_(pickle, file) {}

  Pickle run() {
    while (!stopped_) {
      step(bytes_.begin_opcode());
    }
    return std::move(result_);
  }

 private:
  [[noreturn]] void fail(const std::string& message) const { bytes_.fail(message); }
  [[noreturn]] void refuse(const std::string& message) const { fail("refuses to load: the pickle " + message); }

  void check_count(size_t count, size_t limit, const char* what) const {
    if (count >= limit) {
      fail(fmt::format("the pickle {} more than {} values, which no state dict needs", what, limit));
    }
  }

  Index make(PickleValue value) {
    check_count(result_.values.size(), kMaxPickleValues, "builds");
    result_.values.push_back(std::move(value));
    return static_cast<Index>(result_.values.size() - 1);
  }
  void push(Index index) {
    check_count(stack_.size(), kMaxPickleValues, "stacks");
    stack_.push_back(index);
  }
  void push(PickleValue value) { push(make(std::move(value))); }
  void push_number(Kind kind, int64_t number) { push(PickleValue{kind, number, {}, {}}); }
  void push_text(Kind kind, std::string_view text) { push(PickleValue{kind, 0, text, {}}); }
  void push_items(Kind kind, std::vector<Index> items) {
    count_items(items.size());
    push(PickleValue{kind, 0, {}, std::move(items)});
  }
  // Lists that are copied from lists could otherwise grow with the square of the pickle.
  void count_items(size_t count) { check_count(items_ += count, kMaxPickleItems, "holds in its lists"); }

  PickleValue& value(Index index) { return result_.values[index]; }

  // The values above the last mark are an opcode's arguments; those below it are out of its reach.
  size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }

  Index pop() {
    if (stack_.size() <= floor()) {
      fail("the pickle takes a value from an empty stack");
    }
    const Index top = stack_.back();
    stack_.pop_back();
    return top;
  }

  Index top() const {
    if (stack_.size() <= floor()) {
      fail("the pickle looks at an empty stack");
    }
    return stack_.back();
  }

  std::vector<Index> pop_items(size_t count) {
    if (stack_.size() - floor() < count) {
      fail("the pickle takes a value from an empty stack");
    }
    std::vector<Index> items(stack_.end() - static_cast<ptrdiff_t>(count), stack_.end());
    stack_.resize(stack_.size() - count);
    return items;
  }

  std::vector<Index> pop_to_mark() {
    if (marks_.empty()) {
      fail("the pickle goes back to a mark that it never set");
    }
    std::vector<Index> items = pop_items(stack_.size() - marks_.back());
    marks_.pop_back();
    return items;
  }

  void extend(Kind kind, const std::vector<Index>& items, const char* what) {
    PickleValue& target = value(top());
    if (target.kind != kind || (kind == Kind::dict && items.size() % 2 != 0)) {
      fail(fmt::format("the pickle puts items into something that is not a {}", what));
    }
    count_items(items.size());
    target.items.insert(target.items.end(), items.begin(), items.end());
  }

  void memoize(uint64_t slot) {
    check_count(memo_.size(), kMaxPickleValues, "remembers");
    memo_[slot] = top();
  }

  void recall(uint64_t slot) {
    const auto it = memo_.find(slot);
    if (it == memo_.end()) {
      fail(fmt::format("the pickle recalls value {}, which it never stored", slot));
    }
    push(it->second);
  }

  void push_global(std::string_view module, std::string_view name) {
    const auto global = find_pickle_global(module, name);
    if (!global) {
      refuse("calls " + quote(std::string(module.substr(0, 80)) + "." + std::string(name.substr(0, 80)), 160));
    }
    globals_.push_back(*global);
    push_number(Kind::global, static_cast<int64_t>(globals_.size() - 1));
  }

  const PickleGlobal* global(Index index) {
    const PickleValue& v = value(index);
    return v.kind == Kind::global ? &globals_[static_cast<size_t>(v.number)] : nullptr;
  }

  uint64_t size_at(const std::vector<Index>& items, size_t position, const char* what) {
    const PickleValue& v = value(items[position]);
    if (v.kind != Kind::integer || v.number < 0) {
      fail(fmt::format("the pickle gives a {} that is not a size", what));
    }
    return static_cast<uint64_t>(v.number);
  }

  std::vector<int64_t> sizes_at(const std::vector<Index>& items, size_t position, const char* what) {
    const PickleValue& v = value(items[position]);
    if ((v.kind != Kind::tuple && v.kind != Kind::list) || v.items.size() > kMaxAxes) {
      fail(fmt::format("the pickle gives a {} that is not a tuple of at most {} sizes", what, kMaxAxes));
    }
    std::vector<int64_t> sizes;
    for (size_t i = 0; i < v.items.size(); ++i) {
      sizes.push_back(static_cast<int64_t>(size_at(v.items, i, what)));
    }
    return sizes;
  }

  void push_storage(Index id) {
    const bool five = value(id).kind == Kind::tuple && value(id).items.size() == 5;
    const std::vector<Index> items = five ? value(id).items : std::vector<Index>{};
    const PickleGlobal* type = five ? global(items[1]) : nullptr;
    if (type == nullptr || (type->role != Role::storage && type->role != Role::bytes_storage) ||
        value(items[0]).kind != Kind::text || value(items[0]).text != "storage" || value(items[2]).kind != Kind::text) {
      refuse("uses a persistent id that is not a storage");
    }
    const bool typed = type->role == Role::storage;
    result_.storages.push_back(
        {value(items[2]).text, type->dtype, typed ? type->dtype_name : "bytes", size_at(items, 4, "storage size")});
    push_number(Kind::storage, static_cast<int64_t>(result_.storages.size() - 1));
  }

  void push_tensor(const std::vector<Index>& arguments, Role role) {
    const size_t least = role == Role::rebuild_tensor ? 4 : role == Role::rebuild_tensor_v2 ? 6 : 7;
    const size_t most = role == Role::rebuild_tensor ? 4 : least + 1;
    if (arguments.size() < least || arguments.size() > most || value(arguments[0]).kind != Kind::storage) {
      fail(fmt::format("the pickle rebuilds a tensor from {} arguments that do not describe one", arguments.size()));
    }
    // The metadata says that the tensor is a conjugate or a negated view: its bytes are not its values.
    if (arguments.size() == most && role != Role::rebuild_tensor && !value(arguments.back()).items.empty()) {
      refuse("describes a tensor with conjugate or negative bits; clone() it before saving");
    }
    const PickledStorage& storage = result_.storages[static_cast<size_t>(value(arguments[0]).number)];
    PickledTensor tensor{storage,
                         storage.dtype,
                         storage.dtype_name,
                         size_at(arguments, 1, "storage offset"),
                         sizes_at(arguments, 2, "shape"),
                         sizes_at(arguments, 3, "stride")};
    if (role == Role::rebuild_tensor_v3) {
      const PickleGlobal* dtype = global(arguments[6]);
      if (dtype == nullptr || dtype->role != Role::dtype) {
        fail("the pickle rebuilds a tensor whose dtype is none");
      }
      tensor.dtype = dtype->dtype;
      tensor.dtype_name = dtype->dtype_name;
    }
    if (tensor.shape.size() != tensor.strides.size()) {
      fail(fmt::format("the pickle describes a tensor with {} axes and {} strides", tensor.shape.size(),
                       tensor.strides.size()));
    }
    check_count(result_.tensors.size(), kMaxPickleTensors, "makes tensors of");
    result_.tensors.push_back(std::move(tensor));
    push_number(Kind::tensor, static_cast<int64_t>(result_.tensors.size() - 1));
  }

  void push_dict_of_pairs(const std::vector<Index>& arguments) {
    std::vector<Index> items;
    if (!arguments.empty()) {
      const PickleValue& pairs = value(arguments[0]);
      if (arguments.size() != 1 || pairs.kind != Kind::list) {
        fail("the pickle makes an OrderedDict from something that is not a list of pairs");
      }
      for (const Index pair : pairs.items) {
        const PickleValue& p = value(pair);
        if ((p.kind != Kind::tuple && p.kind != Kind::list) || p.items.size() != 2) {
          fail("the pickle makes an OrderedDict from something that is not a list of pairs");
        }
        items.insert(items.end(), p.items.begin(), p.items.end());
      }
    }
    push_items(Kind::dict, std::move(items));
  }

  void reduce() {
    const Index packed = pop();
    const PickleGlobal* function = global(pop());
    if (function == nullptr || function->role >= Role::storage) {
      refuse("calls something that is not a function");
    }
    if (value(packed).kind != Kind::tuple || value(packed).items.size() > kMaxArguments) {
      fail(fmt::format("the pickle calls a function with arguments that are not a tuple of at most {}", kMaxArguments));
    }
    const std::vector<Index> arguments = value(packed).items;
    switch (function->role) {
      case Role::ordered_dict:
        return push_dict_of_pairs(arguments);
      case Role::rebuild_parameter:
      case Role::rebuild_parameter_with_state:
        if (arguments.empty() || value(arguments[0]).kind != Kind::tensor) {
          fail("the pickle makes a parameter of something that is not a tensor");
        }
        return push(arguments[0]);
      case Role::size:
        if (arguments.size() != 1 || value(arguments[0]).kind != Kind::tuple) {
          fail("the pickle makes a torch.Size of something that is not a tuple");
        }
        return push(arguments[0]);
      case Role::device:
        return push_number(Kind::other, 0);
      default:
        return push_tensor(arguments, function->role);
    }
  }

  // An OrderedDict carries attributes (a module's _metadata); nothing else here has any.
  void build() {
    pop();
    if (value(top()).kind != Kind::dict) {
      refuse("sets attributes of something that is not a dict (BUILD)");
    }
  }

  void stack_global() {
    const Index name = pop();
    const Index module = pop();
    if (value(name).kind != Kind::text || value(module).kind != Kind::text) {
      fail("the pickle looks up a name that is not a string");
    }
    push_global(value(module).text, value(name).text);
  }

  void set_item() {
    const std::vector<Index> pair = pop_items(2);
    extend(Kind::dict, pair, "dict");
  }

  void pop_or_drop_mark() {
    if (!marks_.empty() && marks_.back() == stack_.size()) {
      marks_.pop_back();
    } else {
      pop();
    }
  }

  void check_protocol(uint8_t protocol) {
    if (protocol < 2 || protocol > 5) {
      fail(fmt::format("the pickle has protocol {}; protocols 2 to 5 can be read", protocol));
    }
  }

  void step(uint8_t opcode);

  PickleBytes bytes_;
  bool stopped_ = false;
  std::vector<Index> stack_;
  std::vector<size_t> marks_;
  std::unordered_map<uint64_t, Index> memo_;
  std::vector<PickleGlobal> globals_;
  size_t items_ = 0;  // in all lists, tuples and dicts
  Pickle result_;
};

void Machine::step(uint8_t opcode) {
  switch (opcode) {
    case 0x80:
      return check_protocol(bytes_.take_byte());
    case 0x95:  // FRAME: a hint for readers that buffer
      bytes_.take_number(8);
      return;
    case '.':
      result_.root = pop();
      stopped_ = true;
      return;
    case '(':
      check_count(marks_.size(), kMaxPickleValues, "marks");
      return marks_.push_back(stack_.size());
    case '0':
      return pop_or_drop_mark();
    case '1':
      pop_to_mark();
      return;

    case 'N':
      return push_number(Kind::none, 0);
    case 0x88:
      return push_number(Kind::boolean, 1);
    case 0x89:
      return push_number(Kind::boolean, 0);
    case 'J':
      return push_number(Kind::integer, static_cast<int32_t>(bytes_.take_number(4)));
    case 'K':
      return push_number(Kind::integer, static_cast<int64_t>(bytes_.take_number(1)));
    case 'M':
      return push_number(Kind::integer, static_cast<int64_t>(bytes_.take_number(2)));
    case 0x8a:
      return push_number(Kind::integer, bytes_.take_long(bytes_.take_number(1)));
    case 0x8b:
      return push_number(Kind::integer, bytes_.take_long(bytes_.take_number(4)));
    case 'G':
      bytes_.take_number(8);
      return push_number(Kind::real, 0);

    case 'X':
      return push_text(Kind::text, bytes_.take(bytes_.take_number(4)));
    case 0x8c:
    case 'U':
      return push_text(Kind::text, bytes_.take(bytes_.take_number(1)));
    case 'T':
      return push_text(Kind::text, bytes_.take(bytes_.take_number(4)));
    case 0x8d:
      return push_text(Kind::text, bytes_.take(bytes_.take_number(8)));
    case 'B':
      return push_text(Kind::bytes, bytes_.take(bytes_.take_number(4)));
    case 'C':
      return push_text(Kind::bytes, bytes_.take(bytes_.take_number(1)));
    case 0x8e:
      return push_text(Kind::bytes, bytes_.take(bytes_.take_number(8)));

    case ')':
      return push_items(Kind::tuple, {});
    case 0x85:
      return push_items(Kind::tuple, pop_items(1));
    case 0x86:
      return push_items(Kind::tuple, pop_items(2));
    case 0x87:
      return push_items(Kind::tuple, pop_items(3));
    case 't':
      return push_items(Kind::tuple, pop_to_mark());
    case ']':
      return push_items(Kind::list, {});
    case 'l':
      return push_items(Kind::list, pop_to_mark());
    case 'a':
      return extend(Kind::list, pop_items(1), "list");
    case 'e':
      return extend(Kind::list, pop_to_mark(), "list");
    case '}':
      return push_items(Kind::dict, {});
    case 'd': {
      const std::vector<Index> items = pop_to_mark();
      push_items(Kind::dict, {});
      return extend(Kind::dict, items, "dict");
    }
    case 's':
      return set_item();
    case 'u':
      return extend(Kind::dict, pop_to_mark(), "dict");
    case 0x8f:
      return push_items(Kind::set, {});
    case 0x90:
      return extend(Kind::set, pop_to_mark(), "set");
    case 0x91:
      return push_items(Kind::set, pop_to_mark());

    case 'q':
      return memoize(bytes_.take_number(1));
    case 'r':
      return memoize(bytes_.take_number(4));
    case 0x94:
      return memoize(memo_.size());
    case 'h':
      return recall(bytes_.take_number(1));
    case 'j':
      return recall(bytes_.take_number(4));

    case 'c': {
      const std::string_view module = bytes_.take_line();
      return push_global(module, bytes_.take_line());
    }
    case 0x93:
      return stack_global();
    case 'Q':
      return push_storage(pop());
    case 'R':
      return reduce();
    case 'b':
      return build();
    default:
      refuse(fmt::format("uses the opcode {}, which a state dict does not need", pickle_opcode_name(opcode)));
  }
}

}  // namespace

Pickle read_pickle(std::string_view pickle, const std::string& file) {
  if (pickle.size() > kMaxPickleBytes) {
    throw ParseError(
        file, 0,
        fmt::format("the pickle is {} bytes long, more than the {} that make sense", pickle.size(), kMaxPickleBytes));
  }
  return Machine(pickle, file).run();
}

}  // namespace mamba::io
