#include "mamba/text/tokenizer.h"

#include <algorithm>

#include "mamba/base/file.h"
#include "mamba/text/post_processor.h"
#include "mamba/text/pre_tokenizer.h"
#include "mamba/text/tokenizer_impl.h"
#include "mamba/text/unicode.h"

namespace mamba::text {

const std::string* Tokenizer::Impl::text_of(int32_t id, bool skip_special_tokens) const {
  const std::string* token = added.decoded(id);
  if (token == nullptr) {
    token = model.token(id);
  }
  return token == nullptr || (skip_special_tokens && added.is_special(*token)) ? nullptr : token;
}

Tokenizer::Tokenizer(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&& other) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&& other) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::from_file(const std::filesystem::path& path) {
  const MappedFile file(path);
  return from_json_text(file.text(), path.string());
}

Tokenizer Tokenizer::from_json_text(std::string_view text, const std::string& file_name) {
  const Json json = parse_json(text, file_name);
  const JsonObject object(json, file_name);
  if (object.has("version") && object.string("version") != "1.0") {
    object.fail(fmt::format("tokenizer version {} is not supported: only 1.0 is", quote(object.string("version"))));
  }
  auto impl = std::make_unique<Impl>();
  impl->normalizer = Normalizer::from_json(object);
  impl->pre_tokenizer = PreTokenizer::from_json(object);
  impl->post_processor = PostProcessor::from_json(object);
  impl->decoder = Decoder::from_json(object);
  impl->model = Bpe::from_json(object);
  impl->added = AddedTokens::from_json(object, impl->model, impl->normalizer);
  impl->vocab_size = impl->model.size();
  impl->max_id = impl->model.largest_id();
  for (const auto& [token, id] : impl->added.ids()) {
    impl->vocab_size += impl->model.id(token) ? 0 : 1;
    impl->max_id = std::max(impl->max_id, id);
  }
  return Tokenizer(std::move(impl));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special_tokens) const {
  return impl_->post_processor.apply(ids_of(text, {}), add_special_tokens);
}

std::vector<int32_t> Tokenizer::encode_with_dropout(std::string_view text, const MergeDropout& dropout) const {
  return ids_of(text, dropout);
}

std::vector<int32_t> Tokenizer::ids_of(std::string_view text, const MergeDropout& dropout) const {
  std::string well_formed;
  if (well_formed_prefix(text) != text.size()) {
    well_formed = replace_ill_formed(text);
    text = well_formed;
  }
  // Normalized text is kept until the end: words are views into it.
  std::deque<std::string> normalized;
  std::vector<int32_t> ids;
  Bpe::Scratch scratch;
  scratch.dropout = dropout;
  std::deque<Words> kept;
  const auto encode_plain = [&](std::string_view part, bool at_start) {
    Words& words = kept.emplace_back();
    words.list.push_back({part, at_start});
    impl_->pre_tokenizer.apply(words);
    for (const Words::Word& word : words.list) {
      impl_->model.encode(word.text, impl_->pre_tokenizer.leaves_bytes(), scratch, ids);
    }
    words.list = {};
  };
  impl_->added.split(text, false, [&](size_t begin, size_t end, int32_t id) {
    if (id >= 0) {
      ids.push_back(id);
      return;
    }
    std::string_view part = text.substr(begin, end - begin);
    bool at_start = begin == 0;
    if (!impl_->normalizer.empty()) {
      const std::string& result = normalized.emplace_back(impl_->normalizer.apply(std::string(part)));
      // Where leading blanks were taken away, what is left no longer starts where the input does.
      at_start = at_start && (result.empty() || !is_whitespace(code_point_at(part, 0).value) ||
                              is_whitespace(code_point_at(result, 0).value));
      part = result;
    }
    impl_->added.split(part, true, [&](size_t first, size_t last, int32_t added_id) {
      if (added_id >= 0) {
        ids.push_back(added_id);
      } else {
        encode_plain(part.substr(first, last - first), at_start && first == 0);
      }
    });
  });
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  std::vector<std::string> tokens;
  tokens.reserve(ids.size());
  for (int32_t id : ids) {
    if (const std::string* token = impl_->text_of(id, skip_special_tokens)) {
      tokens.push_back(*token);
    }
  }
  return impl_->decoder.decode(std::move(tokens));
}

std::string Tokenizer::decode_utf8(std::span<const int32_t> ids, bool skip_special_tokens) const {
  return replace_ill_formed(decode(ids, skip_special_tokens));
}

void Tokenizer::check_ids(std::span<const int32_t> ids) const {
  for (int32_t id : ids) {
    if (impl_->text_of(id, false) == nullptr) {
      throw UsageError(fmt::format("token id {} is not in the vocabulary, whose largest id is {}", id, impl_->max_id));
    }
  }
}

int64_t Tokenizer::vocab_size() const {
  return impl_->vocab_size;
}

int32_t Tokenizer::max_id() const {
  return impl_->max_id;
}

std::optional<int32_t> Tokenizer::token_to_id(std::string_view token) const {
  const auto id = impl_->added.id(token);
  return id ? id : impl_->model.id(token);
}

std::optional<std::string> Tokenizer::id_to_token(int32_t id) const {
  const std::string* token = impl_->added.content(id);
  if (token == nullptr) {
    token = impl_->model.token(id);
  }
  return token == nullptr ? std::nullopt : std::optional(*token);
}

bool Tokenizer::is_special(int32_t id) const {
  const std::string* token = impl_->text_of(id, false);
  return token != nullptr && impl_->added.is_special(*token);
}

}  // namespace mamba::text
