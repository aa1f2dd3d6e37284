"""Counts, and appends every number to two files: one opened for appending and
one at an offset. Nothing may be lost or doubled by a checkpoint."""
import os
import time

append = open("log", "a", buffering=1)
offset = open("offset", "w", buffering=1)
append.write("ready\n")
n = 0
while True:
    append.write("tick %d\n" % n)
    offset.write("%d\n" % n)
    n += 1
    if os.path.exists("break"):
        n += 1
    time.sleep(0.005)
