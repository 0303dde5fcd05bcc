# The few functions with which each folder says what it is.

set(MAMBA_WARNINGS -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Wno-missing-field-initializers)
if(MAMBA_WERROR)
  list(APPEND MAMBA_WARNINGS -Werror)
endif()
if(MAMBA_PRECOMPILED_HEADERS AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # It forgets that the standard library's strings, which are what the first three find, are in a system's header, and
  # takes sources that are compiled together for headers.
  list(APPEND MAMBA_WARNINGS -Wno-array-bounds -Wno-restrict -Wno-stringop-overflow -Wno-subobject-linkage)
endif()
if(MAMBA_SANITIZE)
  # A fuzzer's counters of paths go where a fuzz target looks for them alone (FUZZED).
  string(REPLACE ",fuzzer-no-link" "" _mamba_sanitizers "${MAMBA_SANITIZE}")
  add_compile_options(-fsanitize=${_mamba_sanitizers} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  if(NOT MAMBA_SANITIZE MATCHES fuzzer)
    # Findings name lines. A tenth of the time to compile: continuous integration does with the names of functions.
    add_compile_options(-g1)
  endif()
  add_compile_definitions(MAMBA_SANITIZED)
  add_link_options(-fsanitize=${MAMBA_SANITIZE})
  if(CMAKE_CXX_COMPILER_ID MATCHES Clang)
    add_compile_options(-fsanitize-ignorelist=${CMAKE_CURRENT_LIST_DIR}/sanitize_ignore.txt)
    # Nearly a hundred programs, each with all that it tests.
    find_program(MAMBA_LLD NAMES ld.lld)
    if(MAMBA_LLD)
      add_link_options(-fuse-ld=lld)
    endif()
  endif()
endif()
# MLX's and Highway's headers are not ours to warn about.
set_target_properties(mlx PROPERTIES IMPORTED_NO_SYSTEM FALSE)

# What every target of ours shares.
function(mamba_target_defaults target)
  target_include_directories(${target} PUBLIC $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}>)
  target_compile_options(${target} PRIVATE ${MAMBA_WARNINGS})
  if(MAMBA_PRECOMPILED_HEADERS)
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 6)
  endif()
endfunction()

# mamba_fuzzed(target): fuzz targets look for paths through it.
function(mamba_fuzzed target)
  if(MAMBA_SANITIZE MATCHES fuzzer)
    target_compile_options(${target} PRIVATE -fsanitize=fuzzer-no-link)
  endif()
endfunction()

# mamba_compile_quickly(target): for code whose own run time nobody notices. Comes after the build type's options.
function(mamba_compile_quickly target)
  if(MAMBA_SANITIZE)
    target_compile_options(${target} PRIVATE -O0)
  else()
    target_compile_options(${target} PRIVATE $<$<CONFIG:Release>:-O1>)
  endif()
endfunction()

set(MAMBA_HEADERS
  <algorithm> <chrono> <cmath> <cstdint> <cstring> <filesystem> <functional> <map> <memory> <optional> <string> <string_view>
  <utility> <vector> <fmt/format.h> <mlx/array.h> <mlx/ops.h> <mlx/random.h> <mlx/transforms.h> <mlx/utils.h>
  <nlohmann/json.hpp>)

# mamba_precompile_headers(target headers...): reads what most sources include once for all of them.
function(mamba_precompile_headers target)
  if(MAMBA_PRECOMPILED_HEADERS)
    target_precompile_headers(${target} PRIVATE ${MAMBA_HEADERS} ${ARGN})
  endif()
endfunction()

# mamba_share_headers(target): the same for a library, together with all libraries that are compiled alike.
function(mamba_share_headers target)
  if(NOT MAMBA_PRECOMPILED_HEADERS)
    return()
  endif()
  set(holder mamba_headers)
  get_target_property(options ${target} COMPILE_OPTIONS)
  if(options MATCHES fuzzer)
    set(holder mamba_fuzzed_headers)
  endif()
  if(NOT TARGET ${holder})
    file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/headers.cpp CONTENT "")
    add_library(${holder} OBJECT ${CMAKE_BINARY_DIR}/headers.cpp)
    mamba_target_defaults(${holder})
    if(options MATCHES fuzzer)
      mamba_fuzzed(${holder})
    endif()
    target_link_libraries(${holder} PRIVATE mlx fmt::fmt nlohmann_json::nlohmann_json Threads::Threads)
    mamba_precompile_headers(${holder})
  endif()
  target_precompile_headers(${target} REUSE_FROM ${holder})
endfunction()

