#include "mamba/text/tokenizer_config.h"

#include "mamba/base/file.h"
#include "mamba/base/json.h"

namespace mamba::text {

namespace fs = std::filesystem;

namespace {

constexpr uint64_t kMaxFile = 64 << 20;

// A token is written as a string or as an object with its "content".
std::string token_in(const JsonObject& object, const std::string& key) {
  const Json* value = object.find(key);
  if (value == nullptr) {
    return "";
  }
  return value->is_object() ? object.object(key).string("content") : object.string(key);
}

std::string template_in(const JsonObject& object) {
  const Json* value = object.find("chat_template");
  if (value == nullptr || !value->is_array()) {
    return object.string_or("chat_template", "");
  }
  for (size_t i = 0; i < value->size(); ++i) {
    const JsonObject item((*value)[i], object.file(), fmt::format("chat_template[{}]", i));
    if (item.string("name") == "default") {
      return item.string("template");
    }
  }
  return "";
}

}  // namespace

TokenizerConfig TokenizerConfig::beside(const fs::path& tokenizer) {
  TokenizerConfig config;
  const fs::path folder = tokenizer.parent_path();
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    const fs::path path = folder / name;
    if (!fs::exists(path)) {
      continue;
    }
    const Json json = read_json(path);
    const JsonObject object(json, path.string());
    if (config.bos_token.empty()) {
      config.bos_token = token_in(object, "bos_token");
    }
    if (config.eos_token.empty()) {
      config.eos_token = token_in(object, "eos_token");
    }
    if (config.chat_template.empty()) {
      config.chat_template = template_in(object);
    }
  }
  if (const fs::path path = folder / "chat_template.jinja"; fs::exists(path)) {
    config.chat_template = read_file(path, kMaxFile);
  }
  return config;
}

std::optional<int32_t> end_of_text(const Tokenizer& tokenizer, const TokenizerConfig& config) {
  if (!config.eos_token.empty()) {
    const std::optional<int32_t> id = tokenizer.token_to_id(config.eos_token);
    check(id.has_value(), "the eos_token {} of the tokenizer's configuration is not in its vocabulary",
          quote(config.eos_token));
    return id;
  }
  for (const char* token : {"<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>"}) {
    if (const std::optional<int32_t> id = tokenizer.token_to_id(token)) {
      return id;
    }
  }
  return std::nullopt;
}

}  // namespace mamba::text
