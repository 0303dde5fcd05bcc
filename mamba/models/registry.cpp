#include "mamba/models/registry.h"

#include "mamba/base/file.h"
#include "mamba/io/checkpoint.h"
#include "mamba/io/dtype.h"
#include "mamba/models/checkpoint.h"

namespace mamba::models {

namespace mx = mlx::core;

MambaLM load_model(const std::filesystem::path& directory, std::optional<mx::Dtype> dtype) {
  check(std::filesystem::is_directory(directory), "{}: is no folder with a model", directory.string());
  MambaLM model(read_config(directory));
  const auto source = io::open_checkpoint(directory);
  load_parameters(*source, model, dtype);
  model.prepare();
  return model;
}

void save_model(MambaLM& model, const std::filesystem::path& directory) {
  io::save_checkpoint(directory, parameters_to_save(model));
  const Json config = hugging_face_config(model.config(), dtype_name(model.dtype()));
  write_file(directory / "config.json", json_text(config, 2) + "\n");
}

mx::Dtype parse_dtype(const std::string& name) {
  if (name == "float32") {
    return mx::float32;
  }
  if (name == "bfloat16") {
    return mx::bfloat16;
  }
  if (name == "float16") {
    return mx::float16;
  }
  throw UsageError(fmt::format("dtype must be float32, bfloat16 or float16 but is {}", quote(name)));
}

std::string dtype_name(mx::Dtype dtype) {
  return std::string(io::dtype_name(dtype));
}

}  // namespace mamba::models
