#include "mamba/generate/batch.h"

#include <gtest/gtest.h>

#include <map>

#include "mamba/base/error.h"
#include "mamba/generate/generator.h"
#include "mamba/models/initialize.h"

namespace mamba::generate {
namespace {

models::MambaLM small_model() {
  models::Config config;
  config.vocab_size = 31;
  config.d_model = 24;
  config.n_layer = 2;
  config.initializer_range = 1.0;
  models::MambaLM model(config);
  models::initialize(model, 5);
  model.prepare();
  return model;
}

Request request_number(int index) {
  Request out;
  for (int j = 0; j < 1 + (index * 11) % 40; ++j) {
    out.prompt.push_back((index + 3 * j * j) % 31);
  }
  out.max_tokens = 3 + (index * 7) % 12;
  out.sampling.seed = static_cast<uint64_t>(index);
  return out;
}

struct Collected {
  std::map<size_t, Result> results;

  Callbacks callbacks() {
    return {.on_text = {}, .on_token = {}, .on_result = [this](size_t index, const Result& result) {
              results.emplace(index, result);
            }};
  }
};

TEST(Batch, ThoseWhoJoinLaterGetWhatTheyGetAlone) {
  const models::MambaLM model = small_model();
  Collected collected;
  Batch batch(model, nullptr, collected.callbacks(), 5);
  size_t added = 0;
  EXPECT_FALSE(batch.step());  // nobody is there yet
  for (bool more = true; more || added < 12; more = batch.step()) {
    for (int i = 0; i < 3 && added < 12; ++i) {
      EXPECT_EQ(batch.add(request_number(static_cast<int>(added))), added);
      ++added;
    }
    EXPECT_LE(batch.running(), 5u);
  }
  EXPECT_EQ(batch.running() + batch.waiting(), 0u);
  ASSERT_EQ(collected.results.size(), 12u);
  for (const auto& [index, result] : collected.results) {
    const Result alone = generate(model, nullptr, {request_number(static_cast<int>(index))}).front();
    EXPECT_EQ(result.tokens, alone.tokens) << index;
    EXPECT_EQ(result.logprobs, alone.logprobs) << index;
    EXPECT_EQ(result.finish_reason, "length");
  }
}

// Which prompts are worked on together depends on all of their lengths.
TEST(Batch, LongPromptsAmongShortOnesChangeNothing) {
  const models::MambaLM model = small_model();
  std::vector<Request> requests;
  for (const int length : {3, 700, 2, 5, 5, 5, 200, 200, 200, 530, 1}) {
    Request r = request_number(static_cast<int>(requests.size()));
    r.prompt.clear();
    for (int j = 0; j < length; ++j) {
      r.prompt.push_back((length + j * j + static_cast<int>(requests.size())) % 31);
    }
    requests.push_back(std::move(r));
  }
  const std::vector<Result> together = generate(model, nullptr, requests, {}, nullptr, 11);
  for (size_t i = 0; i < requests.size(); ++i) {
    const Result alone = generate(model, nullptr, {requests[i]}).front();
    EXPECT_EQ(together[i].tokens, alone.tokens) << i;
    EXPECT_EQ(together[i].logprobs, alone.logprobs) << i;
  }
}

// Sessions and new sequences of one group, whose states come from different places.
TEST(Batch, SessionsJoinWithNewSequences) {
  const models::MambaLM model = small_model();
  const auto session_of = [&](int index) {
    Request r = request_number(index);
    r.keep_state = true;
    return generate(model, nullptr, {r}).front().session;
  };
  std::vector<Request> requests;
  for (int i = 0; i < 7; ++i) {
    requests.push_back(request_number(i));
    if (i == 2 || i == 3 || i == 6) {
      requests.back().from = session_of(20 + i);
    }
  }
  const std::vector<Result> together = generate(model, nullptr, requests, {}, nullptr, 7);
  for (size_t i = 0; i < requests.size(); ++i) {
    const Result alone = generate(model, nullptr, {requests[i]}).front();
    EXPECT_EQ(together[i].tokens, alone.tokens) << i;
    EXPECT_EQ(together[i].logprobs, alone.logprobs) << i;
  }
}

TEST(Batch, ThoseWhoLeaveTakeNothingAlong) {
  const models::MambaLM model = small_model();
  Collected collected;
  Batch batch(model, nullptr, collected.callbacks(), 3);
  for (int i = 0; i < 5; ++i) {
    Request r = request_number(i);
    r.max_tokens = 20;
    batch.add(r);
  }
  for (int i = 0; i < 4; ++i) {
    EXPECT_TRUE(batch.step());
  }
  EXPECT_EQ(batch.waiting(), 2u);
  batch.cancel(1);  // running
  batch.cancel(4);  // waiting
  batch.cancel(77);
  while (batch.step()) {
  }
  ASSERT_EQ(collected.results.size(), 5u);
  EXPECT_EQ(collected.results.at(4).finish_reason, "cancelled");
  EXPECT_TRUE(collected.results.at(4).tokens.empty());
  for (const size_t index : {0, 1, 2, 3}) {
    Request r = request_number(static_cast<int>(index));
    r.max_tokens = index == 1 ? 4 : 20;
    EXPECT_EQ(collected.results.at(index).tokens, generate(model, nullptr, {r}).front().tokens) << index;
    EXPECT_EQ(collected.results.at(index).finish_reason, index == 1 ? "cancelled" : "length");
  }
}

TEST(Batch, TheLastOneWaitingMayLeaveBeforeItRan) {
  const models::MambaLM model = small_model();
  Collected collected;
  Batch batch(model, nullptr, collected.callbacks());
  batch.cancel(batch.add(request_number(0)));
  EXPECT_FALSE(batch.step());
  EXPECT_EQ(collected.results.at(0).finish_reason, "cancelled");
}

TEST(Batch, ACallbackMayCancel) {
  const models::MambaLM model = small_model();
  Collected collected;
  Callbacks callbacks = collected.callbacks();
  Batch* running = nullptr;
  callbacks.on_token = [&](size_t index, int32_t, double) { running->cancel(index); };
  Batch batch(model, nullptr, callbacks);
  running = &batch;
  batch.add(request_number(0));
  while (batch.step()) {
  }
  EXPECT_EQ(collected.results.at(0).tokens.size(), 1u);
  EXPECT_EQ(collected.results.at(0).finish_reason, "cancelled");
}

TEST(Batch, WhatIsTakenInIsTimedAsPrompt) {
  const models::MambaLM model = small_model();
  Batch batch(model, nullptr);
  batch.add(request_number(3));
  batch.take_in();
  EXPECT_EQ(batch.running(), 1u);
  EXPECT_EQ(batch.timings().prompt_tokens, static_cast<int64_t>(request_number(3).prompt.size()));
  EXPECT_EQ(batch.timings().generated_tokens, 0);
  EXPECT_GT(batch.timings().prompt_seconds, 0);
  EXPECT_EQ(batch.timings().generation_seconds, 0);
}

TEST(Batch, BadRequestsAreRefusedAndChangeNothing) {
  const models::MambaLM model = small_model();
  Batch batch(model, nullptr);
  EXPECT_THROW(batch.add({}), UsageError);
  Request outside = request_number(1);
  outside.prompt.push_back(31);
  EXPECT_THROW(batch.add(outside), UsageError);
  EXPECT_EQ(batch.add(request_number(1)), 0u);
  EXPECT_THROW(Batch(model, nullptr, {}, 0), Error);
}

}  // namespace
}  // namespace mamba::generate
