#include "mamba/generate/generator.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <cmath>

#include "mamba/base/file.h"
#include "mamba/base/temporary_directory.h"
#include "mamba/models/initialize.h"

namespace mamba::generate {
namespace {

namespace mx = mlx::core;

// Letters a..z, a space as U+0120, and <end> as an added special token: enough to follow text by eye.
constexpr const char* kLetters =
    R"({"version": "1.0", "added_tokens": [{"id": 27, "content": "<end>", "single_word": false,
  "lstrip": false, "rstrip": false, "normalized": false, "special": true}], "normalizer": null,
  "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
  "post_processor": null, "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
  "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
  "fuse_unk": false, "byte_fallback": false, "vocab": {"a":0,"b":1,"c":2,"d":3,"e":4,"f":5,"g":6,"h":7,"i":8,"j":9,"k":10,
  "l":11,"m":12,"n":13,"o":14,"p":15,"q":16,"r":17,"s":18,"t":19,"u":20,"v":21,"w":22,"x":23,"y":24,"z":25,"Ġ":26}, "merges": []}})";

models::MambaLM letter_model(std::vector<int> eos = {27}) {
  models::Config config;
  config.vocab_size = 28;
  config.d_model = 24;
  config.n_layer = 3;
  config.initializer_range = 1.0;
  config.eos_token_ids = std::move(eos);
  models::MambaLM model(config);
  models::initialize(model, 21);
  model.prepare();
  return model;
}

text::Tokenizer letters() {
  return text::Tokenizer::from_json_text(kLetters, "letters");
}

Request request(std::vector<int32_t> prompt, int max_tokens = 12, float temperature = 0) {
  Request out;
  out.prompt = std::move(prompt);
  out.max_tokens = max_tokens;
  out.sampling.temperature = temperature;
  return out;
}

// Greedy continuation by one full forward pass per token.
std::vector<int32_t> greedy(const models::MambaLM& model, std::vector<int32_t> tokens, int count) {
  std::vector<int32_t> out;
  for (int i = 0; i < count; ++i) {
    models::State state = model.initial_state();
    mx::array logits = model.prefill(mx::array(tokens.begin(), {1, static_cast<int>(tokens.size())}, mx::int32), state);
    const auto best = mx::argmax(logits, -1).item<uint32_t>();
    out.push_back(static_cast<int32_t>(best));
    tokens.push_back(static_cast<int32_t>(best));
  }
  return out;
}

TEST(Generate, GreedyIsTheArgmaxOfTheFullForward) {
  const models::MambaLM model = letter_model({});
  const auto results = generate(model, nullptr, {request({3, 1, 4, 1, 5}, 30)});
  ASSERT_EQ(results.size(), 1u);
  EXPECT_EQ(results[0].tokens, greedy(model, {3, 1, 4, 1, 5}, 30));
  EXPECT_EQ(results[0].finish_reason, "length");
  EXPECT_TRUE(results[0].text.empty());
  ASSERT_EQ(results[0].logprobs.size(), 30u);
  for (const double logprob : results[0].logprobs) {
    EXPECT_LE(logprob, 0);
    EXPECT_GE(logprob, -std::log(28.0));  // the most probable of 28
  }
}

TEST(Generate, CompanyChangesNothing) {
  const models::MambaLM model = letter_model();
  const text::Tokenizer tokenizer = letters();
  std::vector<Request> requests;
  for (int i = 0; i < 23; ++i) {
    std::vector<int32_t> prompt;
    for (int j = 0; j < 1 + (i * 37) % 90; ++j) {
      prompt.push_back((i + j * j) % 27);
    }
    Request r = request(prompt, 1 + (i * 5) % 20, i % 3 == 0 ? 0.0f : 0.9f);
    r.sampling.seed = 7;
    r.sampling.top_p = 0.95f;
    r.sampling.repetition_penalty = i % 2 == 0 ? 1.2f : 1.0f;
    requests.push_back(r);
  }
  std::vector<Result> alone;
  for (const Request& r : requests) {
    alone.push_back(generate(model, &tokenizer, {r}).front());
  }
  for (const int max_batch : {1, 4, 64}) {
    const auto together = generate(model, &tokenizer, requests, {}, nullptr, max_batch);
    for (size_t i = 0; i < requests.size(); ++i) {
      EXPECT_EQ(together[i].tokens, alone[i].tokens) << i;
      EXPECT_EQ(together[i].logprobs, alone[i].logprobs) << i;
      EXPECT_EQ(together[i].text, alone[i].text) << i;
      EXPECT_EQ(together[i].finish_reason, alone[i].finish_reason) << i;
    }
  }
}

