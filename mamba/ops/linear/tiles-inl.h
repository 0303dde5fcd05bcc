// Pieces of products on AMX: tiles of 16 rows of 64 bytes, those of the processor and a stand-in of plain C++, by which
// tests run everything around them on any processor. A tile is named by a number known when it is compiled.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>

#include "mamba/ops/cpu/amx.h"

namespace mamba::ops::linear_detail {
namespace {

constexpr int64_t kTileRows = 16;
constexpr int64_t kTileRowBytes = 64;

constexpr int kTiles = 8;

// Tiles may be smaller than they could be.
struct TileShape {
  int64_t rows = kTileRows;
  int64_t row_bytes = kTileRowBytes;
};
using TileShapes = std::array<TileShape, kTiles>;

#ifdef MAMBA_AMX
// The tiles of the thread that made it, until it goes.
class ProcessorTiles {
 public:
  explicit ProcessorTiles(const TileShapes& shapes = {}) {
    Config config;
    for (size_t i = 0; i < shapes.size(); ++i) {
      config.row_bytes[i] = static_cast<uint16_t>(shapes[i].row_bytes);
      config.rows[i] = static_cast<uint8_t>(shapes[i].rows);
    }
    asm volatile("ldtilecfg %0" ::"m"(config));
  }
  ~ProcessorTiles() { asm volatile("tilerelease"); }
  ProcessorTiles(const ProcessorTiles&) = delete;
  ProcessorTiles& operator=(const ProcessorTiles&) = delete;

  template <int kTile>
  __attribute__((always_inline)) void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
  }
  // Rows `stride` bytes apart.
  template <int kTile>
  __attribute__((always_inline)) void load(const void* from, int64_t stride) {
    asm volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(kTile), "r"(from), "r"(stride) : "memory");
  }
  // As load(), of what is not needed again soon: it leaves what else is in the first-level cache there.
  template <int kTile>
  __attribute__((always_inline)) void load_once(const void* from, int64_t stride) {
    asm volatile("tileloaddt1 (%1,%2,1), %%tmm%c0" ::"i"(kTile), "r"(from), "r"(stride) : "memory");
  }
  template <int kTile>
  __attribute__((always_inline)) void store(void* to, int64_t stride) {
    asm volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(kTile), "r"(to), "r"(stride) : "memory");
  }
  // Float32 sums [i][j] += left [i][2 p] right [p][2 j] + left [i][2 p + 1] right [p][2 j + 1], over p, in an order of
  // the processor's own.
  template <int kSums, int kLeft, int kRight>
  __attribute__((always_inline)) void multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kLeft), "i"(kRight));
  }
  // The same of signed bytes and unsigned ones, four of each: int32 sums [i][j] += left [i][4 p + q] right [p][4 j +
  // q].
  template <int kSums, int kLeft, int kRight>
  __attribute__((always_inline)) void multiply_bytes() {
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kLeft), "i"(kRight));
  }

 private:
  struct alignas(64) Config {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  };
};
#endif

class EmulatedTiles {
 public:
  explicit EmulatedTiles(const TileShapes& shapes = {}) : shapes_(shapes) {}

  template <int kTile>
  void zero() {
    std::memset(tiles_[kTile], 0, sizeof(Tile));
  }
  template <int kTile>
  void load(const void* from, int64_t stride) {
    zero<kTile>();
    const auto bytes = static_cast<size_t>(shapes_[kTile].row_bytes);
    for (int64_t row = 0; row < shapes_[kTile].rows; ++row) {
      std::memcpy(tiles_[kTile][row], static_cast<const char*>(from) + row * stride, bytes);
    }
  }
  template <int kTile>
  void load_once(const void* from, int64_t stride) {
    load<kTile>(from, stride);
  }
  template <int kTile>
  void store(void* to, int64_t stride) {
    const auto bytes = static_cast<size_t>(shapes_[kTile].row_bytes);
    for (int64_t row = 0; row < shapes_[kTile].rows; ++row) {
      std::memcpy(static_cast<char*>(to) + row * stride, tiles_[kTile][row], bytes);
    }
  }
  template <int kSums, int kLeft, int kRight>
  void multiply() {
    for (int64_t i = 0; i < kTileRows; ++i) {
      float even[16] = {}, odd[16] = {};
      for (int64_t p = 0; p < 16; ++p) {
        const uint32_t x = tiles_[kLeft][i][p];
        for (int64_t j = 0; j < 16; ++j) {
          const uint32_t y = tiles_[kRight][p][j];
          even[j] += low(x) * low(y);
          odd[j] += high(x) * high(y);
        }
      }
      for (int64_t j = 0; j < 16; ++j) {
        uint32_t& sum = tiles_[kSums][i][j];
        sum = std::bit_cast<uint32_t>(std::bit_cast<float>(sum) + (even[j] + odd[j]));
      }
    }
  }
  template <int kSums, int kLeft, int kRight>
  void multiply_bytes() {
    for (int64_t i = 0; i < kTileRows; ++i) {
      for (int64_t p = 0; p < 16; ++p) {
        const auto x = std::bit_cast<std::array<int8_t, 4>>(tiles_[kLeft][i][p]);
        for (int64_t j = 0; j < 16; ++j) {
          const auto y = std::bit_cast<std::array<uint8_t, 4>>(tiles_[kRight][p][j]);
          const int sum = x[0] * y[0] + x[1] * y[1] + x[2] * y[2] + x[3] * y[3];
          tiles_[kSums][i][j] += static_cast<uint32_t>(sum);
        }
      }
    }
  }

 private:
  using Tile = uint32_t[kTileRows][kTileRowBytes / 4];

  static float low(uint32_t pair) { return std::bit_cast<float>(pair << 16); }
  static float high(uint32_t pair) { return std::bit_cast<float>(pair & 0xFFFF0000); }

  TileShapes shapes_;
  Tile tiles_[kTiles] = {};
};

}  // namespace
}  // namespace mamba::ops::linear_detail