# mamba_add_layer(base [FUZZED] SOURCES a.cpp ... [LINKS targets...] [PRIVATE_LINKS targets...]): target mamba_<name>.
# LINKS repeats the layer picture: what a folder may include is what it links.
function(mamba_add_layer name)
  cmake_parse_arguments(arg "FUZZED" "" "SOURCES;LINKS;PRIVATE_LINKS" ${ARGN})
  add_library(mamba_${name} STATIC ${arg_SOURCES})
  mamba_target_defaults(mamba_${name})
  if(arg_FUZZED)
    mamba_fuzzed(mamba_${name})
  endif()
  mamba_share_headers(mamba_${name})
  target_link_libraries(mamba_${name} PUBLIC ${arg_LINKS} PRIVATE ${arg_PRIVATE_LINKS})
  set_property(GLOBAL APPEND PROPERTY MAMBA_LAYERS mamba_${name})
endfunction()

# mamba_add_op(name SOURCES ... [PRIVATE_LINKS ...] [TEST_LINKS ...]): one folder of mamba/ops; its sources join mamba_ops,
# <name>_test.cpp and <name>_bench.cpp, where they exist, become programs.
function(mamba_add_op name)
  cmake_parse_arguments(arg "" "" "SOURCES;PRIVATE_LINKS;TEST_LINKS" ${ARGN})
  list(TRANSFORM arg_SOURCES PREPEND ${CMAKE_CURRENT_SOURCE_DIR}/${name}/)
  target_sources(mamba_ops PRIVATE ${arg_SOURCES})
  # Kernels, compiled for one instruction set or for each of them, stay by themselves.
  foreach(source ${arg_SOURCES})
    file(STRINGS ${source} own_target REGEX "foreach_target|#pragma|intrin\\.h|-inl\\.h" LIMIT_COUNT 1)
    if(NOT own_target AND NOT source MATCHES "/cpu[^/]*$")
      set_source_files_properties(${source} PROPERTIES UNITY_GROUP ${name})
    endif()
  endforeach()
  target_link_libraries(mamba_ops PRIVATE ${arg_PRIVATE_LINKS})
  if(EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${name}/${name}_test.cpp)
    mamba_add_test(${name}_test SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/${name}/${name}_test.cpp
                   LINKS mamba_ops ${arg_TEST_LINKS})
  endif()
  if(MAMBA_BUILD_BENCHMARKS AND EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${name}/${name}_bench.cpp)
    add_executable(${name}_bench ${CMAKE_CURRENT_SOURCE_DIR}/${name}/${name}_bench.cpp)
    mamba_target_defaults(${name}_bench)
    target_link_libraries(${name}_bench PRIVATE mamba_ops benchmark::benchmark_main)
  endif()
endfunction()

