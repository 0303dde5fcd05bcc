// Equality with Hugging Face's tokenizers, on the files that tools/make_golden_tokenizer.py made.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <map>

#include "mamba/base/file.h"
#include "mamba/base/json.h"
#include "mamba/text/stream_decoder.h"
#include "mamba/text/tokenizer.h"
#include "mamba/text/unicode.h"

namespace mamba::text {
namespace {

namespace fs = std::filesystem;

const fs::path kGoldens = fs::path(MAMBA_SOURCE_DIR) / "tests/golden/tokenizer";

const Json& golden(const std::string& name) {
  static std::map<std::string, Json> files;
  if (!files.contains(name)) {
    files[name] = read_json(kGoldens / (name + ".json"));
  }
  return files.at(name);
}

std::string hash(std::string_view bytes) {
  uint64_t h = 0xcbf29ce484222325u;
  for (unsigned char c : bytes) {
    h = (h ^ c) * 0x100000001b3u;
  }
  return fmt::format("{:016x}", h);
}

std::string hash(const std::vector<int32_t>& ids) {
  std::string bytes;
  for (int32_t id : ids) {
    for (int shift = 0; shift < 32; shift += 8) {
      bytes += static_cast<char>(static_cast<uint32_t>(id) >> shift & 0xff);
    }
  }
  return hash(bytes);
}

std::vector<std::string> corpus() {
  std::vector<std::string> texts;
  for (const auto& item : golden("corpus").at("texts_hex")) {
    const auto hex = item.get<std::string>();
    std::string text;
    for (size_t i = 0; i < hex.size(); i += 2) {
      text += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
    }
    texts.push_back(text);
  }
  return texts;
}

std::string every_character() {
  std::string text;
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c < 0xd800 || c > 0xdfff) {
      append_utf8(text, c);
      if (c % 3 == 0) {
        text += 'a';
      }
    }
  }
  return text;
}

std::string streamed(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip) {
  StreamDecoder stream(tokenizer, IllFormed::kReplace, skip);
  std::string text;
  for (int32_t id : ids) {
    const std::string part = stream.push(id);
    EXPECT_EQ(well_formed_prefix(part), part.size());
    text += part;
  }
  return text + stream.finish();
}

// `lossy_bytes`: with a ByteFallback decoder ill-formed runs are replaced differently (see decode_utf8).
void check_expected(const Tokenizer& tokenizer, const Json& expected, bool lossy_bytes) {
  const std::vector<std::string> texts = corpus();
  ASSERT_EQ(texts.size(), expected.at("texts").size());
  for (size_t i = 0; i < texts.size(); ++i) {
    SCOPED_TRACE(fmt::format("text {}: {}", i, quote(texts[i])));
    const std::vector<int32_t> ids = tokenizer.encode(texts[i]);
    if (expected.contains("ids")) {
      EXPECT_EQ(ids, expected["ids"][i].get<std::vector<int32_t>>());
    }
    const std::string decoded = tokenizer.decode_utf8(ids, true);
    EXPECT_EQ(hash(ids).substr(0, 6) + " " + hash(decoded).substr(0, 6), expected["texts"][i].get<std::string>());
    EXPECT_EQ(streamed(tokenizer, ids, true), decoded);
  }
  size_t at = 0;
  for (const Json& list : golden("corpus").at("id_lists")) {
    const auto ids = list.get<std::vector<int32_t>>();
    for (bool skip : {false, true}) {
      const std::string decoded = tokenizer.decode_utf8(ids, skip);
      EXPECT_EQ(streamed(tokenizer, ids, skip), decoded);
      const auto want = expected["decoded"][at++].get<std::string>();
      if (!lossy_bytes) {
        EXPECT_EQ(hash(decoded).substr(0, 6), want) << fmt::format("ids {}", fmt::join(ids, ","));
      }
    }
  }
  if (expected.contains("every_character")) {
    const std::vector<int32_t> ids = tokenizer.encode(every_character());
    EXPECT_EQ(fmt::format("{} {}", ids.size(), hash(ids)), expected["every_character"].get<std::string>());
  }
}

Tokenizer case_tokenizer(const Json& item) {
  Json json = golden(item.at("base").get<std::string>());
  json.merge_patch(item.at("patch"));
  return Tokenizer::from_json_text(json_text(json), item.at("name").get<std::string>() + ".json");
}

class GoldenCase : public testing::TestWithParam<std::string> {};

TEST_P(GoldenCase, EqualsTokenizers) {
  for (const Json& item : golden("cases")) {
    if (item.at("name") == GetParam()) {
      check_expected(case_tokenizer(item), golden("expected").at(GetParam()), GetParam() == "llama2");
    }
  }
}

std::vector<std::string> case_names() {
  std::vector<std::string> names;
  for (const Json& item : golden("cases")) {
    names.push_back(item.at("name"));
  }
  return names;
}

INSTANTIATE_TEST_SUITE_P(All, GoldenCase, testing::ValuesIn(case_names()),
                         [](const auto& param_info) { return param_info.param; });

// Real tokenizers and texts lie outside the repository.
fs::path data_file(const std::string& name) {
  const char* folder = std::getenv("MAMBA_TEST_DATA");
  const fs::path path = (folder != nullptr ? fs::path(folder) : fs::path(MAMBA_SOURCE_DIR) / "../shared/data") / name;
  return fs::exists(path) ? path : fs::path();
}

TEST(Golden, GptNeoX) {
  const fs::path file = data_file("gpt-neox-20b-tokenizer.json");
  if (file.empty()) {
    GTEST_SKIP() << "gpt-neox-20b-tokenizer.json is not at hand (MAMBA_TEST_DATA names its folder)";
  }
  const Tokenizer tokenizer = Tokenizer::from_file(file);
  EXPECT_EQ(tokenizer.vocab_size(), 50277);
  EXPECT_EQ(tokenizer.max_id(), 50276);
  check_expected(tokenizer, golden("expected").at("gpt-neox-20b"), false);
}

TEST(Golden, TinyShakespeare) {
  const fs::path file = data_file("gpt-neox-20b-tokenizer.json");
  const fs::path text_file = data_file("tinyshakespeare.txt");
  if (file.empty() || text_file.empty()) {
    GTEST_SKIP() << "gpt-neox-20b-tokenizer.json or tinyshakespeare.txt is not at hand";
  }
  const Tokenizer tokenizer = Tokenizer::from_file(file);
  const std::string text = read_file(text_file);
  const std::vector<int32_t> ids = tokenizer.encode(text);
  EXPECT_EQ(fmt::format("{} {}", ids.size(), hash(ids)),
            golden("expected").at("gpt-neox-20b").at("shakespeare").get<std::string>());
  EXPECT_EQ(tokenizer.decode(ids), text);
}

}  // namespace
}  // namespace mamba::text
