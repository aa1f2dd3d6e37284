"""The end of a pipeline: reads lines slowly, so that data stays in the pipes,
and writes them to the log. The lines must be x1, x2, x3 and so on."""
import sys
import time

log = open("log", "a", buffering=1)
log.write("ready\n")
want = 1
while True:
    line = sys.stdin.buffer.readline()
    if line != b"x%d\n" % want:
        log.write("bad: read %r, want x%d\n" % (line, want))
    log.write("tick %d\n" % (want - 1))
    want += 1
    time.sleep(0.005)
