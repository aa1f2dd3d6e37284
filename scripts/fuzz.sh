#!/usr/bin/env bash
# Runs every fuzz target of the tree for FUZZTIME each.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
n=0
while IFS=: read -r file func; do
	echo "== $file $func"
	"$go" test -run '^$' -fuzz "^$func\$" -fuzztime "${FUZZTIME:-10s}" "./$(dirname "$file")"
	n=$((n + 1))
done < <(grep -r -H -o -E --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' host plugins sdk | sed 's/func //' | sort)
echo "$n fuzz targets"
