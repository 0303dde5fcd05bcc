// What io's tests share.
#pragma once

#include <gtest/gtest.h>
#include <mlx/array.h>
#include <zip.h>

#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "mamba/base/error.h"
#include "mamba/io/tensor_source.h"

namespace mamba::io::testing {

inline std::filesystem::path golden(const std::string& name) {
  return std::filesystem::path(MAMBA_SOURCE_DIR) / "tests/golden/io" / name;
}

template <typename F>
std::string message_of(F&& action) {
  try {
    action();
  } catch (const Error& e) {
    EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos) << e.what();
    return e.what();
  }
  return "no error";
}

// `what` must be in the message; shows the whole message when it is not.
inline ::testing::AssertionResult contains(const std::string& message, const std::string& what) {
  return message.find(what) != std::string::npos ? ::testing::AssertionSuccess()
                                                 : ::testing::AssertionFailure() << message << "\n  lacks: " << what;
}

inline std::string bytes_of(mlx::core::array a) {
  a.eval();
  EXPECT_TRUE(a.flags().row_contiguous);
  return a.nbytes() == 0 ? std::string() : std::string(a.data<char>(), a.nbytes());
}

// The same names, dtypes, shapes and bytes.
inline void expect_same(const TensorSource& actual, const TensorSource& expected) {
  ASSERT_EQ(actual.names(), expected.names());
  for (const std::string& name : expected.names()) {
    SCOPED_TRACE(name);
    EXPECT_TRUE(actual.info(name).dtype == expected.info(name).dtype);
    EXPECT_EQ(actual.info(name).shape, expected.info(name).shape);
    EXPECT_EQ(actual.info(name).bytes, expected.info(name).bytes);
    const mlx::core::array a = actual.load(name);
    EXPECT_TRUE(a.dtype() == actual.info(name).dtype);
    EXPECT_EQ(a.shape(), actual.info(name).shape);
    EXPECT_EQ(bytes_of(a), bytes_of(expected.load(name)));
  }
}

// A zip archive in memory.
inline std::string make_zip(const std::vector<std::pair<std::string, std::string>>& records, bool deflated = false) {
  zip_error_t error;
  zip_error_init(&error);
  zip_source_t* target = zip_source_buffer_create(nullptr, 0, 0, &error);
  zip_source_keep(target);
  zip_t* archive = zip_open_from_source(target, ZIP_TRUNCATE, &error);
  for (const auto& [name, content] : records) {
    zip_source_t* source = zip_source_buffer(archive, content.data(), content.size(), 0);
    const zip_int64_t index = zip_file_add(archive, name.c_str(), source, ZIP_FL_ENC_UTF_8);
    EXPECT_GE(index, 0);
    zip_set_file_compression(archive, static_cast<zip_uint64_t>(index), deflated ? ZIP_CM_DEFLATE : ZIP_CM_STORE, 0);
  }
  EXPECT_EQ(zip_close(archive), 0);
  zip_stat_t stat;
  zip_stat_init(&stat);
  EXPECT_EQ(zip_source_stat(target, &stat), 0);
  std::string bytes(stat.size, '\0');
  EXPECT_EQ(zip_source_open(target), 0);
  EXPECT_EQ(zip_source_read(target, bytes.data(), bytes.size()), static_cast<zip_int64_t>(bytes.size()));
  zip_source_close(target);
  zip_source_free(target);
  return bytes;
}

// A string literal with the zero bytes in it.
template <size_t N>
std::string raw(const char (&text)[N]) {
  return std::string(text, N - 1);
}

inline std::string little_endian(uint64_t value, int width) {
  std::string bytes;
  for (int i = 0; i < width; ++i) {
    bytes += static_cast<char>(value >> (8 * i) & 0xff);
  }
  return bytes;
}

}  // namespace mamba::io::testing
