#include "mamba/text/tokenizer_files.h"

#include "mamba/base/file.h"

namespace mamba::text {

namespace fs = std::filesystem;

const std::vector<std::string>& tokenizer_file_names() {
  static const std::vector<std::string> names = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                                                 "chat_template.jinja"};
  return names;
}

void copy_tokenizer_files(const fs::path& tokenizer, const fs::path& directory) {
  for (const std::string& name : tokenizer_file_names()) {
    const bool is_tokenizer = name == tokenizer_file_names().front();
    const fs::path from = is_tokenizer ? tokenizer : tokenizer.parent_path() / name;
    std::error_code ignored;
    if (fs::exists(from, ignored) && !fs::equivalent(from, directory / name, ignored)) {
      write_file(directory / name, read_file(from));
    }
  }
  if (!fs::exists(directory / "tokenizer_config.json")) {
    write_file(directory / "tokenizer_config.json", "{\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\"\n}\n");
  }
}

}  // namespace mamba::text
