// adapter_config.json: whatever the bytes, a configuration that can be written and used, or an Error.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "mamba/base/error.h"
#include "mamba/models/peft.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  mamba::models::Config model;
  model.vocab_size = 8;
  model.d_model = 4;
  model.n_layer = 3;
  mamba::models::fill_derived(model);
  try {
    const std::string text(reinterpret_cast<const char*>(data), size);
    const mamba::models::LoraConfig config = mamba::models::parse_adapter_config(text, "adapter_config.json");
    // What we write is what we read.
    const std::string written = mamba::models::adapter_config_text(config);
    if (mamba::models::adapter_config_text(mamba::models::parse_adapter_config(written, "again")) != written) {
      std::abort();
    }
    for (const mamba::models::LoraModule& module : mamba::models::lora_modules(config, model)) {
      if (module.rank < 1) {
        std::abort();
      }
    }
  } catch (const mamba::Error&) {
  }
  return 0;
}