std::vector<Result> on_device(const models::MambaLM& model, const text::Tokenizer* tokenizer,
                              const std::vector<Request>& requests, int max_batch = 64) {
  return generate(model, tokenizer, requests, {}, nullptr, max_batch, sample_on_device);
}

TEST(Generate, TheDeviceIsAheadWithoutAnybodySeeingIt) {
  const models::MambaLM model = letter_model({4});
  const text::Tokenizer tokenizer = letters();
  std::vector<Request> requests;
  for (int i = 0; i < 11; ++i) {
    Request r = request({i, 3 * i % 27, 2}, i % 5 == 4 ? 0 : 3 + i * 7 % 20);
    r.sampling.repetition_penalty = i % 2 == 0 ? 1.2f : 1.0f;
    r.keep_state = i % 3 == 0;
    r.ignore_eos = i % 4 == 0;
    if (i == 7) {
      r.stop = {"a", "e"};
    }
    requests.push_back(r);
  }
  const std::vector<Result> want = generate(model, &tokenizer, requests);
  for (const int max_batch : {1, 3, 64}) {
    const std::vector<Result> got = on_device(model, &tokenizer, requests, max_batch);
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) {
      EXPECT_EQ(got[i].tokens, want[i].tokens) << i;
      EXPECT_EQ(got[i].text, want[i].text) << i;
      EXPECT_EQ(got[i].finish_reason, want[i].finish_reason) << i;
      for (size_t t = 0; t < want[i].logprobs.size(); ++t) {
        EXPECT_NEAR(got[i].logprobs[t], want[i].logprobs[t], 1e-4) << i;
      }
      ASSERT_EQ(got[i].session.has_value(), want[i].session.has_value());
      if (want[i].session) {
        EXPECT_EQ(got[i].session->history, want[i].session->history);
        EXPECT_TRUE(mx::allclose(got[i].session->next_logits, want[i].session->next_logits, 1e-4, 1e-4).item<bool>());
        EXPECT_TRUE(mx::allclose(got[i].session->state.layers[1].ssm, want[i].session->state.layers[1].ssm, 1e-4, 1e-4)
                        .item<bool>());
      }
    }
  }
}

TEST(Generate, DrawsOnTheDeviceBelongToTheSequence) {
  const models::MambaLM model = letter_model({});
  std::vector<Request> requests;
  for (int i = 0; i < 9; ++i) {
    Request r = request({i, 2}, 70 + 10 * (i % 3), 8.0f);
    r.sampling.seed = static_cast<uint64_t>(i / 2);
    r.sampling.top_p = i % 2 == 0 ? 0.9f : 1.0f;
    requests.push_back(r);
  }
  const std::vector<Result> together = on_device(model, nullptr, requests, 4);
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(together[i].tokens, on_device(model, nullptr, {requests[i]}).front().tokens) << i;
  }
  requests[0].sampling.seed = 99;
  EXPECT_NE(on_device(model, nullptr, {requests[0]}).front().tokens, together[0].tokens);
}

TEST(Generate, EndOfTextStopsUnlessIgnored) {
  const models::MambaLM plain = letter_model({});
  const std::vector<int32_t> expected = greedy(plain, {1, 2}, 12);
  // Whatever comes third is declared to be the end of text.
  const models::MambaLM model = letter_model({expected[2]});
  const auto stopped = generate(model, nullptr, {request({1, 2})}).front();
  const auto first = std::find(expected.begin(), expected.end(), expected[2]);
  EXPECT_EQ(stopped.tokens, std::vector<int32_t>(expected.begin(), first + 1));
  EXPECT_EQ(stopped.finish_reason, "stop");
  Request on = request({1, 2});
  on.ignore_eos = true;
  EXPECT_EQ(generate(model, nullptr, {on}).front().tokens, expected);
}

