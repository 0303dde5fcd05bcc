#include "mamba/text/added_tokens.h"

#include <algorithm>

#include "mamba/base/warning.h"
#include "mamba/text/json_list.h"
#include "mamba/text/unicode.h"

namespace mamba::text {

void TokenFinder::add(std::string_view token, int32_t id) {
  if (token.empty()) {
    return;
  }
  uint32_t node = 0;
  for (unsigned char c : token) {
    const auto [entry, inserted] =
        next_.try_emplace(static_cast<uint64_t>(node) << 8 | c, static_cast<uint32_t>(ids_.size()));
    if (inserted) {
      ids_.push_back(-1);
    }
    node = entry->second;
  }
  ids_[node] = id;
  starts_[static_cast<unsigned char>(token[0])] = true;
}

std::optional<TokenFinder::Found> TokenFinder::at(std::string_view text, size_t at) const {
  if (!starts_[static_cast<unsigned char>(text[at])]) {
    return std::nullopt;
  }
  std::optional<Found> longest;
  uint32_t node = 0;
  for (size_t i = at; i < text.size(); ++i) {
    const auto entry = next_.find(static_cast<uint64_t>(node) << 8 | static_cast<unsigned char>(text[i]));
    if (entry == next_.end()) {
      break;
    }
    node = entry->second;
    if (ids_[node] >= 0) {
      longest = Found{ids_[node], i + 1 - at};
    }
  }
  return longest;
}

AddedTokens AddedTokens::from_json(const JsonObject& tokenizer, const Bpe& model, const Normalizer& normalizer) {
  AddedTokens added;
  if (!tokenizer.has("added_tokens")) {
    return added;
  }
  int64_t next_id = model.size();
  for (const JsonObject& item : objects_in(tokenizer, "added_tokens")) {
    Token token;
    token.content = item.string("content");
    if (token.content.empty()) {
      continue;
    }
    const int64_t stated = item.integer("id", 0, INT32_MAX);
    const bool special = item.boolean_or("special", false);
    token.single_word = item.boolean_or("single_word", false);
    token.lstrip = item.boolean_or("lstrip", false);
    token.rstrip = item.boolean_or("rstrip", false);
    token.normalized = item.boolean_or("normalized", !special);
    token.decoded = token.normalized ? normalizer.apply(token.content) : token.content;
    std::optional<int32_t> id = added.id(token.content);
    if (!id) {
      id = model.id(token.content);
    }
    if (!id) {
      id = static_cast<int32_t>(next_id++);
    }
    if (*id != stated) {
      warn_once(fmt::format("{}: added token {} is meant to have id {} but gets {}: the vocabulary has {} tokens",
                            tokenizer.file(), quote(token.content), stated, *id, model.size()));
    }
    added.ids_[token.content] = *id;
    if (special) {
      added.special_.insert(token.content);
    }
    added.tokens_[*id] = std::move(token);
  }
  for (const auto& [id, token] : added.tokens_) {
    (token.normalized ? added.normalized_finder_ : added.raw_finder_).add(token.decoded, id);
  }
  return added;
}

std::optional<int32_t> AddedTokens::id(std::string_view token) const {
  const auto found = ids_.find(token);
  return found == ids_.end() ? std::nullopt : std::optional(found->second);
}

const std::string* AddedTokens::content(int32_t id) const {
  const auto found = tokens_.find(id);
  return found == tokens_.end() ? nullptr : &found->second.content;
}

const std::string* AddedTokens::decoded(int32_t id) const {
  const auto found = tokens_.find(id);
  return found == tokens_.end() ? nullptr : &found->second.decoded;
}

void AddedTokens::split(std::string_view text, bool normalized, const Visit& visit) const {
  const TokenFinder& finder = normalized ? normalized_finder_ : raw_finder_;
  size_t done = 0;
  if (!finder.empty()) {
    for (size_t at = 0; at < text.size();) {
      const auto found = finder.at(text, at);
      if (!found) {
        ++at;
        continue;
      }
      const Token& token = tokens_.at(found->id);
      size_t begin = at;
      size_t end = at + found->size;
      at = end;
      if (token.single_word) {
        const bool word_before = begin > 0 && is_word(code_point_at(text, previous_character(text, begin)).value);
        const bool word_behind = end < text.size() && is_word(code_point_at(text, end).value);
        if (word_before || word_behind) {
          continue;
        }
      }
      if (token.lstrip) {
        while (begin > done) {
          const size_t before = previous_character(text, begin);
          if (!is_whitespace(code_point_at(text, before).value)) {
            break;
          }
          begin = before;
        }
      }
      while (token.rstrip && end < text.size()) {
        const CodePoint c = code_point_at(text, end);
        if (!is_whitespace(c.value)) {
          break;
        }
        end += c.size;
      }
      if (done < begin) {
        visit(done, begin, -1);
      }
      visit(begin, end, found->id);
      // A token found inside the blanks that the one before it took: tokenizers goes back to its end, too.
      done = end;
    }
  }
  if (done < text.size()) {
    visit(done, text.size(), -1);
  }
}

}  // namespace mamba::text
