#include "mamba/train/data/tokenize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "mamba/base/temporary_directory.h"
#include "mamba/text/tokenizer_config.h"
#include "mamba/train/data/data_testing.h"
#include "mamba/train/data/document_encoder.h"
#include "mamba/train/data/text_reader.h"

namespace mamba::train {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

// Words of many lengths, numbers, runs of blanks and marks, accents and characters without blanks between them.
std::string awkward_text(size_t size, const char* extra = "") {
  const std::vector<std::string> words = {"the",  "crown's",   "O!\n",         "\n\n",       "  ",   " ",
                                          "1599", "caf\u00e9", "\u5b57\u5b57", "well",       "...",  "\t",
                                          "\r\n", "(x)",       "'ll",          "\U0001f600", "king", extra};
  std::string out;
  uint32_t state = 12345;
  while (out.size() < size) {
    state = state * 1664525 + 1013904223;
    out += words[(state >> 16) % words.size()];
    if (state >> 30 != 0) {
      out += ' ';
    }
  }
  return out;
}

std::vector<int32_t> ids_of(const TokenArray& tokens) {
  std::vector<int32_t> out(static_cast<size_t>(tokens.size()));
  tokens.copy(0, tokens.size(), out.data());
  return out;
}

class TokenizeTest : public testing::Test {
 protected:
  TokenCache run(const std::vector<std::string>& names, const ProgressFn& progress = {}) {
    std::vector<Source> sources;
    for (const std::string& name : names) {
      sources.push_back(
          source_at(folder_ / name, name.ends_with(".jsonl") ? SourceKind::kJsonLines : SourceKind::kText));
    }
    return tokenize(sources, tokenizer_file_, folder_ / "cache", progress);
  }
  // Whether a run had to read the sources.
  bool reads(const std::vector<std::string>& names) {
    bool read = false;
    run(names, [&](const Progress&) { read = true; });
    return read;
  }
  std::string refusal(const std::string& name, std::string_view text) {
    write_file(folder_ / name, text);
    return message_of([&] { run({name}); });
  }
  std::vector<fs::path> cached_files() {
    std::vector<fs::path> out;
    for (const auto& entry : fs::recursive_directory_iterator(folder_ / "cache")) {
      if (entry.is_regular_file() && entry.path().extension() != ".lock") {
        out.push_back(entry.path());
      }
    }
    return out;
  }

