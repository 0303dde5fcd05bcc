// The parser's way through the tokens.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mamba/text/jinja/lexer.h"

namespace mamba::text::jinja {

inline constexpr int kMaxNesting = 100;

// The tokens, one after the other.
class Cursor {
 public:
  Cursor(std::vector<Token> tokens, std::string name) : tokens_(std::move(tokens)), name_(std::move(name)) {}

  const std::string& name() const { return name_; }
  const Token& peek(size_t ahead = 0) const { return tokens_[std::min(at_ + ahead, tokens_.size() - 1)]; }
  Token next();
  bool at(std::string_view text) const { return is(TokenKind::kOperator, text); }
  bool at_word(std::string_view text) const { return is(TokenKind::kName, text); }
  bool accept(std::string_view text);
  bool accept_word(std::string_view text);
  void expect(std::string_view text);
  Token expect(TokenKind kind, std::string_view what);
  [[noreturn]] void fail(const std::string& message) const { fail_at(name_, peek().line, message); }

 private:
  friend class NestingGuard;
  bool is(TokenKind kind, std::string_view text) const { return peek().kind == kind && peek().text == text; }

  std::vector<Token> tokens_;
  std::string name_;
  size_t at_ = 0;
  int nesting_ = 0;
};

// Keeps the parser's recursion, and that of those who walk the tree, within the stack.
class NestingGuard {
 public:
  explicit NestingGuard(Cursor& cursor);
  ~NestingGuard() { --cursor_.nesting_; }
  NestingGuard(const NestingGuard&) = delete;
  NestingGuard& operator=(const NestingGuard&) = delete;

 private:
  Cursor& cursor_;
};

}  // namespace mamba::text::jinja
