// oneDNN runs here as a library of single-threaded kernels: the product is cut into tiles of at most kBlockRows x
// kTileColumns, tasks of the pool that all processors share. Rows are copied next to each other first, each group from
// a fresh block on and padded with zeros to a multiple of kRowStep, so that few shapes are ever compiled and a group is
// always multiplied in the same pieces.
//
// Debian's oneDNN uses OpenMP. With one thread per call it opens no parallel region; how many a call uses is decided by
// the calling thread's setting when the primitive is made.

#include "mamba/ops/linear/onednn.h"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <dnnl.hpp>
#include <map>
#include <memory>
#include <mutex>

#include "mamba/base/threads.h"
#include "mamba/ops/cpu/avx512_bf16.h"
#include "mamba/ops/linear/convert.h"

namespace mamba::ops::linear_detail {

namespace {

constexpr int64_t kBlockRows = 256;
constexpr int64_t kRowStep = 32;
constexpr int64_t kTileColumns = 128;
constexpr size_t kMaxPrimitives = 256;

std::atomic<bool> always{false};

constexpr int64_t padded_rows(int64_t rows) {
  return (rows + kRowStep - 1) / kRowStep * kRowStep;
}

// Affects the calling thread alone.
void use_one_openmp_thread() {
  using SetThreads = void (*)(int);
  static const auto set_threads = reinterpret_cast<SetThreads>(dlsym(RTLD_DEFAULT, "omp_set_num_threads"));
  thread_local bool done = false;
  if (!done && set_threads != nullptr) {
    set_threads(1);
  }
  done = true;
}

struct Kernel {
  dnnl::matmul matmul;
  dnnl::memory::desc left, right, out, scratchpad;
};

struct Shape {
  int64_t rows, columns, k;
  int64_t n_stride, k_stride;  // of the right operand
  Float type;
  int64_t out_stride;
  Float out_type;
  bool add;  // to what the result's memory holds

  auto operator<=>(const Shape&) const = default;
};

dnnl::memory::data_type data_type(Float type) {
  return type == Float::kFloat32    ? dnnl::memory::data_type::f32
         : type == Float::kBfloat16 ? dnnl::memory::data_type::bf16
                                    : dnnl::memory::data_type::f16;
}

const dnnl::engine& engine() {
  static const dnnl::engine* const cpu = new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return *cpu;
}

std::shared_ptr<const Kernel> make_kernel(const Shape& shape) {
  using dims = dnnl::memory::dims;
  const dnnl::memory::desc left(dims{shape.rows, shape.k}, data_type(shape.type), dims{shape.k, 1});
  const dnnl::memory::desc right(dims{shape.k, shape.columns}, data_type(shape.type),
                                 dims{shape.k_stride, shape.n_stride});
  const dnnl::memory::desc out(dims{shape.rows, shape.columns}, data_type(shape.out_type), dims{shape.out_stride, 1});
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (shape.add) {
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    attributes.set_post_ops(sum);
  }
  const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(left, right, out), attributes, engine());
  return std::make_shared<const Kernel>(Kernel{.matmul = dnnl::matmul(description),
                                               .left = left,
                                               .right = right,
                                               .out = out,
                                               .scratchpad = description.scratchpad_desc()});
}

std::shared_ptr<const Kernel> kernel_for(const Shape& shape) {
  static std::mutex& mutex = *new std::mutex;
  static auto& kernels = *new std::map<Shape, std::shared_ptr<const Kernel>>;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = kernels.find(shape);
  if (found != kernels.end()) {
    return found->second;
  }
  if (kernels.size() >= kMaxPrimitives) {
    kernels.clear();
  }
  return kernels.emplace(shape, make_kernel(shape)).first->second;
}

// Memory of one thread that only grows.
class ThreadScratch {
 public:
  ~ThreadScratch() { std::free(data_); }

