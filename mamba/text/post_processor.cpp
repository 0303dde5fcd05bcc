#include "mamba/text/post_processor.h"

#include "mamba/text/json_list.h"

namespace mamba::text {

PostProcessor PostProcessor::from_json(const JsonObject& tokenizer) {
  PostProcessor processor;
  if (tokenizer.has("post_processor")) {
    processor.add(tokenizer.object("post_processor"));
  }
  return processor;
}

void PostProcessor::add(const JsonObject& value) {
  const std::string type = value.string("type");
  if (type == "ByteLevel") {
    return;
  }
  if (type == "Sequence") {
    for (const JsonObject& item : objects_in(value, "processors")) {
      add(item);
    }
    return;
  }
  if (!pieces_.empty()) {
    value.fail("more than one post-processor that adds tokens is not supported");
  }
  if (type == "TemplateProcessing") {
    set_template(value);
  } else if (type == "BertProcessing" || type == "RobertaProcessing") {
    const auto id_of = [&](const char* key) {
      const Json* pair = value.find(key);
      if (pair == nullptr || !pair->is_array() || pair->size() != 2 || !(*pair)[1].is_number_unsigned() ||
          (*pair)[1].get<uint64_t>() > INT32_MAX) {
        value.fail(fmt::format("post-processor {}: field {} must be a token and its id", type, quote(key)));
      }
      return (*pair)[1].get<int32_t>();
    };
    pieces_ = {{false, {id_of("cls")}}, {true, {}}, {false, {id_of("sep")}}};
  } else {
    value.fail(fmt::format("post-processor {} is not supported", quote(type)));
  }
}

void PostProcessor::set_template(const JsonObject& value) {
  const JsonObject special = value.object("special_tokens");
  size_t texts = 0;
  for (const JsonObject& item : objects_in(value, "single")) {
    if (item.has("Sequence")) {
      const JsonObject sequence = item.object("Sequence");
      if (sequence.string("id") != "A" || ++texts > 1) {
        value.fail("the template for a single text must hold it once, as sequence \"A\"");
      }
      pieces_.push_back({true, {}});
      continue;
    }
    const std::string name = item.object("SpecialToken").string("id");
    const JsonObject token = special.object(name);
    const Json* ids = token.find("ids");
    if (ids == nullptr || !ids->is_array()) {
      value.fail(fmt::format("special token {} must have a list of ids", quote(name)));
    }
    Piece piece{false, {}};
    for (const Json& id : *ids) {
      if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX) {
        value.fail(fmt::format("special token {} has an id that is no number from 0 to {}", quote(name), INT32_MAX));
      }
      piece.ids.push_back(id.get<int32_t>());
    }
    pieces_.push_back(std::move(piece));
  }
  if (texts == 0) {
    value.fail("the template for a single text must hold it once, as sequence \"A\"");
  }
}

std::vector<int32_t> PostProcessor::apply(std::vector<int32_t> ids, bool add_special_tokens) const {
  if (pieces_.empty() || !add_special_tokens) {
    return ids;
  }
  std::vector<int32_t> out;
  for (const Piece& piece : pieces_) {
    const std::vector<int32_t>& part = piece.is_text ? ids : piece.ids;
    out.insert(out.end(), part.begin(), part.end());
  }
  return out;
}

}  // namespace mamba::text
