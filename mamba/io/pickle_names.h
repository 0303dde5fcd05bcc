// The names that a state dict's pickle may use, and the names of opcodes for messages.
#pragma once

#include <mlx/dtype.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace mamba::io {

struct PickleGlobal {
  enum class Role : uint8_t {
    ordered_dict,
    rebuild_tensor,
    rebuild_tensor_v2,
    rebuild_tensor_v3,
    rebuild_parameter,
    rebuild_parameter_with_state,
    size,
    device,
    storage,        // torch.FloatStorage: items of one dtype
    bytes_storage,  // torch.storage.UntypedStorage
    dtype,
  };
  Role role;
  std::string_view dtype_name;            // for storage and dtype: "float32", "float8_e4m3fn"
  std::optional<mlx::core::Dtype> dtype;  // nothing where MLX has no such dtype
};

// Nothing for a name that is not on the list.
std::optional<PickleGlobal> find_pickle_global(std::string_view module, std::string_view name);

// "REDUCE"; "0xff" for a byte that is no opcode.
std::string pickle_opcode_name(uint8_t opcode);

}  // namespace mamba::io
