#!/bin/sh
# The layer check must see what it is there to see: each planted include is found, each allowed one is not.
set -eu
check=$1
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
failures=0

# try EXPECTED FILE LINE [PATTERN]: a tree whose only file holds LINE passes (0) or fails (1) saying PATTERN.
try() {
  rm -rf "$tree/mamba" "$tree/apps"
  mkdir -p "$tree/mamba/base" "$tree/apps" "$tree/$(dirname "$2")"
  printf '%s\n' '#include <vector>' "$3" >"$tree/$2"
  status=0
  output=$(sh "$check" "$tree") || status=$?
  if [ "$status" -ne "$1" ] || ! printf '%s\n' "$output" | grep -q -- "${4:-0 offences}"; then
    printf 'expected %s, got %s for %s in %s\n%s\n' "$1" "$status" "$3" "$2" "$output"
    failures=$((failures + 1))
  fi
}

try 1 mamba/base/a.h '#include "mamba/ops/linear/linear.h"' 'mamba/base/a.h:2: .*base lies below ops'
try 1 mamba/ops/scan/cpu.cpp '#include "mamba/nn/layers.h"' 'ops lies below nn'
try 1 mamba/nn/layers.cpp '#include "mamba/io/safetensors.h"' 'side by side'
try 1 mamba/io/torch.cpp '#include "mamba/ops/dispatch.h"' 'base alone'
try 1 mamba/models/mamba.cpp '#include "mamba/text/tokenizer.h"' 'side by side'
try 1 mamba/hub/hub.cpp '  #  include <mamba/models/config.h>  // why not' 'side by side'
try 1 mamba/train/loop.cpp '#include "mamba/generate/sampler.h"' 'side by side'
try 1 mamba/generate/load.cpp '#include "apps/mlx-mamba/options.h"' 'generate lies below apps'
try 1 mamba/generate/load_test.cpp '#include "mamba/train/loop.h"' 'side by side'
try 1 mamba/io/a.cpp '#include "../ops/dispatch.h"' 'from the root'
try 1 mamba/io/a.cpp '#include "mamba/base/../ops/dispatch.h"' 'from the root'
try 1 mamba/extra/a.cpp '#include "mamba/base/error.h"' 'is not a layer'
try 1 mamba/io/a.cpp '#include "mamba/extra/a.h"' 'no layer "extra"'

try 0 mamba/ops/scan/cpu.cpp '#include "mamba/ops/dispatch.h"'
try 0 mamba/nn/layers.cpp '#include "mamba/ops/dispatch.h"'
try 0 mamba/io/torch.cpp '#include "mamba/base/error.h"'
try 0 mamba/models/registry.cpp '#include "mamba/io/safetensors.h"'
try 0 mamba/generate/load.cpp '#include "mamba/text/tokenizer.h"'
try 0 apps/mlx-mamba/main.cpp '#include "mamba/generate/load.h"'
try 0 mamba/io/torch.cpp '// #include "mamba/ops/dispatch.h" would be wrong here'

rm -rf "$tree/mamba" "$tree/apps"
mkdir "$tree/mamba" "$tree/apps"
if sh "$check" "$tree" >/dev/null; then
  echo 'an empty tree passed'
  failures=$((failures + 1))
fi
[ "$failures" -eq 0 ]
