# Everything the build links, found once. scripts/bootstrap installs what is named here.

# MLX: the wheel in the private environment that scripts/bootstrap makes, unless MLX_DIR says otherwise.
if(NOT MLX_DIR)
  file(GLOB _mamba_mlx_dirs ${CMAKE_SOURCE_DIR}/build/mlx/lib/python3*/site-packages/mlx/share/cmake/MLX)
  if(_mamba_mlx_dirs)
    list(GET _mamba_mlx_dirs 0 MLX_DIR)
    set(MLX_DIR ${MLX_DIR} CACHE PATH "Folder of MLXConfig.cmake")
  endif()
endif()
find_package(MLX CONFIG QUIET)
if(NOT MLX_FOUND)
  message(FATAL_ERROR "MLX was not found. Run scripts/bootstrap (it puts MLX's wheel into build/mlx), or pass "
                      "-DMLX_DIR=$(python3 -m mlx --cmake-dir)/share/cmake/MLX for an MLX that is already installed.")
endif()
if(CUDAToolkit_FOUND) # MLX looked for it
  # MLX names the driver's library, which machines without a GPU do not have. There a build can be made, and run with the
  # CPU-only MLX that scripts/bootstrap puts beside the other: it exports the same functions.
  target_link_options(mlx INTERFACE "LINKER:--allow-shlib-undefined")
  find_library(MAMBA_NVIDIA_DRIVER libcuda.so.1 PATHS /usr/lib/wsl/lib /usr/local/nvidia/lib64)
  if(NOT MAMBA_NVIDIA_DRIVER)
    file(GLOB MAMBA_RUN_WITH ${CMAKE_SOURCE_DIR}/build/mlx-cpu/lib/python3*/site-packages/mlx/lib)
    if(NOT MAMBA_RUN_WITH)
      message(WARNING "There is no NVIDIA driver here and no MLX without CUDA in build/mlx-cpu: what is built will not start. "
                      "Run scripts/bootstrap --cuda.")
    endif()
  endif()
endif()

find_package(Threads REQUIRED)
find_package(nlohmann_json 3.10 REQUIRED)
find_package(fmt REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(HWY REQUIRED IMPORTED_TARGET libhwy)
pkg_check_modules(ONIG REQUIRED IMPORTED_TARGET oniguruma)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)
pkg_check_modules(ZIP REQUIRED IMPORTED_TARGET libzip)
find_package(CURL REQUIRED)
find_package(CLI11 REQUIRED)
if(NOT APPLE)
  find_package(dnnl CONFIG REQUIRED)
endif()
if(MAMBA_BUILD_TESTS)
  find_package(GTest REQUIRED)
  find_package(httplib QUIET)
endif()
if(MAMBA_BUILD_BENCHMARKS)
  find_package(benchmark REQUIRED)
endif()