  void* get(size_t bytes) {
    if (bytes > size_) {
      std::free(data_);
      size_ = 0;
      data_ = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
      if (data_ == nullptr) {
        throw std::bad_alloc();
      }
      size_ = bytes;
    }
    return data_;
  }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

struct Block {
  int64_t row;  // of the product
  int64_t rows;
  int64_t packed;      // row of the packed copy
  int64_t out_stride;  // elements from one row of the results to the next; -1 where they differ
};

int64_t stride_of(const OutRows& out, int64_t first, int64_t rows) {
  const auto at = [&](int64_t row) {
    return static_cast<const std::byte*>(out.rows[static_cast<size_t>(first + row)]);
  };
  const int64_t bytes = rows > 1 ? at(1) - at(0) : -1;
  for (int64_t row = 2; row < rows; ++row) {
    if (at(row) - at(row - 1) != bytes) {
      return -1;
    }
  }
  return bytes % size_of(out.type) == 0 ? bytes / size_of(out.type) : -1;
}

std::vector<Block> blocks_of(const std::vector<int64_t>& groups, const OutRows& out) {
  std::vector<Block> blocks;
  int64_t row = 0;
  int64_t packed = 0;
  for (const int64_t group : groups) {
    for (int64_t done = 0; done < group; done += kBlockRows) {
      const int64_t rows = std::min(kBlockRows, group - done);
      blocks.push_back({.row = row, .rows = rows, .packed = packed, .out_stride = stride_of(out, row, rows)});
      row += rows;
      packed += padded_rows(rows);
    }
  }
  return blocks;
}

template <typename T>
void pack_block(const Product& product, const Block& block, T* packed) {
  const auto k = static_cast<size_t>(product.k);
  const std::vector<const void*>& rows = product.left.rows.rows;
  T* to = packed + block.packed * product.k;
  if (product.left.transposed) {
    transpose(product.left.rows, block.row, block.rows, to);
  } else {
    for (int64_t i = 0; i < block.rows; ++i) {
      std::memcpy(to + static_cast<size_t>(i) * k, rows[static_cast<size_t>(block.row + i)], k * sizeof(T));
    }
  }
  std::fill(to + block.rows * product.k, to + padded_rows(block.rows) * product.k, T{});
}

float as_float(float value) {
  return value;
}
float as_float(uint16_t bfloat16) {
  return std::bit_cast<float>(static_cast<uint32_t>(bfloat16) << 16);
}

// Columns [n, n + columns) of a block's row i, in float32, to where they belong. Changes `row`.
void finish_row(const Product& product, int64_t i, int64_t n, int64_t columns, float* row) {
  auto* to = static_cast<std::byte*>(product.out.rows[static_cast<size_t>(i)]) + n * size_of(product.out.type);
  for (int64_t j = 0; j < columns && product.bias != nullptr; ++j) {
    row[j] += product.bias[n + j];
  }
  for (int64_t j = 0; j < columns && product.add; ++j) {
    row[j] += reinterpret_cast<const float*>(to)[j];
  }
  narrow(row, columns, product.out.type, to);
}

struct Tile {
  const Product& product;
  const Block& block;
  int64_t n;

