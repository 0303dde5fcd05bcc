#include "mamba/text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "mamba/base/error.h"
#include "mamba/base/file.h"
#include "mamba/base/json.h"

namespace mamba::text {
namespace {

using Json = OrderedJson;
using testing::HasSubstr;

const Json& expected() {
  static const Json json =
      parse_ordered_json(read_file(std::filesystem::path(MAMBA_SOURCE_DIR) / "tests/golden/chat/expected.json"));
  return json;
}

// Null where the template fails.
Json rendered(const std::string& source, const Json& messages, const ChatOptions& options) {
  try {
    return ChatTemplate(source, "template").render(messages, options);
  } catch (const Error&) {
    return nullptr;
  }
}

std::string refusal(const std::string& source, const Json& messages = Json::array()) {
  try {
    return "rendered: " + ChatTemplate(source, "t.jinja").render(messages);
  } catch (const Error& error) {
    return error.what();
  }
}

TEST(ChatTemplate, EqualsJinjaOnWholeTemplates) {
  int refused = 0;
  for (const Json& item : expected()["cases"]) {
    ChatOptions options{.bos_token = "<s>", .eos_token = "</s>", .add_generation_prompt = item["prompt"]};
    if (item["tools"].get<bool>()) {
      options.tools = expected()["tools"];
    }
    const auto source = expected()["templates"][item["template"].get<std::string>()].get<std::string>();
    EXPECT_EQ(rendered(source, expected()["chats"][item["chat"].get<std::string>()], options), item["text"])
        << item["template"] << " " << item["chat"];
    refused += item["text"].is_null() ? 1 : 0;
  }
  EXPECT_GT(refused, 5);
}

TEST(ChatTemplate, EqualsJinjaInTheDetails) {
  for (const Json& item : expected()["snippets"]) {
    EXPECT_EQ(rendered(item["template"], expected()["chats"]["answer"], {.bos_token = "<s>", .eos_token = "</s>"}),
              item["text"])
        << item["template"].get<std::string>();
  }
}

TEST(ChatTemplate, SaysWhereAndWhat) {
  EXPECT_THAT(refusal("a\n\n{% if x %}"), HasSubstr("t.jinja:3: a block has no end: \"endif\" is missing"));
  EXPECT_THAT(refusal("a\n{{ 1 + }}"), HasSubstr("t.jinja:2: an expression is missing"));
  EXPECT_THAT(refusal("{% include 'x' %}"), HasSubstr("the block \"include\" is not supported"));
  EXPECT_THAT(refusal("{{ x"), HasSubstr("\"}}\" is missing"));
  EXPECT_THAT(refusal("{# x"), HasSubstr("a comment has no end"));
  EXPECT_THAT(refusal("{{ 'x }}"), HasSubstr("a string has no end"));
  EXPECT_THAT(refusal("{{ (1] }}"), HasSubstr("closes nothing"));
  EXPECT_THAT(refusal("\n{{ m.content.text }}"), HasSubstr("t.jinja:2: \"m\" is undefined"));
  EXPECT_THAT(refusal("{{ raise_exception('Roles must alternate') }}"), HasSubstr("Roles must alternate"));
  EXPECT_THAT(refusal("\n\n{% for i in [1] %}\n{{ 1 / 0 }}{% endfor %}"), HasSubstr("t.jinja:4: division by zero"));
  EXPECT_THAT(refusal("\xff"), HasSubstr("not UTF-8"));
}

TEST(ChatTemplate, BoundsTimeMemoryAndNesting) {
#ifndef MAMBA_SANITIZED  // four million times round a loop take 15 s there
  EXPECT_THAT(refusal("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"),
              HasSubstr("steps"));
#endif
  EXPECT_THAT(refusal("{% for i in range(99999) %}{% set sorted = range(9999) | sort %}{% endfor %}"),
              HasSubstr("steps"));
  EXPECT_THAT(
      refusal("{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}"),
      HasSubstr("longer"));
  EXPECT_THAT(refusal("{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}"
                      "{{ ns.l }}"),
              HasSubstr("longer"));
  EXPECT_THAT(refusal("{% set ns = namespace(l=[1]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}{% endfor %}"),
              HasSubstr("deep"));
  EXPECT_THAT(refusal("{% set ns = namespace() %}{% set ns.me = [ns] %}"), HasSubstr("namespace"));
  EXPECT_THAT(refusal("{{ 'x' * 999999999999 }}"), HasSubstr("too long"));
  EXPECT_THAT(refusal("{{ 9223372036854775807 + 1 }}"), HasSubstr("too large"));
  EXPECT_THAT(refusal("{% macro m(n) %}{{ m(n) }}{% endmacro %}{{ m(1) }}"), HasSubstr("nested deeper"));
  EXPECT_THAT(refusal("{{ " + std::string(100'000, '(') + std::string(100'000, ')') + "}}"),
              HasSubstr("nested deeper"));
  EXPECT_THAT(refusal("{{ " + std::string(100'000, '-') + "1 }}"), HasSubstr("nested deeper"));
  std::string ifs;
  std::string sums = "{{ 1";
  for (int i = 0; i < 10'000; ++i) {
    ifs += "{% if 1 %}";
    sums += " + 1";
  }
  EXPECT_THAT(refusal(ifs), HasSubstr("nested deeper"));
  EXPECT_THAT(refusal(sums + " }}"), HasSubstr("in a row"));
}

// The parts of the text that are answers, in brackets.
std::string marked(const ChatTemplate& chat, const Json& messages) {
  const ChatTemplate::Answers answers = chat.render_with_answers(messages, {.bos_token = "<s>", .eos_token = "</s>"});
  std::string out;
  size_t done = 0;
  for (const auto& [begin, end] : answers.spans) {
    out += answers.text.substr(done, begin - done) + "[[" + answers.text.substr(begin, end - begin) + "]]";
    done = end;
  }
  return out + answers.text.substr(done);
}

std::string marked(const char* name, const char* chat) {
  return marked(ChatTemplate(expected()["templates"][name].get<std::string>(), name), expected()["chats"][chat]);
}

TEST(ChatTemplate, KnowsWhichPartsAreAnswers) {
  EXPECT_EQ(
      marked("chatml", "long"),
      "<|im_start|>system\nYou answer in verse.<|im_end|>\n<|im_start|>user\nWas ist gr\u00f6\u00dfer als 5 "
      "\u4e00?<|im_end|>\n<|im_start|>assistant\n[[<think>\nhm, 6\n</think>\n\nSix is.<|im_end|>]]\n<|im_start|>user\n"
      "And \"7\" <b>&amp;</b>?\n\nReally?<|im_end|>\n<|im_start|>assistant\n[[<think>so</think>Yes, it's "
      "\U0001f600.<|im_end|>]]\n");
  EXPECT_EQ(marked("llama2", "answer"), "<s>[INST] Hi there. [/INST][[ Hello! </s>]]");
  EXPECT_EQ(marked("generation", "answer"), "<|user|>\n  Hi there. \n<|assistant|>\n[[\nHello!\n</s>]]\n");
  EXPECT_EQ(marked("gemma", "answer"),
            "<s><start_of_turn>user\nHi there.<end_of_turn>\n<start_of_turn>model\n[[Hello!<end_of_turn>]]\n");
  EXPECT_EQ(marked(ChatTemplate::standard(), expected()["chats"]["answer"]),
            "<|user|>\n  Hi there. \n<|assistant|>\n[[\nHello!\n</s>]]\n");
  // The first answer loses its thoughts when a second question follows.
  EXPECT_THAT([] { marked("qwen", "long"); }, testing::ThrowsMessage<Error>(HasSubstr("{% generation %}")));
  EXPECT_EQ(marked("qwen", "answer"),
            "<!-- last question -->\n<|im_start|>user\n  Hi there. <|im_end|>\n"
            "<|im_start|>assistant\n[[\nHello!\n<|im_end|>]]\n");
  // Nothing but a newline ends the answer.
  EXPECT_EQ(marked(ChatTemplate("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
                                "{% if add_generation_prompt %}assistant: {% endif %}",
                                "plain"),
                   parse_ordered_json(R"([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}])")),
            "user: x\nassistant: [[y\n]]");
}

TEST(ChatTemplate, DefinesTheTokensThatThereAre) {
  const ChatTemplate chat("{{ bos_token is defined }} {{ eos_token is defined }} {{ tools is none }}", "t");
  EXPECT_EQ(chat.render(Json::array(), {.bos_token = "<s>"}), "True False True");
}

}  // namespace
}  // namespace mamba::text
