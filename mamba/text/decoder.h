// The "decoder" of a tokenizer.json: turns tokens back into text. Results are exact bytes: what tokens for half a
// character decode to is half a character, not U+FFFD.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "mamba/base/json.h"
#include "mamba/text/pattern.h"

namespace mamba::text {

class Decoder {
 public:
  // ByteLevel, ByteFallback, Fuse, Replace, Strip, Metaspace, BPEDecoder and Sequence; null and absent mean that
  // tokens are joined by blanks. Throws ParseError that names any other type.
  static Decoder from_json(const JsonObject& tokenizer);

  std::string decode(std::vector<std::string> tokens) const;

  // Decodes token by token: the results of all push() and of finish(), put together, equal decode() of all tokens.
  // A decoder whose steps can only be taken with all the text at hand gives everything at finish().
  // `decoder` must outlive this object.
  class Stream {
   public:
    explicit Stream(const Decoder& decoder);
    std::string push(std::string_view token);
    std::string finish();

   private:
    std::string strip_start(std::string_view text);

    const Decoder* decoder_;
    bool first_ = true;
    size_t to_strip_ = 0;  // characters that the last step may still take from the start
    std::string start_;    // too short to tell whether it is one of them
    std::vector<std::string> held_;
  };

 private:
  enum class Kind { kByteLevel, kByteFallback, kFuse, kReplace, kStrip, kMetaspace, kBpe };
  struct Step {
    Kind kind;
    Pattern pattern = {};      // kReplace
    std::string content = {};  // kReplace, kStrip, kMetaspace, kBpe
    size_t start = 0;          // kStrip: how many at most
    size_t stop = 0;
    bool drop_first = false;  // kMetaspace: the mark disappears from the first token
  };

  void add(const JsonObject& value);
  bool joins(size_t i) const { return steps_[i].kind == Kind::kFuse || steps_[i].kind == Kind::kByteLevel; }
  void plan_stream();
  std::string apply_to_token(const Step& step, std::string token, bool first, size_t limit) const;

  std::vector<Step> steps_;
  bool has_decoder_ = false;
  // Steps [0, per_token_) work on each token alone; one that strips the start of the joined text may follow.
  bool streams_ = true;
  size_t per_token_ = 0;
  size_t strip_start_ = 0;
  std::string strip_content_;
};

}  // namespace mamba::text
