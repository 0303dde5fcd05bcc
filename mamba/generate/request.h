// A text to continue, and what comes of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "mamba/generate/sampler.h"
#include "mamba/generate/session_state.h"

namespace mamba::generate {

struct Request {
  std::vector<int32_t> prompt;  // may be empty only when `from` is given
  SamplingParams sampling;
  int max_tokens = 256;
  std::vector<std::string> stop;     // generation ends where the text contains one of these; it is cut off
  bool ignore_eos = false;           // go on after an end-of-text token
  std::optional<SessionState> from;  // continue an earlier session
  bool keep_state = false;           // fill Result::session
};

struct Result {
  std::vector<int32_t> tokens;          // generated, an end-of-text token included
  std::vector<double> logprobs;         // of each, under the model's own distribution
  std::string text;                     // of the tokens, without special tokens; empty without a tokenizer
  std::string finish_reason;            // "stop" (end of text or a stop string), "length" or "cancelled"
  std::optional<SessionState> session;  // after prompt and all tokens
};

struct Timings {
  double prompt_seconds = 0;
  double generation_seconds = 0;
  int64_t prompt_tokens = 0;
  int64_t generated_tokens = 0;
};

struct Callbacks {
  // A piece of request `index`'s text, in order, whole characters only; never any part of a stop string.
  std::function<void(size_t index, const std::string& piece)> on_text;
  // Each token of request `index` as it is chosen.
  std::function<void(size_t index, int32_t token, double logprob)> on_token;
  // Request `index` is complete.
  std::function<void(size_t index, const Result& result)> on_result;
};

}  // namespace mamba::generate
