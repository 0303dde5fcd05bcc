#!/bin/sh
# check_layers.sh [ROOT]: fails on an #include between layers that docs/architecture.md's picture does not allow:
# one that points up, sideways, or around the picture through a relative path. Prints one line per offence.
set -eu
cd -- "${1:-$(dirname -- "$0")/..}"

find mamba apps \( -name '*.h' -o -name '*.cpp' -o -name '*.mm' -o -name '*.cu' -o -name '*.inc' \) -type f |
  LC_ALL=C sort |
  LC_ALL=C awk '
    BEGIN {
      # Rows of the picture, bottom to top. A layer may include itself and every row below it.
      rows = split("base|ops|io nn|text hub models|generate train quant|apps", row, "|")
      for (r = 1; r <= rows; r++) {
        n = split(row[r], names, " ")
        for (i = 1; i <= n; i++) height[names[i]] = r
      }
      only_base["io"] = 1  # files know nothing of ops
    }
    function layer_of(path, parts) {
      split(path, parts, "/")
      return parts[1] == "mamba" ? parts[2] : parts[1]
    }
    function report(text) {
      printf "%s:%d: %s\n", file, line_number, text
      offences++
    }
    {
      file = $0
      from = layer_of(file)
      line_number = 0
      if (!(from in height)) {
        report("mamba/" from " is not a layer; give it its row in tools/check_layers.sh and docs/architecture.md")
        next
      }
      while ((status = (getline line < file)) > 0) {
        line_number++
        if (line !~ /^[ \t]*#[ \t]*(include|import)[ \t]*["<]/) continue
        checked++
        sub(/^[ \t]*#[ \t]*(include|import)[ \t]*["<]/, "", line)
        sub(/[">].*/, "", line)
        if (line ~ /(^|\/)\.\.?\//) report("includes \"" line "\": write the path from the root of the repository")
        if (line !~ /^(mamba|apps)\//) continue
        to = layer_of(line)
        if (to == from) continue
        if (!(to in height))
          report("includes \"" line "\": there is no layer \"" to "\"")
        else if (height[to] > height[from])
          report("includes \"" line "\": " from " lies below " to)
        else if (height[to] == height[from])
          report("includes \"" line "\": " from " and " to " stand side by side")
        else if ((from in only_base) && to != "base")
          report("includes \"" line "\": " from " may use base alone")
      }
      if (status < 0) report("cannot be read")
      close(file)
    }
    END {
      printf "%d includes in %d files checked, %d offences\n", checked, NR, offences
      # A check that finds nothing to check is broken, not passed.
      exit offences > 0 || checked == 0
    }'