  int64_t columns() const { return std::min(kTileColumns, product.n - n); }
  int64_t n_stride() const { return product.right.by_k ? 1 : product.right.matrix.stride; }
  int64_t k_stride() const { return product.right.by_k ? product.right.matrix.stride : 1; }
  // Where oneDNN can leave the results themselves: whole blocks, rows at equal distances, of a dtype that it writes.
  bool direct() const {
    return block.rows == padded_rows(block.rows) && product.bias == nullptr && product.addend.rows.empty() &&
           product.out.type != Float::kFloat16 && block.out_stride >= columns();
  }
  void* out() const {
    return static_cast<std::byte*>(product.out.rows[static_cast<size_t>(block.row)]) + n * size_of(product.out.type);
  }
  Shape shape() const {
    const bool in_place = direct();
    return {.rows = padded_rows(block.rows),
            .columns = columns(),
            .k = product.k,
            .n_stride = n_stride(),
            .k_stride = k_stride(),
            .type = product.left.rows.type,
            .out_stride = in_place ? block.out_stride : columns(),
            .out_type = in_place ? product.out.type : Float::kFloat32,
            .add = in_place && product.add};
  }
};

template <typename T>
void multiply_tile(const Tile& tile, const T* left, const T* right) {
  thread_local ThreadScratch sums_memory;
  thread_local ThreadScratch scratchpad_memory;
  const std::shared_ptr<const Kernel> kernel = kernel_for(tile.shape());
  const bool in_place = tile.direct();
  auto* sums = static_cast<float*>(sums_memory.get(kBlockRows * kTileColumns * sizeof(float)));
  void* scratchpad = scratchpad_memory.get(std::max<size_t>(1, kernel->scratchpad.get_size()));
  dnnl::stream stream(engine());
  kernel->matmul.execute(stream, {{DNNL_ARG_SRC, dnnl::memory(kernel->left, engine(), const_cast<T*>(left))},
                                  {DNNL_ARG_WEIGHTS, dnnl::memory(kernel->right, engine(), const_cast<T*>(right))},
                                  {DNNL_ARG_DST, dnnl::memory(kernel->out, engine(), in_place ? tile.out() : sums)},
                                  {DNNL_ARG_SCRATCHPAD, dnnl::memory(kernel->scratchpad, engine(), scratchpad)}});
  stream.wait();
  for (int64_t i = 0; !in_place && i < tile.block.rows; ++i) {
    finish_row(tile.product, tile.block.row + i, tile.n, tile.columns(), sums + i * tile.columns());
  }
}

// For a tile that oneDNN could not run, say for want of memory.
template <typename T>
void multiply_tile_plainly(const Tile& tile, const T* left, const T* right) {
  std::array<float, kTileColumns> sums;
  for (int64_t i = 0; i < tile.block.rows; ++i) {
    for (int64_t j = 0; j < tile.columns(); ++j) {
      float sum = 0;
      for (int64_t l = 0; l < tile.product.k; ++l) {
        sum += as_float(left[i * tile.product.k + l]) * as_float(right[j * tile.n_stride() + l * tile.k_stride()]);
      }
      sums[static_cast<size_t>(j)] = sum;
    }
    finish_row(tile.product, tile.block.row + i, tile.n, tile.columns(), sums.data());
  }
}

template <typename T>
void run(const Product& product, const std::vector<int64_t>& groups, T* packed) {
  const std::vector<Block> blocks = blocks_of(groups, product.out);
  const auto count = static_cast<int64_t>(blocks.size());
  const int64_t tiles = (product.n + kTileColumns - 1) / kTileColumns;
  const auto tile_of = [&](int64_t task) {
    return Tile{
        .product = product, .block = blocks[static_cast<size_t>(task % count)], .n = task / count * kTileColumns};
  };
  // Making kernels is what can fail, so it comes before anything is written.
  use_one_openmp_thread();
  for (int64_t task = 0; task < tiles * count; ++task) {
    if (task < count || task >= (tiles - 1) * count) {
      kernel_for(tile_of(task).shape());
    }
  }
  parallel_for(count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      pack_block(product, blocks[static_cast<size_t>(i)], packed);
    }
  });
  // Blocks inside columns: the right operand's tile is still in the cache for the next block.
  parallel_for(tiles * count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const Tile tile = tile_of(task);
      const T* left = packed + tile.block.packed * product.k;
      const T* right = static_cast<const T*>(product.right.matrix.data) + tile.n * tile.n_stride();
      try {
        use_one_openmp_thread();
        multiply_tile(tile, left, right);
      } catch (...) {
        multiply_tile_plainly(tile, left, right);
      }
    }
  });
}

}  // namespace

bool onednn_multiplies(Float left, Float right) {
  static const bool has_units = [] {
    const dnnl::cpu_isa isa = dnnl::get_effective_cpu_isa();
    return isa == dnnl::cpu_isa::avx512_core_bf16 || isa == dnnl::cpu_isa::avx512_core_amx;
  }();
  return left == right && (left == Float::kBfloat16  ? has_units
                           : left == Float::kFloat32 ? always.load(std::memory_order_relaxed)
                                                     : false);
}

bool always_onednn() {
  return always.load(std::memory_order_relaxed);
}

void set_always_onednn(bool on) {
  always.store(on);
}

int64_t onednn_workspace(int64_t m, int64_t groups, int64_t k, Float type) {
  return (m + groups * kRowStep + m / kBlockRows * kRowStep) * k * size_of(type) / 4 + 1;
}

bool onednn_product(const Product& product, const std::vector<int64_t>& groups, float* workspace) {
  try {
    if (product.left.rows.type == Float::kFloat32) {
      run(product, groups, workspace);
    } else {
      run(product, groups, reinterpret_cast<uint16_t*>(workspace));
    }
    return true;
  } catch (...) {
    return false;
  }
}

}  // namespace mamba::ops::linear_detail