  fs::path tokenizer_file_ = kTokenizer;
  TemporaryDirectory folder_;
  text::Tokenizer tokenizer_ = text::Tokenizer::from_file(kTokenizer);
  int32_t end_ = *text::end_of_text(tokenizer_, text::TokenizerConfig::beside(kTokenizer));
};

TEST_F(TokenizeTest, PiecesGiveTheTokensOfTheWhole) {
  for (const size_t size :
       {size_t{1}, TextReader::kPiece - 1, TextReader::kPiece + 5000, 5 * TextReader::kPiece + 77}) {
    const std::string text = awkward_text(size);
    write_file(folder_ / "a.txt", text);
    std::vector<int32_t> expected = tokenizer_.encode(text);
    expected.push_back(end_);
    const TokenCache cache = run({"a.txt"});
    EXPECT_TRUE(ids_of(cache.documents().tokens) == expected) << size;
    EXPECT_EQ(cache.counts().documents, 1);
  }
}

TEST_F(TokenizeTest, PiecesKeepSpecialTokensWhole) {
  const std::string text = awkward_text(4 * TextReader::kPiece, "<|endoftext|>");
  write_file(folder_ / "a.txt", text);
  std::vector<int32_t> expected = tokenizer_.encode(text);
  const auto ends = std::count(expected.begin(), expected.end(), end_);
  ASSERT_GT(ends, 1000);
  ASSERT_NE(expected.back(), end_);
  expected.push_back(end_);
  const TokenCache cache = run({"a.txt"});
  EXPECT_TRUE(ids_of(cache.documents().tokens) == expected);
  EXPECT_EQ(cache.counts().documents, ends + 1);
}

TEST_F(TokenizeTest, TextWithoutBlanksIsCutToo) {
  std::string text;
  for (size_t i = 0; text.size() < 3 * TextReader::kPiece; ++i) {
    text += i % 7 == 0 ? "\u3002" : "\u5b57";
  }
  write_file(folder_ / "a.txt", text);
  std::vector<int32_t> expected = tokenizer_.encode(text);
  expected.push_back(end_);
  EXPECT_TRUE(ids_of(run({"a.txt"}).documents().tokens) == expected);
  // Nothing but one letter: words may differ at the cuts, the text does not.
  text.assign(2 * TextReader::kPiece + 11, 'a');
  write_file(folder_ / "a.txt", text);
  std::vector<int32_t> ids = ids_of(run({"a.txt"}).documents().tokens);
  ids.pop_back();
  EXPECT_TRUE(tokenizer_.decode(ids) == text);
}

TEST_F(TokenizeTest, EveryFileLineAndPartBetweenEndsIsADocument) {
  write_file(folder_ / "a.txt", "\xef\xbb\xbfOne.<|endoftext|>Two.");
  write_file(folder_ / "b.txt", "");
  write_file(folder_ / "c.md", "Three.<|endoftext|>");
  write_file(folder_ / "d.jsonl",
             "{\"text\": \"Four.\\n\"}\r\n\n  \n{\"text\": \"\", \"id\": 7}\n{\"id\": 8, \"text\": \"Five.\"}");
  const TokenCache cache = run({"a.txt", "b.txt", "c.md", "d.jsonl"});
  std::vector<int32_t> expected;
  std::vector<uint64_t> starts;
  for (const char* text : {"One.", "Two.", "Three.", "Four.\n", "Five."}) {
    starts.push_back(expected.size());
    const std::vector<int32_t> ids = tokenizer_.encode(text);
    expected.insert(expected.end(), ids.begin(), ids.end());
    expected.push_back(end_);
  }
  starts.push_back(expected.size());
  EXPECT_EQ(ids_of(cache.documents().tokens), expected);
  EXPECT_EQ(std::vector<uint64_t>(cache.documents().starts.begin(), cache.documents().starts.end()), starts);
  EXPECT_EQ(cache.counts().documents, 5);
  EXPECT_EQ(cache.counts().tokens, static_cast<int64_t>(expected.size()));
}

TEST_F(TokenizeTest, CompletionsAreLearntAndPromptsAreNot) {
  write_file(folder_ / "a.jsonl", R"({"prompt": "To be", "completion": " or not"})"
                                  "\n"
                                  R"({"completion": "Yes.", "prompt": ""})");
  const TokenCache cache = run({"a.jsonl"});
  ASSERT_EQ(cache.counts().examples, 2);
  EXPECT_EQ(cache.counts().documents, 0);
  std::vector<int32_t> expected;
  std::vector<int> mask;
  for (const auto& [prompt, completion] : {std::pair("To be", " or not"), std::pair("", "Yes.")}) {
    for (const int32_t id : tokenizer_.encode(prompt)) {
      expected.push_back(id);
      mask.push_back(0);
    }
    for (const int32_t id : tokenizer_.encode(completion)) {
      expected.push_back(id);
      mask.push_back(1);
    }
    expected.push_back(end_);
    mask.push_back(1);
  }
  EXPECT_EQ(ids_of(cache.examples().tokens), expected);
  EXPECT_EQ(std::vector<int>(cache.examples().mask.begin(), cache.examples().mask.end()), mask);
}

std::string decoded(const text::Tokenizer& tokenizer, const TokenCache& cache, int mark) {
  std::vector<int32_t> ids = ids_of(cache.examples().tokens);
  std::vector<int32_t> kept;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (cache.examples().mask[i] == mark) {
      kept.push_back(ids[i]);
    }
  }
  return tokenizer.decode(kept);
}

