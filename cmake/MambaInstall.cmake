# `cmake --install`: one shared library made of all layers, its headers, a CMake package, the program and the shipped
# model, together with MLX, so that what is installed lives on when the build folder is gone.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# A sanitizer's runtime belongs into the program that is tested, not into something to install.
if(MAMBA_SANITIZE)
  return()
endif()

get_property(_layers GLOBAL PROPERTY MAMBA_LAYERS)
# The objects of every layer, wanted or not; the archives come along for the libraries behind them.
list(TRANSFORM _layers REPLACE "(.+)" "$<TARGET_OBJECTS:\\1>" OUTPUT_VARIABLE _objects)
add_library(mamba_shared SHARED ${_objects})
set_target_properties(mamba_shared PROPERTIES
  OUTPUT_NAME mlx-mamba EXPORT_NAME mlx-mamba LINKER_LANGUAGE CXX
  # Before 1.0 any minor version may break what is linked against another.
  VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
# What our headers include is public; everything else stays inside.
target_link_libraries(mamba_shared
  PUBLIC mlx fmt::fmt nlohmann_json::nlohmann_json Threads::Threads
  PRIVATE ${_layers})
target_include_directories(mamba_shared PUBLIC $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_compile_features(mamba_shared PUBLIC cxx_std_20)

# MLX's wheel is copied with its folders as they are: its library finds its own companions (BLAS, Metal kernels, headers
# for kernels compiled at run time) by paths relative to itself, and its CMake package works from anywhere.
get_filename_component(_mlx_package ${MLX_DIR}/../../.. ABSOLUTE)
get_filename_component(_site_packages ${_mlx_package}/.. ABSOLUTE)
file(GLOB _mlx_licences ${_site_packages}/mlx*.dist-info/licenses ${_site_packages}/mlx*.dist-info/sboms)
if(_mlx_licences)
  set(_mlx_from_wheel ON)
endif()
option(MAMBA_INSTALL_MLX "Install a copy of MLX with the library" ${_mlx_from_wheel})

set(_private ${CMAKE_INSTALL_LIBDIR}/mlx-mamba)
set(_package ${CMAKE_INSTALL_LIBDIR}/cmake/mlx-mamba)
set(_share ${CMAKE_INSTALL_DATADIR}/mlx-mamba)
if(MAMBA_INSTALL_MLX)
  foreach(part lib include share)
    install(DIRECTORY ${_mlx_package}/${part} DESTINATION ${_private}/mlx
            PATTERN "*.py" EXCLUDE PATTERN "__pycache__" EXCLUDE)
  endforeach()
  # Beside the package: what auditwheel bundled (BLAS) and, for CUDA, NVIDIA's libraries.
  file(GLOB _mlx_companions ${_site_packages}/mlx*.libs ${_site_packages}/nvidia)
  foreach(folder ${_mlx_companions})
    install(DIRECTORY ${folder} DESTINATION ${_private} USE_SOURCE_PERMISSIONS FILES_MATCHING PATTERN "*.so*")
  endforeach()
  foreach(folder ${_mlx_licences})
    install(DIRECTORY ${folder}/ DESTINATION ${_share}/licenses/mlx)
  endforeach()
  file(RELATIVE_PATH _mlx_from_package /${_package} /${_private}/mlx/share/cmake/MLX)
  set(_mlx_rpath ${_private}/mlx/lib)
else()
  set(_mlx_dir_outside ${MLX_DIR})
  set(_mlx_rpath ${_mlx_package}/lib)
endif()
if(APPLE)
  set(_origin @loader_path)
else()
  set(_origin $ORIGIN)
endif()
# mamba_install_rpath(target folder): finds the libraries from where the target is installed.
function(mamba_install_rpath target folder)
  set(paths)
  foreach(path ${CMAKE_INSTALL_LIBDIR} ${_mlx_rpath})
    if(IS_ABSOLUTE ${path})
      list(APPEND paths ${path})
    else()
      file(RELATIVE_PATH relative /${folder} /${path})
      string(REGEX REPLACE "/$" "" relative ${_origin}/${relative})
      list(APPEND paths ${relative})
    endif()
  endforeach()
  set_target_properties(${target} PROPERTIES INSTALL_RPATH "${paths}")
endfunction()
mamba_install_rpath(mamba_shared ${CMAKE_INSTALL_LIBDIR})

install(TARGETS mamba_shared EXPORT mlx-mamba-targets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT mlx-mamba-targets NAMESPACE mlx-mamba:: DESTINATION ${_package})
# Of an op its contract, of which packed.h and flat.h are part, and its reference; of the other layers every header but what serves
# one folder or its tests.
file(GLOB _op_headers RELATIVE ${CMAKE_SOURCE_DIR} CONFIGURE_DEPENDS mamba/ops/*/*.h)
foreach(header ${_op_headers})
  get_filename_component(folder ${header} DIRECTORY)
  get_filename_component(op ${folder} NAME)
  if(header MATCHES "/(${op}|reference|packed|flat)\\.h$")
    install(FILES ${header} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/${folder})
  endif()
endforeach()
install(DIRECTORY mamba DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h"
        PATTERN "ops" EXCLUDE PATTERN "testing" EXCLUDE PATTERN "*_testing.h" EXCLUDE PATTERN "*_impl.h" EXCLUDE)
configure_package_config_file(cmake/mlx-mamba-config.cmake.in ${CMAKE_BINARY_DIR}/mlx-mamba-config.cmake
                              INSTALL_DESTINATION ${_package})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/mlx-mamba-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/mlx-mamba-config.cmake ${CMAKE_BINARY_DIR}/mlx-mamba-config-version.cmake
        DESTINATION ${_package})

install(FILES LICENSE DESTINATION ${_share}/licenses)
if(EXISTS ${CMAKE_SOURCE_DIR}/assets/shakespeare)
  install(DIRECTORY assets/shakespeare DESTINATION ${_share})
endif()

if(TARGET mlx-mamba)
  mamba_install_rpath(mlx-mamba ${CMAKE_INSTALL_BINDIR})
  install(TARGETS mlx-mamba RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
