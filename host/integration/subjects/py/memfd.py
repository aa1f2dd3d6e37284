"""A program with memory files and an epoll set, which it uses all the time.

Every tick goes through a memory file: its number is written there, read back by
another description, and announced by an eventfd that epoll watches. A change of
anything is a line that starts with "bad".
"""

import fcntl
import os
import select
import struct
import time

log = open("log", "a", buffering=1)


def bad(text):
    log.write("bad: %s\n" % text)


memory = os.memfd_create("ticks", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
os.ftruncate(memory, 8 << 20)
reader = os.open("/proc/self/fd/%d" % memory, os.O_RDONLY)
sealed = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
os.write(sealed, b"constant" * 1000)
fcntl.fcntl(sealed, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
r, w = os.pipe()
epoll = select.epoll()
epoll.register(r, select.EPOLLIN)
poll_sealed = fcntl.fcntl(sealed, fcntl.F_GET_SEALS)

n = 0
log.write("ready\n")
while True:
    at = 8 * (n % (1 << 20))
    os.pwrite(memory, struct.pack("=q", n), at)
    os.write(w, b"t")
    if epoll.poll(5) != [(r, select.EPOLLIN)] or os.read(r, 10) != b"t":
        bad("tick %d did not come through epoll" % n)
    os.lseek(reader, at, os.SEEK_SET)
    if struct.unpack("=q", os.read(reader, 8)) != (n,):
        bad("tick %d is not in memory" % n)
    if n and struct.unpack("=q", os.pread(reader, 8, at - 8 if at else (8 << 20) - 8)) != (n - 1,):
        bad("tick %d is not in memory any more" % (n - 1))
    if os.pread(sealed, 9000, 0) != b"constant" * 1000 or fcntl.fcntl(sealed, fcntl.F_GET_SEALS) != poll_sealed:
        bad("the sealed file has changed")
    if os.stat("/proc/self/fd/%d" % memory).st_blocks > 2 * 4 * (1 + n // 512):
        bad("the memory file has lost its holes")
    log.write("tick %d\n" % n)
    n += 1
    time.sleep(0.005)
