#include "mamba/train/data/train_tokenizer.h"

#include "mamba/base/error.h"
#include "mamba/base/file.h"
#include "mamba/text/bpe_trainer.h"
#include "mamba/text/gpt2_words.h"
#include "mamba/text/tokenizer.h"
#include "mamba/train/data/json_lines.h"
#include "mamba/train/data/source_reader.h"

namespace mamba::train {

namespace fs = std::filesystem;

int64_t train_tokenizer(const std::vector<fs::path>& paths, int64_t vocab_size, const fs::path& directory,
                        const ProgressFn& progress) {
  text::BpeTrainer trainer({.vocab_size = vocab_size});
  const std::vector<Source> sources = find_sources(paths);
  for (const Source& source : sources) {
    if (source.kind != SourceKind::kText && source.kind != SourceKind::kJsonLines) {
      throw UsageError(fmt::format("{}: holds tokens already; a tokenizer is trained on text", source.path.string()));
    }
  }
  SourceReader reader(sources, text::gpt2_cut);
  std::vector<std::string> texts;
  for (std::vector<SourceItem> group = reader.next(); !group.empty(); group = reader.next()) {
    texts.clear();
    for (SourceItem& item : group) {
      if (!item.is_line()) {
        texts.push_back(std::move(item.text));
        continue;
      }
      auto record = parse_record(item.text, item.place());
      if (!record) {
        continue;
      }
      for (std::string* part : {&record->text, &record->prompt, &record->completion}) {
        if (!part->empty()) {
          texts.push_back(std::move(*part));
        }
      }
      for (const auto& message : record->messages) {
        texts.push_back(message.at("content").get<std::string>());
      }
    }
    trainer.count(texts);
    reader.report("counting words", progress);
  }
  const std::string tokenizer = trainer.train(progress);
  make_directories(directory);
  write_file(directory / "tokenizer_config.json", trainer.config());
  write_file(directory / "tokenizer.json", tokenizer);
  return text::Tokenizer::from_json_text(tokenizer, (directory / "tokenizer.json").string()).vocab_size();
}

}  // namespace mamba::train