function(mamba_test_defaults target)
  mamba_target_defaults(${target})
  target_compile_definitions(${target} PRIVATE MAMBA_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
endfunction()

# mamba_add_test(name SOURCES ... [LINKS ...] [DEFINES ...] [LABELS ...] [SHARDS n] [COST seconds] [OPTIMIZED]): one
# GoogleTest program, one ctest entry; n of them, <name>_1 and so on, where one would keep the others' processors waiting.
# COST is about how many seconds it takes with sanitizers, where that is many: what takes long starts first. What is tested
# is optimised; the tests themselves need not be, and are where they are OPTIMIZED.
# Tests run with kernels required, so that a missing one is a failure and not a slow pass.
function(mamba_add_test name)
  if(NOT MAMBA_BUILD_TESTS)
    return()
  endif()
  cmake_parse_arguments(arg "OPTIMIZED" "TIMEOUT;SHARDS;COST" "SOURCES;LINKS;DEFINES;LABELS" ${ARGN})
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 300)
  endif()
  add_executable(${name} ${arg_SOURCES})
  mamba_test_defaults(${name})
  if(NOT arg_OPTIMIZED)
    mamba_compile_quickly(${name})
  endif()
  target_link_libraries(${name} PRIVATE ${arg_LINKS} GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE ${arg_DEFINES})
  if(MAMBA_PRECOMPILED_HEADERS AND NOT arg_OPTIMIZED)
    # Most tests have one source, so they share those of a program without a test.
    if(NOT TARGET mamba_test_headers)
      file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/test_headers.cpp CONTENT "")
      add_executable(mamba_test_headers ${CMAKE_BINARY_DIR}/test_headers.cpp)
      mamba_test_defaults(mamba_test_headers)
      mamba_compile_quickly(mamba_test_headers)
      target_link_libraries(mamba_test_headers PRIVATE mlx fmt::fmt nlohmann_json::nlohmann_json GTest::gtest_main)
      mamba_precompile_headers(mamba_test_headers <gmock/gmock.h> <gtest/gtest.h>)
    endif()
    target_precompile_headers(${name} REUSE_FROM mamba_test_headers)
  endif()
  set(entries ${name})
  if(arg_SHARDS)
    list(TRANSFORM entries APPEND _1)
    foreach(shard RANGE 2 ${arg_SHARDS})
      list(APPEND entries ${name}_${shard})
    endforeach()
  endif()
  set(index 0)
  foreach(entry ${entries})
    set(environment MAMBA_REQUIRE_KERNELS=1)
    if(arg_SHARDS)
      list(APPEND environment GTEST_TOTAL_SHARDS=${arg_SHARDS} GTEST_SHARD_INDEX=${index})
      math(EXPR index "${index} + 1")
    endif()
    add_test(NAME ${entry} COMMAND ${name})
    set_tests_properties(${entry} PROPERTIES
      TIMEOUT ${arg_TIMEOUT} ENVIRONMENT "${environment}"
      SKIP_REGULAR_EXPRESSION "\\[  SKIPPED \\] [1-9][0-9]* test.*\n.*\\[  PASSED  \\] 0 tests")
    if(arg_LABELS)
      set_tests_properties(${entry} PROPERTIES LABELS "${arg_LABELS}")
    endif()
    if(arg_COST)
      set_tests_properties(${entry} PROPERTIES COST ${arg_COST})
    endif()
    if("mamba_ops_gpu_host" IN_LIST arg_LINKS)
      # A second stack for each of a group's fibers would take most of the time: two thirds of it, measured.
      set_tests_properties(${entry} PROPERTIES
        ENVIRONMENT_MODIFICATION ASAN_OPTIONS=string_append::detect_stack_use_after_return=0)
    endif()
  endforeach()
endfunction()

# mamba_add_fuzzer(name SOURCE LINKS...): a libFuzzer target and ctest entry fuzz_<name> with its seeds in
# tests/fuzz/corpus/<name>.
function(mamba_add_fuzzer name source)
  if(NOT MAMBA_BUILD_FUZZERS OR NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${source})
    return()
  endif()
  add_executable(fuzz_${name} ${source})
  mamba_target_defaults(fuzz_${name})
  mamba_fuzzed(fuzz_${name})
  target_link_libraries(fuzz_${name} PRIVATE ${ARGN})
  target_link_options(fuzz_${name} PRIVATE -fsanitize=fuzzer)
  add_test(NAME fuzz_${name} COMMAND sh ${CMAKE_SOURCE_DIR}/tools/run_fuzzer.sh $<TARGET_FILE:fuzz_${name}>
                                     ${CMAKE_CURRENT_SOURCE_DIR}/corpus/${name} ${CMAKE_BINARY_DIR}/fuzzing/${name})
  # How long it runs is MAMBA_FUZZ_SECONDS' business.
  set_tests_properties(fuzz_${name} PROPERTIES LABELS fuzz TIMEOUT 86400)
endfunction()

# mamba_embed_text(target file symbol): the file's bytes as `std::string_view mamba::embedded::<symbol>()`. All that a target
# embeds is one source: a compiler's start costs more than any of them.
function(mamba_embed_text target file symbol)
  file(READ ${file} text)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${file})
  get_property(texts TARGET ${target} PROPERTY MAMBA_EMBEDDED)
  if(NOT texts)
    target_sources(${target} PRIVATE ${CMAKE_CURRENT_BINARY_DIR}/${target}_embedded.cpp)
    set_source_files_properties(${CMAKE_CURRENT_BINARY_DIR}/${target}_embedded.cpp PROPERTIES
      GENERATED ON SKIP_PRECOMPILE_HEADERS ON SKIP_UNITY_BUILD_INCLUSION ON)
    cmake_language(EVAL CODE "cmake_language(DEFER CALL mamba_write_embedded ${target})")
  endif()
  set_property(TARGET ${target} APPEND_STRING PROPERTY MAMBA_EMBEDDED
               "std::string_view ${symbol}() { return R\"mamba_text(${text})mamba_text\"; }\n")
endfunction()

function(mamba_write_embedded target)
  get_property(texts TARGET ${target} PROPERTY MAMBA_EMBEDDED)
  file(CONFIGURE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/${target}_embedded.cpp @ONLY CONTENT
"#include <string_view>
namespace mamba::embedded {
@texts@}  // namespace mamba::embedded
")
endfunction()
