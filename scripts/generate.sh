#!/usr/bin/env bash
# Regenerates the Go code of every .proto file of the tree, beside it or where
# its go_package option says. With --check it writes into a temporary
# directory and fails when the tree differs.
set -euo pipefail
cd "$(dirname "$0")/.."

module=$(sed -n 's/^module //p' go.mod)
command -v protoc >/dev/null || {
	echo "generate: protoc is missing: run make deps (Debian: protobuf-compiler)" >&2
	exit 1
}

out=.
if [ "${1:-}" = --check ]; then
	out=$(mktemp -d)
	trap 'rm -rf "$out"' EXIT
fi

mapfile -t protos < <(find . -name .cache -prune -o -name .git -prune -o -name '*.proto' -print | sed 's,^\./,,' | sort)
for p in "${protos[@]}"; do
	[ "$out" = . ] && echo "protoc $p"
	# An example with its own go.mod generates relative to itself.
	dir=.
	mod=$module
	d=$(dirname "$p")
	while [ "$d" != . ]; do
		if [ -f "$d/go.mod" ]; then
			dir=$d
			mod=$(sed -n 's/^module //p' "$d/go.mod")
			break
		fi
		d=$(dirname "$d")
	done
	dest=$out/$dir
	mkdir -p "$dest"
	dest=$(cd "$dest" && pwd)
	(
		cd "$dir"
		protoc -I . \
			--go_out="$dest" --go_opt=module="$mod" \
			--go-grpc_out="$dest" --go-grpc_opt=module="$mod" \
			"${p#"$dir"/}"
	)
done
[ "$out" = . ] && exit 0

# The comments with the compilers' versions are not part of the comparison.
strip() { sed -E '/^\/\/ (-? ?)?\t?(protoc|protoc-gen-go|protoc-gen-go-grpc) +v[0-9.]+$/d' "$1"; }
bad=0
while IFS= read -r f; do
	if [ ! -f "$f" ]; then
		echo "generate-check: $f is missing: run make generate" >&2
		bad=1
	elif ! cmp -s <(strip "$out/$f") <(strip "$f"); then
		echo "generate-check: $f differs from its .proto: run make generate" >&2
		bad=1
	fi
done < <(cd "$out" && find . -name '*.pb.go' | sed 's,^\./,,' | sort)
while IFS= read -r f; do
	if [ ! -f "$out/$f" ]; then
		echo "generate-check: $f has no .proto any more" >&2
		bad=1
	fi
done < <(find . -name .cache -prune -o -name .git -prune -o -name '*.pb.go' -print | sed 's,^\./,,' | sort)
[ "$bad" = 0 ] && echo "generate-check: ${#protos[@]} .proto files, generated code is up to date"
exit "$bad"