TEST_F(TokenizeTest, OfConversationsTheAnswersAreLearnt) {
  const std::string chat =
      R"({"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},)"
      R"( {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "Bye"},)"
      R"( {"content": "Farewell.", "role": "assistant"}]})";
  write_file(folder_ / "a.jsonl", chat);
  // Without a template the standard one.
  TokenCache cache = run({"a.jsonl"});
  EXPECT_EQ(decoded(tokenizer_, cache, 1), "Hello!<|endoftext|>Farewell.<|endoftext|>");
  EXPECT_EQ(decoded(tokenizer_, cache, 0),
            "<|system|>\nBe brief.\n<|user|>\nHi\n<|assistant|>\n\n<|user|>\nBye\n<|assistant|>\n\n");
  // The tokenizer's own.
  fs::create_directory(folder_ / "other");
  fs::copy_file(kTokenizer, folder_ / "other" / "tokenizer.json");
  tokenizer_file_ = folder_ / "other" / "tokenizer.json";
  const std::string chatml =
      "{% for m in messages %}{{ '<' + m.role + '>' + m.content + '<end>' }}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}";
  write_file(folder_ / "other" / "tokenizer_config.json",
             json_text(Json({{"chat_template", chatml}, {"eos_token", "<|endoftext|>"}})));
  cache = run({"a.jsonl"});
  EXPECT_EQ(decoded(tokenizer_, cache, 1), "Hello!<end>Farewell.<end>");
  EXPECT_EQ(decoded(tokenizer_, cache, 0), "<system>Be brief.<end><user>Hi<end><assistant><user>Bye<end><assistant>");
  write_file(folder_ / "other" / "chat_template.jinja",
             "{{ raise_exception('no system') if messages[0].role == 'system' }}");
  EXPECT_THAT(message_of([&] { run({"a.jsonl"}); }), HasSubstr("a.jsonl:1: "));
  EXPECT_THAT(message_of([&] { run({"a.jsonl"}); }), HasSubstr("no system"));
  write_file(folder_ / "other" / "chat_template.jinja", "{% if %}");
  EXPECT_THAT(message_of([&] { run({"a.jsonl"}); }), HasSubstr("the tokenizer's chat template:1: "));
  // Plain text does not need the template.
  write_file(folder_ / "a.txt", "x");
  EXPECT_NO_THROW(run({"a.txt"}));
}

TEST_F(TokenizeTest, NamesTheLineThatIsWrong) {
  const std::string good = "{\"text\": \"fine\"}\n";
  EXPECT_THAT(refusal("a.jsonl", good + good + "{\"text\": 3}\n"),
              HasSubstr("a.jsonl:3: field \"text\" must be a string"));
  EXPECT_THAT(refusal("a.jsonl", good + "\n{\"txt\": \"x\"}\n"),
              HasSubstr("a.jsonl:3: the line has no field \"text\""));
  EXPECT_THAT(refusal("a.jsonl", good + "{\"text\": \"x\"\n"), HasSubstr("a.jsonl:2: "));
  EXPECT_THAT(refusal("a.jsonl", good + "[1, 2]\n"), HasSubstr("a.jsonl:2: "));
  EXPECT_THAT(refusal("a.jsonl", good + "{\"text\": \"\xff\"}\n"), HasSubstr("a.jsonl:2: "));
  EXPECT_THAT(refusal("a.jsonl", "{\"prompt\": \"x\"}"), HasSubstr("a.jsonl:1: "));
  EXPECT_THAT(refusal("a.jsonl", "{\"prompt\": \"x\", \"completion\": \"\", \"text\": \"\"}"),
              HasSubstr("not two of them"));
  EXPECT_THAT(refusal("a.jsonl", "{\"messages\": []}"), HasSubstr("a.jsonl:1: field \"messages\" must be a list"));
  EXPECT_THAT(refusal("a.jsonl", "{\"messages\": [{\"content\": \"x\"}]}"), HasSubstr("messages[0].role"));
  EXPECT_THAT(refusal("a.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": [1]}]}"), HasSubstr("content"));
}

