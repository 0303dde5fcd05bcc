// Lists in a tokenizer.json.
#pragma once

#include <string>
#include <vector>

#include "mamba/base/json.h"

namespace mamba::text {

// The items of a list field, each of which must be an object; they live as long as `owner`'s value.
inline std::vector<JsonObject> objects_in(const JsonObject& owner, const std::string& key) {
  const Json* list = owner.find(key);
  if (list == nullptr || !list->is_array()) {
    owner.fail(fmt::format("field {} must be a list", quote(key)));
  }
  std::vector<JsonObject> items;
  for (size_t i = 0; i < list->size(); ++i) {
    items.emplace_back((*list)[i], owner.file(), fmt::format("{}[{}]", key, i));
  }
  return items;
}

// A field that holds one character.
std::string character_in(const JsonObject& owner, const std::string& key);

}  // namespace mamba::text
