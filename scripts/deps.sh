#!/usr/bin/env bash
# Installs what the tests and the generation of code need and this machine
# lacks (Debian and its relatives). Services are not started.
set -euo pipefail

# command:package; a leading + is a file that must exist.
wanted=(
	gcc:gcc
	+/usr/include/stdio.h:libc6-dev
	redis-server:redis-server
	redis-cli:redis-tools
	mariadbd:mariadb-server
	python3:python3
	sqlite3:sqlite3
	make:make
	+/usr/lib/postgresql:postgresql
	psql:postgresql-client
	protoc:protobuf-compiler
	+/usr/include/google/protobuf/descriptor.proto:libprotobuf-dev
	ps:procps
	top:procps
	tmux:tmux
	vim:vim
	less:less
	unshare:util-linux
	nft:nftables
	zstd:zstd
	ip:iproute2
	ping:iputils-ping
	nginx:nginx-light
	+/usr/lib/python3/dist-packages/grpc:python3-grpcio
	+/usr/lib/python3/dist-packages/google/protobuf:python3-protobuf
	bash:bash
	git:git
)

missing=()
for w in "${wanted[@]}"; do
	what=${w%%:*}
	package=${w##*:}
	case $what in
	+*) [ -e "${what#+}" ] || missing+=("$package") ;;
	*) command -v "$what" >/dev/null || missing+=("$package") ;;
	esac
done
[ ${#missing[@]} = 0 ] && exit 0

echo "deps: missing packages: ${missing[*]}"
if [ "$(id -u)" != 0 ]; then
	echo "deps: run: sudo apt-get install --no-install-recommends ${missing[*]}" >&2
	exit 1
fi
if ! command -v apt-get >/dev/null; then
	echo "deps: no apt-get here: install them by hand" >&2
	exit 1
fi

# invoke-rc.d asks this file whether a package may start its service.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod 755 $policy
	trap 'rm -f $policy' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -y -q --no-install-recommends "${missing[@]}"
