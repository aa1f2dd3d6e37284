"""Counts while it has the kernel's log open, and once more with messages that it
never reads, which no plugin of firn's own carries: the example of a third-party
plugin does."""
import os
import time

kmsg = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
unread = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
os.lseek(kmsg, 0, os.SEEK_END)
log = open("log", "a", buffering=1)
log.write("ready\n")
n = 0
while True:
    try:
        os.read(kmsg, 8192)
    except BlockingIOError:
        pass
    except BrokenPipeError:  # messages were overwritten
        pass
    except OSError as error:
        log.write("bad: %s\n" % error)
    log.write("tick %d\n" % n)
    n += 1
    time.sleep(0.01)