TEST(Generate, StopStringsCutTheTextAndPiecesAddUp) {
  const models::MambaLM model = letter_model({});
  const text::Tokenizer tokenizer = letters();
  Request r = request({0, 1, 2}, 40, 1.0f);
  r.sampling.seed = 3;
  const Result whole = generate(model, &tokenizer, {r}).front();
  ASSERT_GT(whole.text.size(), 20u);
  r.stop = {whole.text.substr(9, 3), "never there"};
  std::string pieces;
  std::vector<int32_t> tokens;
  const Result cut = generate(model, &tokenizer, {r},
                              {.on_text = [&](size_t, const std::string& piece) { pieces += piece; },
                               .on_token = [&](size_t, int32_t token, double) { tokens.push_back(token); },
                               .on_result = {}})
                         .front();
  EXPECT_EQ(cut.text, whole.text.substr(0, whole.text.find(r.stop[0])));
  EXPECT_EQ(pieces, cut.text);
  EXPECT_EQ(tokens, cut.tokens);
  EXPECT_EQ(cut.finish_reason, "stop");
}

TEST(Generate, SavedSessionGoesOnAsIfItHadNeverStopped) {
  const TemporaryDirectory folder;
  const models::MambaLM model = letter_model({});
  Request whole = request({5, 6, 7}, 30);
  whole.sampling.repetition_penalty = 1.3f;
  const Result expected = generate(model, nullptr, {whole}).front();
  Request head = whole;
  head.max_tokens = 11;
  head.keep_state = true;
  const Result first = generate(model, nullptr, {head}).front();
  ASSERT_TRUE(first.session.has_value());
  save_session(folder / "s.safetensors", *first.session, model.config());
  Request tail = whole;
  tail.prompt = {};
  tail.max_tokens = 19;
  tail.from = load_session(folder / "s.safetensors", model);
  EXPECT_EQ(tail.from->history.size(), 3u + 11);
  const Result second = generate(model, nullptr, {tail}).front();
  std::vector<int32_t> joined = first.tokens;
  joined.insert(joined.end(), second.tokens.begin(), second.tokens.end());
  EXPECT_EQ(joined, expected.tokens);
  // A session also takes more prompt: the same as one longer prompt.
  Request prompt_only = request({5, 6, 7}, 0);
  prompt_only.keep_state = true;
  const Result none = generate(model, nullptr, {prompt_only}).front();
  EXPECT_TRUE(none.tokens.empty());
  EXPECT_EQ(none.finish_reason, "length");
  Request more = request({8, 9}, 10);
  more.from = none.session;
  EXPECT_EQ(generate(model, nullptr, {more}).front().tokens, greedy(model, {5, 6, 7, 8, 9}, 10));
}

TEST(Generate, SessionsOfOtherModelsAreRefused) {
  const TemporaryDirectory folder;
  const models::MambaLM model = letter_model();
  Request r = request({1}, 2);
  r.keep_state = true;
  save_session(folder / "s", *generate(model, nullptr, {r}).front().session, model.config());
  models::Config config = model.config();
  config.n_layer = 2;
  models::MambaLM other(config);
  models::initialize(other, 1);
  EXPECT_THROW(load_session(folder / "s", other), Error);
  write_file(folder / "text", "hello");
  EXPECT_THROW(load_session(folder / "text", model), ParseError);
  EXPECT_THROW(load_session(folder / "absent", model), Error);
}

TEST(Generate, BadRequestsAreRefusedBeforeAnyWork) {
  const models::MambaLM model = letter_model();
  EXPECT_THROW(generate(model, nullptr, {request({})}), UsageError);
  EXPECT_THROW(generate(model, nullptr, {request({1}), request({28})}), UsageError);
  EXPECT_THROW(generate(model, nullptr, {request({1}, -1)}), UsageError);
  EXPECT_THROW(generate(model, nullptr, {request({1}, 1, -0.5f)}), UsageError);
  Request stop = request({1});
  stop.stop = {"x"};
  EXPECT_THROW(generate(model, nullptr, {stop}), UsageError);
  const text::Tokenizer tokenizer = letters();
  stop.stop = {""};
  EXPECT_THROW(generate(model, &tokenizer, {stop}), UsageError);
  EXPECT_TRUE(generate(model, nullptr, {}).empty());
}

TEST(Generate, TimingsCountTokens) {
  const models::MambaLM model = letter_model({});
  Timings timings;
  generate(model, nullptr, {request({1, 2, 3}, 4), request({1}, 6)}, {}, &timings);
  EXPECT_EQ(timings.prompt_tokens, 4);
  EXPECT_EQ(timings.generated_tokens, 10);
  EXPECT_GT(timings.prompt_seconds, 0);
  EXPECT_GT(timings.generation_seconds, 0);
}

}  // namespace
}  // namespace mamba::generate
