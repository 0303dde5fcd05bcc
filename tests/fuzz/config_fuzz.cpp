// config.json: whatever the bytes, a configuration whose sizes are sane, or a ParseError.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "mamba/models/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    mamba::models::Config config = mamba::models::parse_config(mamba::parse_json(text, "config.json"), "config.json");
    if (config.vocab_size < 1 || config.d_model < 1 || config.n_layer < 1 || config.d_inner < 1 || config.dt_rank < 1 ||
        config.d_state < 1 || config.d_conv < 1 || config.parameter_count() < 1) {
      std::abort();
    }
    // What we write is what we read.
    const mamba::models::Config again =
        mamba::models::parse_config(mamba::models::hugging_face_config(config, "float32"), "again");
    const auto quantization = [](const mamba::models::Config& c) {
      return c.quantization.value_or(mamba::models::QuantizationConfig{.common = {.group_size = 0, .bits = 0}});
    };
    if (again.parameter_count() != config.parameter_count() ||
        again.quantization.has_value() != config.quantization.has_value() ||
        quantization(again).common != quantization(config).common ||
        quantization(again).modules != quantization(config).modules) {
      std::abort();
    }
  } catch (const mamba::ParseError&) {
  }
  return 0;
}
