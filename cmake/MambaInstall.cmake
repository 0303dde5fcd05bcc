# Filled in with the package: headers, library, CMake package.
