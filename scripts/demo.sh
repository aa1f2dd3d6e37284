#!/usr/bin/env bash
# Shows a checkpoint and a restore of real programs, step by step: a Python
# script that counts into a log, and redis-server with some keys. Everything
# happens in a temporary directory; what is started is ended by its PID.
set -euo pipefail
cd "$(dirname "$0")/.."
firn=$PWD/bin/firn
work=$(mktemp -d /tmp/firn-demo.XXXXXX)
pids=()

cleanup() {
	local pid
	for pid in "${pids[@]}"; do
		kill -9 "$pid" 2>/dev/null || true
	done
	rm -rf "$work"
}
trap cleanup EXIT

bold() { if [ -t 1 ]; then printf '\n\033[1m%s\033[0m\n' "$*"; else printf '\n== %s\n' "$*"; fi; }
show() { printf '$ %s\n' "$*"; "$@"; }
die() { echo "demo: $*" >&2; exit 1; }
tool() { # the distribution's own program, where there is one
	if [ -x "/usr/bin/$1" ]; then echo "/usr/bin/$1"; else command -v "$1"; fi
}

# Becomes a program in a session of its own, away from terminal and from the
# descriptors that this script inherited.
become() { # log file, command...
	local log=$1 fd
	shift
	for fd in /proc/self/fd/*; do
		fd=${fd##*/}
		if [ "$fd" -gt 2 ]; then eval "exec $fd>&-"; fi
	done
	cd "$work"
	exec setsid "$@" </dev/null >"$log" 2>&1
}
wait_until() { # seconds, command...
	local tenths=$(($1 * 10))
	shift
	until "$@"; do
		tenths=$((tenths - 1))
		[ $tenths -gt 0 ] || return 1
		sleep 0.1
	done
}
gone() { ! kill -0 "$1" 2>/dev/null; }
lines() { wc -l <"$work/count.log"; }
more_lines() { [ "$(lines)" -gt "$1" ]; }

[ -x "$firn" ] || die "bin/firn is missing: run make build"
[ "$(id -u)" = 0 ] || echo "demo: not root: this needs CAP_SYS_PTRACE and CAP_CHECKPOINT_RESTORE"

bold "A program that counts into a log"
cat >"$work/count.py" <<'PY'
import os, time
n = 0
while True:
    n += 1
    with open("count.log", "a") as log:
        log.write("%d written by process %d\n" % (n, os.getpid()))
    time.sleep(0.02)
PY
become out.log "$(tool python3)" count.py &
pid=$!
disown
pids+=("$pid")
wait_until 10 test -s "$work/count.log" || die "the program does not start"
wait_until 10 more_lines 50 || die "the program does not count"
show tail -n 2 "$work/count.log"

bold "What a checkpoint would carry"
show "$firn" check "$pid"

bold "Checkpoint: the program is saved, then ended"
show "$firn" checkpoint "$pid" -o "$work/count.firn"
gone "$pid" || die "process $pid is still there"
before=$(lines)
echo "process $pid is gone; the log has $before lines:"
show tail -n 1 "$work/count.log"
sleep 0.5
[ "$(lines)" = "$before" ] || die "somebody goes on writing"

bold "What is in the image"
show "$firn" show "$work/count.firn"
show "$firn" verify "$work/count.firn"

bold "Restore: it goes on with the next number, under the same PID"
show "$firn" restore -d "$work/count.firn"
wait_until 10 more_lines $((before + 20)) || die "the program does not go on"
sed -n "$((before - 1)),$((before + 2))p" "$work/count.log"
written=$(cat "$work/count.log") # once: the program goes on writing
expected=$(awk '{ print NR " written by process '"$pid"'" }' <<<"$written")
[ "$expected" = "$written" ] || die "a line was lost or doubled"
echo "no line was lost or doubled."
kill -9 "$pid"
pids=()

if ! redis=$(tool redis-server) || ! cli=$(tool redis-cli); then
	bold "redis-server is not installed: that part is left out (make deps installs it)"
	exit 0
fi

bold "redis-server with 10,000 keys"
port=$((20000 + $$ % 20000))
become redis.log "$redis" --port $port --bind 127.0.0.1 --save "" --appendonly no &
pid=$!
disown
pids+=("$pid")
answers() { [ "$("$cli" -p $port PING 2>/dev/null)" = PONG ]; }
wait_until 10 answers || die "redis does not answer: $(tail -n 3 "$work/redis.log")"
"$cli" -p $port EVAL "for i = 1, 10000 do redis.call('SET', 'key:' .. i, i * i) end" 0 >/dev/null
show "$cli" -p $port DBSIZE
sleep 0.2
show "$firn" checkpoint "$pid" -o "$work/redis.firn"
gone "$pid" || die "process $pid is still there"
! answers || die "something still answers on port $port"
echo "process $pid is gone; nobody answers on port $port."
show "$firn" restore -d "$work/redis.firn"
wait_until 10 answers || die "redis does not answer after the restore"
show "$cli" -p $port DBSIZE
show "$cli" -p $port GET key:77
[ "$("$cli" -p $port GET key:77)" = 5929 ] || die "a key has another value"
[ "$("$cli" -p $port INFO server | tr -d '\r' | sed -n 's/^process_id://p')" = "$pid" ] || die "another PID"
echo "redis-server is process $pid, as before."
kill -9 "$pid"
pids=()

bold "Done."
