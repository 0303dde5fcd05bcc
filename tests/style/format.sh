#!/bin/sh
# Every source is as clang-format 14 writes it. Exit 77 (a skip) where that version is not installed: another one
# formats a few things differently.
set -eu
cd -- "$1"
for tool in clang-format-14 clang-format; do
  case "$("$tool" --version 2>/dev/null)" in
    *" version 14."*)
      find mamba apps tests tools bench examples -type f \( -name '*.h' -o -name '*.cpp' \) -print0 |
        xargs -0 "$tool" --dry-run -Werror
      exit
      ;;
  esac
done
echo "SKIPPED: clang-format 14 is not installed (scripts/bootstrap --dev installs it)"
exit 77
