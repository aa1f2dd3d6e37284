"""Watches the monotonic clocks, which must not go backwards, and writes them
down for somebody who knows how long the program was away."""
import time

log = open("log", "a", buffering=1)
out = open("clocks", "a", buffering=1)
clocks = [time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME]
seen = [time.clock_gettime_ns(c) for c in clocks]
log.write("ready\n")
n = 0
while True:
    now = [time.clock_gettime_ns(c) for c in clocks]
    if any(a > b for a, b in zip(seen, now)):
        log.write("bad: clocks went from %s to %s\n" % (seen, now))
    seen = now
    out.write("%d %d\n" % tuple(now))
    log.write("tick %d\n" % n)
    n += 1
    time.sleep(0.005)
