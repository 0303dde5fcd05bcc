#include "mamba/text/stream_decoder.h"

#include "mamba/text/tokenizer_impl.h"
#include "mamba/text/unicode.h"

namespace mamba::text {

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, IllFormed ill_formed, bool skip_special_tokens)
    : tokenizer_(&tokenizer),
      stream_(tokenizer.impl_->decoder),
      ill_formed_(ill_formed),
      skip_special_tokens_(skip_special_tokens) {}

std::string StreamDecoder::push(int32_t id) {
  const std::string* token = tokenizer_->impl_->text_of(id, skip_special_tokens_);
  if (token == nullptr) {
    return "";
  }
  pending_ += stream_.push(*token);
  return take(false);
}

std::string StreamDecoder::finish() {
  pending_ += stream_.finish();
  stream_ = Decoder::Stream(tokenizer_->impl_->decoder);
  return take(true);
}

std::string StreamDecoder::take(bool at_end) {
  size_t ready = 0;
  while (ready < pending_.size()) {
    ready += well_formed_prefix(std::string_view(pending_).substr(ready));
    if (ready == pending_.size()) {
      break;
    }
    const Sequence sequence = sequence_at(pending_, ready);
    if (sequence.form == Form::kCutShort && !at_end) {
      break;
    }
    ready += sequence.size;
  }
  std::string out = pending_.substr(0, ready);
  pending_.erase(0, ready);
  return ill_formed_ == IllFormed::kReplace ? replace_ill_formed(out) : out;
}

}  // namespace mamba::text
