"""Writes to a file whose name is not UTF-8, with a process name of that kind."""
import time

log = open("log", "a", buffering=1)
out = open(b"\xff\xfe name", "a", buffering=1)
open("/proc/self/comm", "wb").write(b"\xfe\xffname")
log.write("ready\n")
n = 0
while True:
    out.write("%d\n" % n)
    if open("/proc/self/comm", "rb").read() != b"\xfe\xffname\n":
        log.write("bad: the name of the process is %r\n" % open("/proc/self/comm", "rb").read())
    log.write("tick %d\n" % n)
    n += 1
    time.sleep(0.005)
