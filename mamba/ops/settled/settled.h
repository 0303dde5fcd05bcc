// Arrays whose contents SlicedWork is still making (base/sliced_work.h).
//
// settled() is the same array for everybody else: whoever evaluates it waits for all of the work. rows_at() looks up
// rows and waits for those alone.
#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <cstdint>
#include <memory>

#include "mamba/base/sliced_work.h"

namespace mamba::ops {

//   a  made by a CPU node that begins `work`, of which slice i writes elements [i, i + 1) * slice_elements of `a`, in
//      the order of its rows. The result shares its memory.
mlx::core::array settled(const mlx::core::array& a, std::shared_ptr<SlicedWork> work, int64_t slice_elements,
                         mlx::core::StreamOrDevice s = {});

// table[ids]: rows of a table (rows, K), (..., K). As mx::take(table, ids, 0), which it is unless `table` comes from
// settled() and has not been evaluated.
mlx::core::array rows_at(const mlx::core::array& table, const mlx::core::array& ids, mlx::core::StreamOrDevice s = {});

}  // namespace mamba::ops
