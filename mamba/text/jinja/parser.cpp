#include "mamba/text/jinja/parser.h"

#include <initializer_list>

#include "mamba/base/error.h"
#include "mamba/text/jinja/expression_parser.h"

namespace mamba::text::jinja {
namespace {

using Kind = Statement::Kind;

class Parser {
 public:
  Parser(std::string_view source, const std::string& name)
      : cursor_(tokenize(source, name), name), expressions_(cursor_) {}

  Body run() {
    std::string ended_by;
    return body({}, ended_by);
  }

 private:
  static std::unique_ptr<Statement> make(Kind kind, int line) {
    auto statement = std::make_unique<Statement>();
    statement->kind = kind;
    statement->line = line;
    return statement;
  }

  // Statements up to a block that says one of `ends`, which is left behind its name.
  Body body(std::initializer_list<std::string_view> ends, std::string& ended_by) {
    const NestingGuard guard(cursor_);
    const int begun = cursor_.peek().line;
    Body out;
    for (;;) {
      const Token token = cursor_.next();
      switch (token.kind) {
        case TokenKind::kEnd:
          if (ends.size() > 0) {
            fail_at(cursor_.name(), begun, fmt::format("a block has no end: {} is missing", quote(*ends.begin())));
          }
          return out;
        case TokenKind::kText:
          out.push_back(make(Kind::kText, token.line));
          out.back()->text = token.text;
          break;
        case TokenKind::kOutputBegin:
          out.push_back(make(Kind::kOutput, token.line));
          out.back()->value = expressions_.tuple();
          cursor_.expect(TokenKind::kOutputEnd, "\"}}\"");
          break;
        default: {
          const Token word = cursor_.expect(TokenKind::kName, "the name of a block");
          for (const std::string_view end : ends) {
            if (word.text == end) {
              ended_by = word.text;
              return out;
            }
          }
          out.push_back(block(word));
        }
      }
    }
  }

  void end_tag() { cursor_.expect(TokenKind::kBlockEnd, "\"%}\""); }

  std::unique_ptr<Statement> block(const Token& word) {
    if (word.text == "if") {
      return conditional(word.line);
    }
    if (word.text == "for") {
      return loop(word.line);
    }
    if (word.text == "set") {
      return assignment(word.line);
    }
    if (word.text == "macro") {
      return macro(word.line);
    }
    std::string ended_by;
    if (word.text == "filter") {
      auto out = make(Kind::kFilter, word.line);
      out->value = expressions_.filters(expressions_.name("", word.line), true);
      end_tag();
      out->body = body({"endfilter"}, ended_by);
      end_tag();
      return out;
    }
    if (word.text == "generation") {
      auto out = make(Kind::kGroup, word.line);
      end_tag();
      out->body = body({"endgeneration"}, ended_by);
      end_tag();
      return out;
    }
    if (word.text == "break" || word.text == "continue") {
      if (loops_ == 0) {
        fail_at(cursor_.name(), word.line, fmt::format("{} stands outside of a loop", word.text));
      }
      end_tag();
      return make(word.text == "break" ? Kind::kBreak : Kind::kContinue, word.line);
    }
    fail_at(cursor_.name(), word.line, fmt::format("the block {} is not supported here", quote(word.text)));
  }

  std::unique_ptr<Statement> conditional(int line) {
    const NestingGuard guard(cursor_);  // elif by elif
    auto out = make(Kind::kIf, line);
    out->value = expressions_.tuple();
    end_tag();
    std::string ended_by;
    out->body = body({"endif", "elif", "else"}, ended_by);
    if (ended_by == "elif") {
      out->otherwise.push_back(conditional(cursor_.peek().line));
      return out;
    }
    end_tag();
    if (ended_by == "else") {
      out->otherwise = body({"endif"}, ended_by);
      end_tag();
    }
    return out;
  }

  std::vector<std::string> targets() {
    std::vector<std::string> out;
    const bool bracket = cursor_.accept("(");
    do {
      if (bracket && cursor_.at(")")) {
        break;
      }
      out.push_back(cursor_.expect(TokenKind::kName, "the name of a variable").text);
    } while (cursor_.accept(","));
    if (bracket) {
      cursor_.expect(")");
    }
    return out;
  }

  std::unique_ptr<Statement> loop(int line) {
    auto out = make(Kind::kFor, line);
    out->targets = targets();
    if (!cursor_.accept_word("in")) {
      fail_at(cursor_.name(), line, "a loop needs \"in\"");
    }
    out->value = expressions_.tuple(false);  // "if" belongs to the loop
    if (cursor_.accept_word("if")) {
      out->condition = expressions_.expression();
    }
    if (cursor_.at_word("recursive")) {
      fail_at(cursor_.name(), line, "recursive loops are not supported");
    }
    end_tag();
    std::string ended_by;
    ++loops_;
    out->body = body({"endfor", "else"}, ended_by);
    --loops_;
    end_tag();
    if (ended_by == "else") {
      out->otherwise = body({"endfor"}, ended_by);
      end_tag();
    }
    return out;
  }

  std::unique_ptr<Statement> assignment(int line) {
    auto out = make(Kind::kSet, line);
    out->targets = targets();
    if (out->targets.size() == 1 && cursor_.accept(".")) {
      out->owner = out->targets[0];
      out->targets[0] = cursor_.expect(TokenKind::kName, "the name of an attribute").text;
    }
    if (cursor_.accept("=")) {
      out->value = expressions_.tuple();
      end_tag();
      return out;
    }
    if (out->targets.size() != 1) {
      fail_at(cursor_.name(), line, "\"=\" is missing");
    }
    out->kind = Kind::kSetBlock;
    out->value = expressions_.filters(expressions_.name("", line), false);
    end_tag();
    std::string ended_by;
    out->body = body({"endset"}, ended_by);
    end_tag();
    return out;
  }

  std::unique_ptr<Statement> macro(int line) {
    auto out = make(Kind::kMacro, line);
    out->text = cursor_.expect(TokenKind::kName, "the name of a macro").text;
    cursor_.expect("(");
    while (!cursor_.accept(")")) {
      out->targets.push_back(cursor_.expect(TokenKind::kName, "the name of a parameter").text);
      if (cursor_.accept("=")) {
        out->defaults.push_back(expressions_.expression());
      } else if (!out->defaults.empty()) {
        fail_at(cursor_.name(), line, "a parameter without a default follows one that has it");
      }
      if (!cursor_.at(")")) {
        cursor_.expect(",");
      }
    }
    end_tag();
    std::string ended_by;
    const int loops = std::exchange(loops_, 0);
    out->body = body({"endmacro"}, ended_by);
    loops_ = loops;
    end_tag();
    return out;
  }

  Cursor cursor_;
  ExpressionParser expressions_;
  int loops_ = 0;
};

}  // namespace

Body parse(std::string_view source, const std::string& name) {
  return Parser(source, name).run();
}

}  // namespace mamba::text::jinja
