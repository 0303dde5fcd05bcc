#include "mamba/models/shapes.h"

#include "mamba/base/error.h"

namespace mamba::models {

namespace {

struct Shape {
  const char* name;
  int n_layer;
  int d_model;
};

constexpr Shape kShapes[] = {
    {"130m", 24, 768}, {"370m", 48, 1024}, {"790m", 48, 1536}, {"1.4b", 48, 2048}, {"2.8b", 64, 2560}};
constexpr int kVocabulary = 50280;  // GPT-NeoX's 50277, rounded up to 8

}  // namespace

std::vector<std::string> shape_names() {
  std::vector<std::string> names;
  for (const Shape& shape : kShapes) {
    names.emplace_back(shape.name);
  }
  return names;
}

Config published_shape(const std::string& name) {
  for (const Shape& shape : kShapes) {
    if (name == shape.name) {
      Config config;
      config.vocab_size = kVocabulary;
      config.d_model = shape.d_model;
      config.n_layer = shape.n_layer;
      fill_derived(config);
      return config;
    }
  }
  throw UsageError(
      fmt::format("there is no shape {}: the published ones are {}", quote(name), fmt::join(shape_names(), ", ")));
}

}  // namespace mamba::models
