#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "apps/mlx-mamba/command.h"
#include "apps/mlx-mamba/console.h"
#include "apps/mlx-mamba/json_output.h"
#include "apps/mlx-mamba/model_options.h"
#include "apps/mlx-mamba/prompts.h"
#include "mamba/base/error.h"
#include "mamba/text/tokenizer.h"

namespace mamba::cli {
namespace {

struct TokenizeArguments {
  ModelOptions model;
  std::optional<std::string> tokenizer;
  std::optional<std::string> text;
  std::optional<std::string> text_file;
  std::optional<std::string> decode;
  bool json = false;
  bool no_special = false;
};

text::Tokenizer load_tokenizer(const TokenizeArguments& o) {
  if (o.tokenizer) {
    return text::Tokenizer::from_file(*o.tokenizer);
  }
  const std::filesystem::path file = generate::resolve_tokenizer(o.model.name(), o.model.load_options());
  if (file.empty()) {
    throw UsageError(fmt::format("{}: the model has no tokenizer.json; name one with --tokenizer", o.model.name()));
  }
  return text::Tokenizer::from_file(file);
}

int run_tokenize(const TokenizeArguments& o) {
  if (o.model.model && o.tokenizer) {
    throw UsageError("give one of --model and --tokenizer");
  }
  if ((o.text ? 1 : 0) + (o.text_file ? 1 : 0) + (o.decode ? 1 : 0) != 1) {
    throw UsageError("give one of --text, --text-file and --decode (see mlx-mamba tokenize --help)");
  }
  if (o.decode) {
    const std::vector<int32_t> ids = parse_ids(*o.decode, "--decode");
    const text::Tokenizer tokenizer = load_tokenizer(o);
    tokenizer.check_ids(ids);
    const std::string text = tokenizer.decode(ids, o.no_special);
    put(o.json ? json_line(text) : text);
    return 0;
  }
  const std::string text = o.text ? *o.text : read_text(*o.text_file);
  const std::vector<int32_t> ids = load_tokenizer(o).encode(text, !o.no_special);
  put(o.json ? json_line(ids) : join_ids(ids) + "\n");
  return 0;
}

std::function<int()> declare_tokenize(OptionTable& table) {
  const auto o = std::make_shared<TokenizeArguments>();
  table.group("Input");
  table.text("--text", "TEXT", &o->text, "the text to split into tokens");
  table.text("--text-file", "FILE", &o->text_file, "the same from a file, byte for byte; - is standard input",
             Offer::kFiles);
  table.text("--decode", "IDS", &o->decode, "token ids, 1,2,3, to turn back into text");
  table.group("Tokenizer");
  table.text("--tokenizer", "FILE", &o->tokenizer, "a tokenizer.json", Offer::kFiles);
  o->model.declare_source(table);
  table.group("Output");
  table.flag("--json", &o->json, "ids as a list, or the decoded text as a string");
  table.flag("--no-special", &o->no_special,
             "leave out what the tokenizer adds around a text; with --decode, leave out special tokens");
  return [o] { return run_tokenize(*o); };
}

}  // namespace

const Command kTokenize = {
    "tokenize", "Turns text into token ids and back.",
    "Ids are printed separated by commas. --decode prints the text's exact bytes and no newline.",
    "  mlx-mamba tokenize --text \"To be, or not to be\"\n"
    "  mlx-mamba tokenize --tokenizer tokenizer.json --text-file book.txt --json\n"
    "  mlx-mamba tokenize --decode 1,2,3\n",
    declare_tokenize};

}  // namespace mamba::cli
