#include "mamba/text/jinja/interpreter.h"

#include <algorithm>
#include <utility>

#include "mamba/base/error.h"

namespace mamba::text::jinja {
namespace {

constexpr int kMaxCalls = 400;  // expressions and macros inside of each other

// Errors get the place where they happened, once.
class LocatedError : public Error {
 public:
  using Error::Error;
};

class DepthGuard {
 public:
  explicit DepthGuard(int& depth) : depth_(depth) {
    check(++depth_ <= kMaxCalls, "macros and expressions are nested deeper than {}", kMaxCalls);
  }
  ~DepthGuard() { --depth_; }
  DepthGuard(const DepthGuard&) = delete;
  DepthGuard& operator=(const DepthGuard&) = delete;

 private:
  int& depth_;
};

}  // namespace

std::string Interpreter::run(const Body& body) {
  std::string out;
  output_ = &out;
  result_ = &out;
  generated_.clear();
  execute(body);
  return out;
}

void Interpreter::charge(size_t steps) {
  steps_ += static_cast<int64_t>(steps);
  check(steps_ <= kMaxSteps, "the template takes more than {} steps", kMaxSteps);
}

void Interpreter::write(std::string_view text) {
  check(output_->size() + text.size() <= kMaxLength, "the template writes more than {} bytes", kMaxLength);
  charge(text.size() / 64);
  output_->append(text);
}

Interpreter::Flow Interpreter::execute(const Body& body) {
  for (const auto& statement : body) {
    try {
      charge();
      if (const Flow flow = execute(*statement); flow != Flow::kNext) {
        return flow;
      }
    } catch (const LocatedError&) {
      throw;
    } catch (const Error& error) {
      throw LocatedError(fmt::format("{}:{}: {}", name_, statement->line, error.what()));
    }
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::execute(const Statement& statement) {
  using Kind = Statement::Kind;
  switch (statement.kind) {
    case Kind::kText:
      write(statement.text);
      break;
    case Kind::kOutput:
      write(evaluate(*statement.value).str());
      break;
    case Kind::kIf:
      return execute(evaluate(*statement.value).truth() ? statement.body : statement.otherwise);
    case Kind::kFor:
      return loop(statement);
    case Kind::kSet: {
      Value value = evaluate(*statement.value);
      if (statement.owner.empty()) {
        assign(statement.targets, value);
        break;
      }
      const Value owner = lookup(statement.owner);
      const auto* space = owner.get<Namespace>();
      check(space != nullptr, "{} is no namespace: only a namespace's attributes can be set", quote(statement.owner));
      space->attributes->set(statement.targets[0], std::move(value));
      break;
    }
    case Kind::kSetBlock:
    case Kind::kFilter: {
      // The filters begin at a variable without a name: the text.
      std::string text = captured(statement.body);
      scopes_.emplace_back()[""] = std::move(text);
      Value value = evaluate(*statement.value);
      scopes_.pop_back();
      if (statement.kind == Kind::kFilter) {
        write(value.str());
      } else {
        assign(statement.targets, value);
      }
      break;
    }
    case Kind::kMacro:
      assign({statement.text}, macro(statement));
      break;
    case Kind::kBreak:
      return Flow::kBreak;
    case Kind::kContinue:
      return Flow::kContinue;
    case Kind::kGroup: {
      const size_t begin = output_->size();
      const Flow flow = execute(statement.body);
      if (output_ == result_) {
        generated_.emplace_back(begin, output_->size());
      }
      return flow;
    }
  }
  return Flow::kNext;
}

std::string Interpreter::captured(const Body& body) {
  std::string out;
  std::string* const outer = std::exchange(output_, &out);
  scopes_.emplace_back();
  execute(body);
  scopes_.pop_back();
  output_ = outer;
  return out;
}

void Interpreter::assign(const std::vector<std::string>& targets, const Value& value) {
  Scope& scope = scopes_.empty() ? module_ : scopes_.back();
  if (targets.size() == 1) {
    scope[targets[0]] = value;
    return;
  }
  const std::vector<Value> parts = elements_of(value);
  check(parts.size() == targets.size(), "{} values cannot be given to {} names", parts.size(), targets.size());
  for (size_t i = 0; i < parts.size(); ++i) {
    scope[targets[i]] = parts[i];
  }
}

Interpreter::Flow Interpreter::loop(const Statement& statement) {
  std::vector<Value> items = elements_of(evaluate(*statement.value));
  charge(items.size());
  scopes_.emplace_back();
  if (statement.condition) {
    std::vector<Value> kept;
    for (Value& item : items) {
      assign(statement.targets, item);
      if (evaluate(*statement.condition).truth()) {
        kept.push_back(std::move(item));
      }
    }
    items = std::move(kept);
  }
  for (size_t i = 0; i < items.size(); ++i) {
    scopes_.back().clear();
    assign(statement.targets, items[i]);
    scopes_.back()["loop"] = loop_variable(items, i);
    if (execute(statement.body) == Flow::kBreak) {
      break;
    }
  }
  scopes_.pop_back();
  return items.empty() ? execute(statement.otherwise) : Flow::kNext;
}

Value Interpreter::loop_variable(const std::vector<Value>& items, size_t index) const {
  const auto at = static_cast<int64_t>(index);
  const auto size = static_cast<int64_t>(items.size());
  return Value::dict({{"index", at + 1},
                      {"index0", at},
                      {"revindex", size - at},
                      {"revindex0", size - at - 1},
                      {"first", at == 0},
                      {"last", at + 1 == size},
                      {"length", size},
                      {"depth", int64_t{1}},
                      {"depth0", int64_t{0}},
                      {"previtem", index > 0 ? items[index - 1] : Value(Undefined{"loop.previtem"})},
                      {"nextitem", index + 1 < items.size() ? items[index + 1] : Value(Undefined{"loop.nextitem"})},
                      {"cycle", Value::function([index](Interpreter&, const Arguments& arguments) {
                         check(!arguments.positional.empty(), "loop.cycle needs a value");
                         return arguments.positional[index % arguments.positional.size()];
                       })}});
}

Value Interpreter::macro(const Statement& statement) {
  return Value::function([&statement](Interpreter& interpreter, const Arguments& arguments) {
    return interpreter.call_macro(statement, arguments);
  });
}

Value Interpreter::call_macro(const Statement& statement, const Arguments& arguments) {
  const DepthGuard guard(depth_);
  const std::vector<std::string>& names = statement.targets;
  check(arguments.positional.size() <= names.size(), "macro {} takes {} arguments but got {}", quote(statement.text),
        names.size(), arguments.positional.size());
  Scope scope;
  for (const auto& [name, value] : arguments.named) {
    check(std::find(names.begin(), names.end(), name) != names.end(), "macro {} has no parameter {}",
          quote(statement.text), quote(name));
    scope[name] = value;
  }
  for (size_t i = 0; i < arguments.positional.size(); ++i) {
    scope[names[i]] = arguments.positional[i];
  }
  // A macro sees what the template sets, not what stands around its call.
  std::vector<Scope> outer = std::exchange(scopes_, {});
  scopes_.push_back(std::move(scope));
  const size_t first_default = names.size() - statement.defaults.size();
  for (size_t i = 0; i < names.size(); ++i) {
    if (!scopes_.back().contains(names[i])) {
      scopes_.back()[names[i]] =
          i < first_default ? Value(Undefined{names[i]}) : evaluate(*statement.defaults[i - first_default]);
    }
  }
  std::string text = captured(statement.body);
  scopes_ = std::move(outer);
  return text;
}

Value Interpreter::call(const Value& callee, const Arguments& arguments) {
  if (const auto* missing = callee.get<Undefined>()) {
    throw Error(fmt::format("{} is undefined and cannot be called", quote(missing->name)));
  }
  const Function* function = callee.function();
  check(function != nullptr, "a value of type {} cannot be called", callee.type_name());
  return function->call(*this, arguments);
}

Value Interpreter::lookup(const std::string& name) const {
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
    if (const auto found = scope->find(name); found != scope->end()) {
      return found->second;
    }
  }
  if (const auto found = module_.find(name); found != module_.end()) {
    return found->second;
  }
  const Value* global = globals_.find(name);
  return global != nullptr ? *global : Value(Undefined{name});
}

Value Interpreter::evaluate(const Expression& expression) {
  const DepthGuard guard(depth_);
  charge();
  return evaluate_parts(expression);
}

}  // namespace mamba::text::jinja
