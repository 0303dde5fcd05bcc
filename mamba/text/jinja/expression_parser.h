// Expressions; for the parser.
#pragma once

#include <string>

#include "mamba/text/jinja/ast.h"
#include "mamba/text/jinja/cursor.h"

namespace mamba::text::jinja {

class ExpressionParser {
 public:
  explicit ExpressionParser(Cursor& cursor) : cursor_(cursor) {}

  ExpressionPtr expression(bool with_conditional = true);
  // Expressions with commas between them are a tuple, also without brackets.
  ExpressionPtr tuple(bool with_conditional = true);
  // The filters that follow, applied to `subject`; `first` without its "|" where `bare`.
  ExpressionPtr filters(ExpressionPtr subject, bool bare);
  ExpressionPtr name(std::string name, int line) const;

 private:
  using Kind = Expression::Kind;
  ExpressionPtr make(Kind kind) const;
  ExpressionPtr binary(std::string op, ExpressionPtr left, ExpressionPtr right) const;
  ExpressionPtr logical_or();
  ExpressionPtr logical_and();
  ExpressionPtr logical_not();
  ExpressionPtr comparison();
  ExpressionPtr sum();
  ExpressionPtr concatenation();
  ExpressionPtr product();
  ExpressionPtr power();
  ExpressionPtr unary(bool with_filters);
  ExpressionPtr primary();
  ExpressionPtr bracketed();
  ExpressionPtr postfix(ExpressionPtr subject);
  ExpressionPtr subscript(ExpressionPtr subject);
  ExpressionPtr filters_and_tests(ExpressionPtr subject);
  ExpressionPtr test(ExpressionPtr subject);
  ExpressionPtr call(ExpressionPtr subject);
  void arguments(Expression& out);

  Cursor& cursor_;
};

}  // namespace mamba::text::jinja
