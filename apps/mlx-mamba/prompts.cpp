#include "apps/mlx-mamba/prompts.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>

#include "apps/mlx-mamba/console.h"
#include "mamba/base/file.h"
#include "mamba/base/json.h"

namespace mamba::cli {
namespace {

constexpr size_t kMaxInput = size_t{1} << 30;  // 1 GB of text is some 250 million tokens

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && std::strchr(" \t\r\n", text.front()) != nullptr && text.front() != '\0') {
    text.remove_prefix(1);
  }
  while (!text.empty() && std::strchr(" \t\r\n", text.back()) != nullptr && text.back() != '\0') {
    text.remove_suffix(1);
  }
  return text;
}

std::string read_standard_input() {
  std::string out;
  std::string block(size_t{1} << 16, '\0');
  for (;;) {
    pollfd waiting = {STDIN_FILENO, POLLIN, 0};
    ::poll(&waiting, 1, -1);  // a signal ends it, while read() would go on waiting
    check_interrupted();
    const ssize_t n = ::read(STDIN_FILENO, block.data(), block.size());
    if (n < 0 && errno == EINTR) {
      continue;
    }
    check(n >= 0, "standard input: cannot be read: {}", std::strerror(errno));
    if (n == 0) {
      return out;
    }
    out.append(block, 0, static_cast<size_t>(n));
    check(out.size() <= kMaxInput, "standard input: holds more than {} bytes", kMaxInput);
  }
}

std::vector<int32_t> ids_of(const Json& list, const std::string& where) {
  std::vector<int32_t> ids;
  if (!list.is_array()) {
    throw UsageError(fmt::format("{}: \"tokens\" must be a list of ids", where));
  }
  for (const Json& item : list) {
    if (!item.is_number_integer() || item.get<double>() < 0 || item.get<double>() > INT32_MAX) {
      throw UsageError(fmt::format("{}: \"tokens\" must hold ids from 0 to {}", where, INT32_MAX));
    }
    ids.push_back(item.get<int32_t>());
  }
  return ids;
}

Prompt parse_json_line(std::string_view line, const std::string& path, const std::string& where, int64_t offset) {
  const Json json = parse_json(line, path, offset);
  Prompt prompt;
  prompt.where = where;
  if (json.is_string()) {
    prompt.text = json.get<std::string>();
    return prompt;
  }
  const bool has_text = json.is_object() && json.contains("prompt");
  const bool has_ids = json.is_object() && json.contains("tokens");
  if (has_text == has_ids || (has_text && !json["prompt"].is_string())) {
    throw UsageError(
        fmt::format("{}: must be a JSON string, or an object with a string \"prompt\" or a list \"tokens\"", where));
  }
  if (has_text) {
    prompt.text = json["prompt"].get<std::string>();
  } else {
    prompt.tokens = ids_of(json["tokens"], where);
  }
  return prompt;
}

}  // namespace

std::vector<int32_t> parse_ids(std::string_view text, const std::string& where) {
  std::vector<int32_t> ids;
  if (trimmed(text).empty()) {
    return ids;
  }
  for (size_t at = 0; at <= text.size();) {
    const size_t comma = std::min(text.find(',', at), text.size());
    const std::string_view item = trimmed(text.substr(at, comma - at));
    int32_t id = 0;
    const auto [stop, error] = std::from_chars(item.data(), item.data() + item.size(), id);
    if (error != std::errc() || stop != item.data() + item.size() || id < 0) {
      throw UsageError(fmt::format("{} must be token ids separated by commas, such as 1,2,3, but {} is none", where,
                                   quote(item, 40)));
    }
    ids.push_back(id);
    at = comma + 1;
  }
  return ids;
}

std::string join_ids(const std::vector<int32_t>& ids) {
  return fmt::format("{}", fmt::join(ids, ","));
}

std::string read_text(const std::string& path) {
  if (path.empty()) {
    throw UsageError("the name of a file is empty");
  }
  return path == "-" ? read_standard_input() : read_file(path, kMaxInput);
}

std::vector<Prompt> read_batch(const std::string& path) {
  const std::string text = read_text(path);
  const bool json = path.size() > 6 && path.compare(path.size() - 6, 6, ".jsonl") == 0;
  const std::string file = path == "-" ? "standard input" : path;
  std::vector<Prompt> prompts;
  size_t number = 1;
  for (size_t at = 0; at < text.size(); ++number) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line(text.data() + at, end - at);
    if (!line.empty() && line.back() == '\r') {
      line.remove_suffix(1);
    }
    const std::string where = fmt::format("{}, line {}", file, number);
    if (json ? trimmed(line).empty() : line.empty()) {
      throw UsageError(fmt::format("{}: is empty, and a prompt must not be", where));
    }
    prompts.push_back(json ? parse_json_line(line, file, where, static_cast<int64_t>(at))
                           : Prompt{where, std::string(line), {}});
    at = end + 1;
  }
  if (prompts.empty()) {
    throw UsageError(fmt::format("{}: holds no prompts", file));
  }
  return prompts;
}

std::vector<int32_t> encode(const Prompt& prompt, const text::Tokenizer* tokenizer, bool add_special_tokens) {
  std::vector<int32_t> ids;
  if (prompt.tokens) {
    ids = *prompt.tokens;
  } else if (tokenizer == nullptr) {
    throw UsageError(fmt::format("{}: this model has no tokenizer; give token ids with --tokens", prompt.where));
  } else {
    ids = tokenizer->encode(prompt.text, add_special_tokens);
  }
  if (ids.empty()) {
    throw UsageError(fmt::format("{}: is empty, and a model needs at least one token to read", prompt.where));
  }
  return ids;
}

}  // namespace mamba::cli
