#include "mamba/text/jinja/expression_parser.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "mamba/base/error.h"

namespace mamba::text::jinja {
namespace {

constexpr int kMaxChain = 100;

}  // namespace

ExpressionPtr ExpressionParser::make(Kind kind) const {
  auto out = std::make_unique<Expression>();
  out->kind = kind;
  out->line = cursor_.peek().line;
  return out;
}

ExpressionPtr ExpressionParser::name(std::string name, int line) const {
  ExpressionPtr out = make(Kind::kName);
  out->name = std::move(name);
  out->line = line;
  return out;
}

ExpressionPtr ExpressionParser::binary(std::string op, ExpressionPtr left, ExpressionPtr right) const {
  ExpressionPtr out = make(Kind::kBinary);
  out->name = std::move(op);
  out->line = left->line;
  // A chain leans to the left: its length is the tree's depth.
  out->depth = std::max(left->depth, right->depth) + 1;
  if (out->depth > kMaxChain) {
    cursor_.fail(fmt::format("an expression has more than {} operators in a row", kMaxChain));
  }
  out->parts.push_back(std::move(left));
  out->parts.push_back(std::move(right));
  return out;
}

ExpressionPtr ExpressionParser::tuple(bool with_conditional) {
  ExpressionPtr first = expression(with_conditional);
  if (!cursor_.at(",")) {
    return first;
  }
  ExpressionPtr out = make(Kind::kTuple);
  out->parts.push_back(std::move(first));
  while (cursor_.accept(",")) {
    const TokenKind kind = cursor_.peek().kind;
    if (kind == TokenKind::kBlockEnd || kind == TokenKind::kOutputEnd || cursor_.at(")")) {
      break;
    }
    out->parts.push_back(expression(with_conditional));
  }
  return out;
}

ExpressionPtr ExpressionParser::expression(bool with_conditional) {
  const NestingGuard guard(cursor_);
  ExpressionPtr value = logical_or();
  int chained = 0;
  while (with_conditional && cursor_.accept_word("if")) {
    if (++chained > kMaxNesting) {
      cursor_.fail("a conditional expression is too long");
    }
    ExpressionPtr out = make(Kind::kConditional);
    out->parts.push_back(logical_or());
    out->parts.push_back(std::move(value));
    out->parts.push_back(cursor_.accept_word("else") ? expression() : nullptr);
    value = std::move(out);
  }
  return value;
}

ExpressionPtr ExpressionParser::logical_or() {
  ExpressionPtr left = logical_and();
  while (cursor_.accept_word("or")) {
    left = binary("or", std::move(left), logical_and());
  }
  return left;
}

ExpressionPtr ExpressionParser::logical_and() {
  ExpressionPtr left = logical_not();
  while (cursor_.accept_word("and")) {
    left = binary("and", std::move(left), logical_not());
  }
  return left;
}

ExpressionPtr ExpressionParser::logical_not() {
  if (!cursor_.at_word("not")) {
    return comparison();
  }
  const NestingGuard guard(cursor_);
  ExpressionPtr out = make(Kind::kUnary);
  cursor_.next();
  out->name = "not";
  out->parts.push_back(logical_not());
  return out;
}

ExpressionPtr ExpressionParser::comparison() {
  ExpressionPtr first = sum();
  ExpressionPtr out;
  for (;;) {
    std::string op;
    for (const char* candidate : {"==", "!=", "<=", ">=", "<", ">"}) {
      if (op.empty() && cursor_.accept(candidate)) {
        op = candidate;
      }
    }
    if (op.empty() && cursor_.accept_word("in")) {
      op = "in";
    } else if (op.empty() && cursor_.at_word("not") && cursor_.peek(1).kind == TokenKind::kName &&
               cursor_.peek(1).text == "in") {
      cursor_.next();
      cursor_.next();
      op = "not in";
    }
    if (op.empty()) {
      return out ? std::move(out) : std::move(first);
    }
    if (!out) {
      out = make(Kind::kCompare);
      out->parts.push_back(std::move(first));
    }
    out->operators.push_back(op);
    out->parts.push_back(sum());
  }
}

ExpressionPtr ExpressionParser::sum() {
  ExpressionPtr left = concatenation();
  while (cursor_.at("+") || cursor_.at("-")) {
    std::string op = cursor_.next().text;
    left = binary(std::move(op), std::move(left), concatenation());
  }
  return left;
}

ExpressionPtr ExpressionParser::concatenation() {
  ExpressionPtr left = product();
  while (cursor_.accept("~")) {
    left = binary("~", std::move(left), product());
  }
  return left;
}

ExpressionPtr ExpressionParser::product() {
  ExpressionPtr left = power();
  while (cursor_.at("*") || cursor_.at("/") || cursor_.at("//") || cursor_.at("%")) {
    std::string op = cursor_.next().text;
    left = binary(std::move(op), std::move(left), power());
  }
  return left;
}

ExpressionPtr ExpressionParser::power() {
  ExpressionPtr left = unary(true);
  while (cursor_.accept("**")) {
    left = binary("**", std::move(left), unary(true));
  }
  return left;
}

ExpressionPtr ExpressionParser::unary(bool with_filters) {
  const NestingGuard guard(cursor_);
  ExpressionPtr out;
  if (cursor_.at("-") || cursor_.at("+")) {
    out = make(Kind::kUnary);
    out->name = cursor_.next().text;
    out->parts.push_back(unary(false));
  } else {
    out = primary();
  }
  out = postfix(std::move(out));
  return with_filters ? filters_and_tests(std::move(out)) : std::move(out);
}

ExpressionPtr ExpressionParser::primary() {
  ExpressionPtr out = make(Kind::kLiteral);
  const Token& token = cursor_.peek();
  switch (token.kind) {
    case TokenKind::kString: {
      std::string text = cursor_.next().text;
      while (cursor_.peek().kind == TokenKind::kString) {
        text += cursor_.next().text;
      }
      out->literal = std::move(text);
      return out;
    }
    case TokenKind::kInteger: {
      int64_t value = 0;
      const auto [end, error] = std::from_chars(token.text.data(), token.text.data() + token.text.size(), value);
      if (error != std::errc() || end != token.text.data() + token.text.size()) {
        cursor_.fail(fmt::format("the number {} is too large", quote(token.text)));
      }
      cursor_.next();
      out->literal = value;
      return out;
    }
    case TokenKind::kFloat:
      out->literal = std::strtod(cursor_.next().text.c_str(), nullptr);
      return out;
    case TokenKind::kName: {
      const std::string word = cursor_.next().text;
      if (word == "true" || word == "True" || word == "false" || word == "False") {
        out->literal = word == "true" || word == "True";
      } else if (word == "none" || word == "None") {
        out->literal = nullptr;
      } else {
        for (const char* reserved : {"and", "or", "not", "in", "is", "if", "else", "elif"}) {
          if (word == reserved) {
            cursor_.fail(fmt::format("an expression is missing before {}", quote(word)));
          }
        }
        out->kind = Kind::kName;
        out->name = word;
      }
      return out;
    }
    case TokenKind::kOperator:
      return bracketed();
    default:
      cursor_.fail("an expression is missing");
  }
}

ExpressionPtr ExpressionParser::bracketed() {
  const NestingGuard guard(cursor_);
  if (cursor_.accept("(")) {
    ExpressionPtr out = make(Kind::kTuple);
    if (cursor_.accept(")")) {
      return out;
    }
    out = tuple();
    cursor_.expect(")");
    return out;
  }
  if (cursor_.accept("[")) {
    ExpressionPtr out = make(Kind::kList);
    while (!cursor_.accept("]")) {
      out->parts.push_back(expression());
      if (!cursor_.at("]")) {
        cursor_.expect(",");
      }
    }
    return out;
  }
  if (cursor_.accept("{")) {
    ExpressionPtr out = make(Kind::kDict);
    while (!cursor_.accept("}")) {
      out->parts.push_back(expression());
      cursor_.expect(":");
      out->parts.push_back(expression());
      if (!cursor_.at("}")) {
        cursor_.expect(",");
      }
    }
    return out;
  }
  cursor_.fail(fmt::format("an expression is missing before {}", quote(cursor_.peek().text)));
}

// Calls, attributes and filters in a row lean to the left: their number is the tree's depth.
ExpressionPtr ExpressionParser::postfix(ExpressionPtr subject) {
  for (int i = 0;; ++i) {
    if (i > kMaxNesting) {
      cursor_.fail("too many attributes or calls in a row");
    }
    if (cursor_.accept(".")) {
      ExpressionPtr out = make(Kind::kAttribute);
      if (cursor_.peek().kind == TokenKind::kInteger) {
        out->kind = Kind::kSubscript;
        out->parts.push_back(std::move(subject));
        out->parts.push_back(primary());
      } else {
        out->name = cursor_.expect(TokenKind::kName, "the name of an attribute").text;
        out->parts.push_back(std::move(subject));
      }
      subject = std::move(out);
    } else if (cursor_.accept("[")) {
      subject = subscript(std::move(subject));
    } else if (cursor_.at("(")) {
      subject = call(std::move(subject));
    } else {
      return subject;
    }
  }
}

ExpressionPtr ExpressionParser::subscript(ExpressionPtr subject) {
  ExpressionPtr out = make(Kind::kSubscript);
  out->parts.push_back(std::move(subject));
  const auto part = [&] { return cursor_.at(":") || cursor_.at("]") ? nullptr : tuple(); };
  out->parts.push_back(part());
  while (cursor_.accept(":")) {
    out->kind = Kind::kSlice;
    out->parts.push_back(part());
  }
  cursor_.expect("]");
  if (out->kind == Kind::kSubscript && !out->parts[1]) {
    cursor_.fail("an index is missing");
  }
  if (out->parts.size() > 4) {
    cursor_.fail("a slice has at most three parts");
  }
  out->parts.resize(out->kind == Kind::kSlice ? 4 : 2);
  return out;
}

ExpressionPtr ExpressionParser::call(ExpressionPtr subject) {
  ExpressionPtr out = make(Kind::kCall);
  out->parts.push_back(std::move(subject));
  arguments(*out);
  return out;
}

void ExpressionParser::arguments(Expression& out) {
  const NestingGuard guard(cursor_);
  cursor_.expect("(");
  while (!cursor_.accept(")")) {
    if (cursor_.at("*") || cursor_.at("**")) {
      cursor_.fail("arguments with \"*\" are not supported");
    }
    const Token& following = cursor_.peek(1);
    if (cursor_.peek().kind == TokenKind::kName && following.kind == TokenKind::kOperator && following.text == "=") {
      std::string key = cursor_.next().text;
      cursor_.next();
      out.named.emplace_back(std::move(key), expression());
    } else {
      if (!out.named.empty()) {
        cursor_.fail("an argument without a name follows one that has it");
      }
      out.parts.push_back(expression());
    }
    if (!cursor_.at(")")) {
      cursor_.expect(",");
    }
  }
}

ExpressionPtr ExpressionParser::filters(ExpressionPtr subject, bool bare) {
  for (int i = 0; bare || cursor_.accept("|"); ++i) {
    bare = false;
    if (i > kMaxNesting) {
      cursor_.fail("too many filters in a row");
    }
    ExpressionPtr out = make(Kind::kFilter);
    out->name = cursor_.expect(TokenKind::kName, "the name of a filter").text;
    out->parts.push_back(std::move(subject));
    if (cursor_.at("(")) {
      arguments(*out);
    }
    subject = std::move(out);
  }
  return subject;
}

ExpressionPtr ExpressionParser::filters_and_tests(ExpressionPtr subject) {
  for (int i = 0;; ++i) {
    if (i > kMaxNesting) {
      cursor_.fail("too many filters or tests in a row");
    }
    if (cursor_.at("|")) {
      subject = filters(std::move(subject), false);
    } else if (cursor_.accept_word("is")) {
      subject = test(std::move(subject));
    } else if (cursor_.at("(")) {
      subject = call(std::move(subject));
    } else {
      return subject;
    }
  }
}

ExpressionPtr ExpressionParser::test(ExpressionPtr subject) {
  const bool negated = cursor_.accept_word("not");
  ExpressionPtr out = make(Kind::kTest);
  out->name = cursor_.expect(TokenKind::kName, "the name of a test").text;
  out->parts.push_back(std::move(subject));
  const Token& token = cursor_.peek();
  const bool word = token.kind == TokenKind::kName;
  const bool ends =
      word && (token.text == "else" || token.text == "or" || token.text == "and" || token.text == "is" ||
               token.text == "if" || token.text == "in" || token.text == "not" || token.text == "recursive");
  if (cursor_.at("(")) {
    arguments(*out);
  } else if ((word && !ends) || token.kind == TokenKind::kString || token.kind == TokenKind::kInteger ||
             token.kind == TokenKind::kFloat || cursor_.at("[") || cursor_.at("{")) {
    out->parts.push_back(postfix(primary()));
  }
  if (!negated) {
    return out;
  }
  ExpressionPtr outer = make(Kind::kUnary);
  outer->name = "not";
  outer->parts.push_back(std::move(out));
  return outer;
}

}  // namespace mamba::text::jinja