TEST_F(TokenizeTest, RefusesWhatIsNotUtf8AndSaysWhere) {
  EXPECT_THAT(refusal("a.txt", "caf\xe9"), HasSubstr("a.txt: the byte 0xe9"));
  const std::string text = awkward_text(3 * TextReader::kPiece);
  EXPECT_THAT(refusal("a.txt", text + "\xff" + text), HasSubstr(fmt::format("(at byte {})", text.size())));
  EXPECT_THAT(refusal("a.txt", text + "\xe5\xad"), HasSubstr(fmt::format("(at byte {})", text.size())));
  EXPECT_THAT(refusal("a.txt",
                      "\xef\xbb\xbf"
                      "ab\xff"),
              HasSubstr("(at byte 5)"));
}

TEST_F(TokenizeTest, ReadsOnceAndAgainWhenSomethingChanged) {
  write_file(folder_ / "a.txt", "one two");
  write_file(folder_ / "b.txt", "three");
  EXPECT_TRUE(reads({"a.txt", "b.txt"}));
  EXPECT_FALSE(reads({"a.txt", "b.txt"}));
  EXPECT_TRUE(reads({"b.txt", "a.txt"}));
  EXPECT_TRUE(reads({"a.txt"}));
  // Same size, same time of change: told by the file system's own time.
  const auto time = fs::last_write_time(folder_ / "a.txt");
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  write_file(folder_ / "a.txt", "one owt");
  fs::last_write_time(folder_ / "a.txt", time);
  EXPECT_TRUE(reads({"a.txt", "b.txt"}));
  // Another tokenizer, and other settings beside it.
  fs::create_directory(folder_ / "other");
  fs::copy_file(kTokenizer, folder_ / "other" / "tokenizer.json");
  tokenizer_file_ = folder_ / "other" / "tokenizer.json";
  EXPECT_TRUE(reads({"a.txt", "b.txt"}));
  EXPECT_FALSE(reads({"a.txt", "b.txt"}));
  write_file(folder_ / "other" / "tokenizer_config.json", R"({"eos_token": {"content": "e"}})");
  EXPECT_TRUE(reads({"a.txt", "b.txt"}));
  EXPECT_EQ(ids_of(run({"b.txt"}).documents().tokens).back(), tokenizer_.token_to_id("e"));
}

TEST_F(TokenizeTest, NeverTrustsADamagedCache) {
  write_file(folder_ / "a.txt", awkward_text(20'000));
  write_file(folder_ / "b.jsonl", "{\"prompt\": \"x\", \"completion\": \"y\"}");
  const std::vector<int32_t> expected = ids_of(run({"a.txt", "b.jsonl"}).documents().tokens);
  ASSERT_EQ(cached_files().size(), 6u);
  for (const fs::path& path : cached_files()) {
    const std::string good = read_file(path);
    std::string flipped = good;
    flipped[good.size() / 2] = static_cast<char>(flipped[good.size() / 2] ^ 1);
    for (const std::string& bad : {flipped, good.substr(0, good.size() - 1), good + "x", std::string()}) {
      write_file(path, bad);
      EXPECT_TRUE(reads({"a.txt", "b.jsonl"})) << path;
      EXPECT_EQ(read_file(path), good) << path;
    }
    fs::remove(path);
    EXPECT_TRUE(reads({"a.txt", "b.jsonl"})) << path;
  }
  EXPECT_TRUE(ids_of(run({"a.txt", "b.jsonl"}).documents().tokens) == expected);
  EXPECT_FALSE(reads({"a.txt", "b.jsonl"}));
}

TEST_F(TokenizeTest, SeveralAtOnceMakeOneCache) {
  write_file(folder_ / "a.txt", awkward_text(400'000));
  std::vector<std::vector<int32_t>> results(4);
  std::vector<std::thread> threads;
  for (std::vector<int32_t>& result : results) {
    threads.emplace_back([&] { result = ids_of(run({"a.txt"}).documents().tokens); });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  for (const std::vector<int32_t>& result : results) {
    EXPECT_TRUE(result == results[0]);
  }
  EXPECT_EQ(cached_files().size(), 6u);
}

TEST_F(TokenizeTest, AFailedRunLeavesNoFileBehind) {
  refusal("a.txt", awkward_text(300'000) + "\xff");
  EXPECT_TRUE(cached_files().empty());
}

}  // namespace
}  // namespace mamba::train
