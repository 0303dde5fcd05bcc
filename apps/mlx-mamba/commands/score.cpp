#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "apps/mlx-mamba/command.h"
#include "apps/mlx-mamba/console.h"
#include "apps/mlx-mamba/json_output.h"
#include "apps/mlx-mamba/logits_file.h"
#include "apps/mlx-mamba/model_options.h"
#include "apps/mlx-mamba/prompts.h"
#include "apps/mlx-mamba/quantize_options.h"
#include "mamba/base/error.h"
#include "mamba/generate/score.h"

namespace mamba::cli {
namespace {

struct ScoreArguments {
  ModelOptions model;
  QuantizeOptions quantize;
  std::optional<std::string> text;
  std::optional<std::string> text_file;
  std::optional<std::string> tokens;
  std::optional<std::string> logits;
  bool json = false;
};

Prompt read_input(const ScoreArguments& o) {
  if ((o.text ? 1 : 0) + (o.text_file ? 1 : 0) + (o.tokens ? 1 : 0) != 1) {
    throw UsageError("give one of --text, --text-file and --tokens (see mlx-mamba score --help)");
  }
  if (o.tokens) {
    return {"--tokens", "", parse_ids(*o.tokens, "--tokens")};
  }
  if (o.text) {
    return {"--text", *o.text, {}};
  }
  return {*o.text_file == "-" ? "standard input" : *o.text_file, read_text(*o.text_file), {}};
}

void print_table(const std::vector<int32_t>& ids, const generate::Score& score, const text::Tokenizer* tokenizer) {
  constexpr size_t kBlock = size_t{1} << 16;
  std::string out;
  for (size_t i = 0; i < ids.size(); ++i) {
    out += fmt::format("{:>8}  {:>10}", ids[i], i == 0 ? "-" : fmt::format("{:.4f}", score.logprobs[i - 1]));
    if (tokenizer != nullptr) {
      const std::string text = tokenizer->decode(std::span(&ids[i], 1));
      std::string shown = json_line(text);  // quoted, and control characters escaped
      shown.pop_back();
      out += "  " + shown;
    }
    out += '\n';
    if (out.size() >= kBlock) {
      put(out);
      out.clear();
    }
  }
  put(out + fmt::format("tokens: {}\nmean loss: {:.6f}\nperplexity: {:.4f}\n", ids.size(), score.mean_loss,
                        score.perplexity));
}

void print_json(const std::vector<int32_t>& ids, const generate::Score& score) {
  OrderedJson logprobs = OrderedJson::array({nullptr});  // nothing stands before the first token
  for (const double logprob : score.logprobs) {
    logprobs.push_back(logprob);
  }
  put(json_line({{"tokens", ids},
                 {"logprobs", std::move(logprobs)},
                 {"mean_loss", score.mean_loss},
                 {"perplexity", score.perplexity}}));
}

int run_score(const ScoreArguments& o) {
  o.quantize.check();
  const Prompt input = read_input(o);
  if (o.logits) {
    const AtomicFile probe(*o.logits);
  }
  generate::LoadedModel loaded = o.model.load(
      o.tokens ? ModelOptions::TokenizerIs::kWanted : ModelOptions::TokenizerIs::kNeeded, o.quantize.weights());
  o.quantize.apply(loaded.model);
  const std::vector<int32_t> ids = encode(input, loaded.tokenizer.get());
  std::optional<LogitsFile> file;
  if (o.logits) {
    file.emplace(*o.logits, static_cast<int64_t>(ids.size()), loaded.model.config().vocab_size);
  }
  const generate::Score score = generate::score(loaded.model, ids, [&](int64_t, int64_t, std::span<const float> rows) {
    check_interrupted();
    if (file) {
      file->write(rows);
    }
  });
  if (file) {
    file->commit();
  }
  if (o.json) {
    print_json(ids, score);
  } else {
    print_table(ids, score, loaded.tokenizer.get());
  }
  return 0;
}

std::function<int()> declare_score(OptionTable& table) {
  const auto o = std::make_shared<ScoreArguments>();
  table.group("Text");
  table.text("--text", "TEXT", &o->text, "the text to score");
  table.text("--text-file", "FILE", &o->text_file, "the same from a file, byte for byte; - is standard input",
             Offer::kFiles);
  table.text("--tokens", "IDS", &o->tokens, "the same as token ids, 1,2,3; works without a tokenizer");
  table.group("Model");
  o->model.declare_source(table);
  o->model.declare_adapter(table);
  o->model.declare_dtype(table);
  o->quantize.declare(table);
  o->model.declare_machine(table);
  table.group("Output");
  table.flag("--json", &o->json, "one line: tokens, logprobs (the first is null), mean_loss, perplexity");
  table.text("--logits", "FILE", &o->logits,
             "write the logits too: safetensors, float32 \"logits\" (tokens, vocabulary)", Offer::kFiles);
  return [o] { return run_score(*o); };
}

}  // namespace

const Command kScore = {
    "score", "Tells how probable a model finds a text.",
    "Prints each token's id, its natural-log probability given those before it, and its text; then the number of "
    "tokens, the mean loss in nats per token, and the perplexity.",
    "  mlx-mamba score --text \"To be, or not to be\"\n"
    "  mlx-mamba score --model state-spaces/mamba-130m --text-file book.txt --json\n"
    "  mlx-mamba score --adapter run/adapter --text-file chapter.txt\n"
    "  mlx-mamba score --tokens 1,2,3 --logits logits.safetensors\n",
    declare_score};

}  // namespace mamba::cli
