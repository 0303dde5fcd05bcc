// Which of the things in a pickle are a model's tensors, and whether they are what they claim.
#pragma once

#include <map>
#include <string>

#include "mamba/io/pickle.h"
#include "mamba/io/tensor_source.h"

namespace mamba::io {

// The tensors of the state dict: those of the dict that the pickle holds, or of the one that training programs put
// under "state_dict", "model_state_dict", "model" or "module" beside other things (at most four deep). What is not a
// tensor there (step counts, lists, optimizer states) is passed over. Throws ParseError when there are no tensors,
// naming the keys that there are.
std::map<std::string, PickledTensor> find_state_dict(const Pickle& pickle, const std::string& file);

// A tensor's place in its storage, checked: inside the storage, dtype known, sizes sane.
struct TensorView {
  TensorInfo info;
  uint64_t offset;               // in bytes from the start of the storage
  std::vector<int64_t> strides;  // in items
  bool contiguous;               // row-contiguous: can be used as it lies
};

// `storage_bytes` is what the archive holds for the tensor's storage, `at` where. Throws ParseError naming the tensor.
TensorView check_tensor(const std::string& name, const PickledTensor& tensor, uint64_t storage_bytes,
                        const std::string& file, int64_t at);

}  // namespace mamba::io
