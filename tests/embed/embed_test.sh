#!/bin/sh
# embed_test.sh SOURCE BUILD CMAKE CXX [LIBRARIES]: installs BUILD, moves the installation (it must not depend on where it
# was put), builds examples/embed against it in a folder of its own, and runs that program and the installed one.
# LIBRARIES is the folder of an MLX to run with where the installed one, CUDA's, cannot start for want of a driver.
set -eu
source=$1 build=$2 cmake=$3 cxx=$4 libraries=${5:-}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() {
  echo "FAILED: $*"
  exit 1
}
# Nothing of the caller's setup may help: the installation finds its libraries and its model by itself.
unset LD_LIBRARY_PATH DYLD_LIBRARY_PATH CMAKE_PREFIX_PATH MLX_DIR 2>/dev/null || true

files=$(cd "$source/examples/embed" && find . -type f | LC_ALL=C sort | tr '\n' ' ')
[ "$files" = "./CMakeLists.txt ./README.md ./main.cpp " ] || fail "examples/embed holds $files"

"$cmake" --install "$build" --prefix "$work/as installed" >"$work/install.log" 2>&1 || {
  cat "$work/install.log"
  fail "cmake --install $build"
}
prefix="$work/moved here"
mv "$work/as installed" "$prefix"
if grep -rlF -e "$build" -e "$source/" "$prefix" --include='*.cmake' --include='*.h'; then
  fail "the files above name the build folder or the source tree"
fi

# The example as it is, and one unit with every installed header.
mkdir "$work/example" "$work/headers"
cp "$source"/examples/embed/* "$work/example"
(cd "$prefix/include" && find mamba -name '*.h' | LC_ALL=C sort | sed 's/.*/#include "&"/') >"$work/headers/main.cpp"
[ -s "$work/headers/main.cpp" ] || fail "no header was installed"
echo 'int main() {}' >>"$work/headers/main.cpp"
sed 's/embed/headers/g' "$source/examples/embed/CMakeLists.txt" >"$work/headers/CMakeLists.txt"
for program in example headers; do
  {
    "$cmake" -S "$work/$program" -B "$work/$program/build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
      -DCMAKE_CXX_COMPILER="$cxx" -DCMAKE_PREFIX_PATH="$prefix" &&
      "$cmake" --build "$work/$program/build"
  } >"$work/build.log" 2>&1 || {
    cat "$work/build.log"
    fail "building $program against the installation"
  }
done

# check_libraries FILE: none comes from the build folder or from MLX's environment.
check_libraries() {
  [ -z "$libraries" ] || return 0
  command -v ldd >/dev/null || return 0
  ldd "$1" >"$work/ldd.log"
  ! grep -e 'not found' "$work/ldd.log" || fail "$1 misses libraries"
  ! grep -F -e "$build" -e "$source/" "$work/ldd.log" || fail "$1 uses libraries of the build folder"
  grep -q "$prefix.*libmlx" "$work/ldd.log" || fail "$1 does not use the installed MLX"
}

[ -z "$libraries" ] || export LD_LIBRARY_PATH="$libraries"
cd "$work"
embed="$work/example/build/embed"
check_libraries "$embed"
model="$prefix/share/mlx-mamba/shakespeare"
"$embed" "$model" "JULIET:" >first.txt || fail "the example exits with $?"
cat first.txt
[ "$(wc -c <first.txt)" -gt 100 ] || fail "the example wrote hardly anything"
"$embed" "$model" "JULIET:" >second.txt
cmp first.txt second.txt || fail "the example's seed does not fix its text"
"$embed" "$work/no such model" "JULIET:" >bad.txt 2>bad.err && fail "a missing model passes"
grep -q "no such model" bad.err || fail "a missing model is not named"

program="$prefix/bin/mlx-mamba"
check_libraries "$program"
"$program" --version
"$program" generate --prompt "ROMEO:" --max-tokens 8 --temperature 0 >installed.txt ||
  fail "the installed program does not find its model"
"$build/bin/mlx-mamba" generate --prompt "ROMEO:" --max-tokens 8 --temperature 0 >built.txt
cmp installed.txt built.txt || fail "installed and built program differ"
echo "embed: all good"
