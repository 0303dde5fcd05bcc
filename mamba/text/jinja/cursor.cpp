#include "mamba/text/jinja/cursor.h"

#include "mamba/base/error.h"

namespace mamba::text::jinja {

Token Cursor::next() {
  Token token = peek();
  at_ += at_ + 1 < tokens_.size() ? 1 : 0;
  return token;
}

bool Cursor::accept(std::string_view text) {
  const bool there = at(text);
  if (there) {
    next();
  }
  return there;
}

bool Cursor::accept_word(std::string_view text) {
  const bool there = at_word(text);
  if (there) {
    next();
  }
  return there;
}

void Cursor::expect(std::string_view text) {
  if (!accept(text)) {
    fail(fmt::format("{} is missing", quote(text)));
  }
}

Token Cursor::expect(TokenKind kind, std::string_view what) {
  if (peek().kind != kind) {
    fail(peek().text.empty() ? fmt::format("{} is missing", what)
                             : fmt::format("{} is missing before {}", what, quote(peek().text)));
  }
  return next();
}

NestingGuard::NestingGuard(Cursor& cursor) : cursor_(cursor) {
  if (++cursor_.nesting_ > kMaxNesting) {
    cursor_.fail(fmt::format("blocks and brackets are nested deeper than {}", kMaxNesting));
  }
}

}  // namespace mamba::text::jinja
