"""Holds both ends of N TCP connections, some with unread bytes, and sends a
number over each in every round. A number that does not arrive ends it."""
import socket
import struct
import sys
import time

count = int(sys.argv[1])
log = open("log", "a", buffering=1)
listener = socket.create_server(("127.0.0.1", 0), backlog=16)
pairs = []
for i in range(count):
    a = socket.create_connection(listener.getsockname())
    b, _ = listener.accept()
    a.settimeout(60)
    b.settimeout(60)
    pairs.append((a, b))
for i, (a, b) in enumerate(pairs):
    a.sendall(b"unread %04d" % i)


def exactly(s, n):
    data = b""
    while len(data) < n:
        piece = s.recv(n - len(data))
        if not piece:
            sys.exit("a connection has ended")
        data += piece
    return data


log.write("ready\n")
n = 0
while True:
    for i, (a, b) in enumerate(pairs):
        b.sendall(struct.pack("!II", n, i))
        if struct.unpack("!II", exactly(a, 8)) != (n, i):
            sys.exit("connection %d: another number" % i)
        if n % 8 == 7:  # what was unread is read, and sent again
            if exactly(b, 11) != b"unread %04d" % i:
                sys.exit("connection %d: other bytes" % i)
            a.sendall(b"unread %04d" % i)
    log.write("tick %d\n" % n)
    n += 1
    time.sleep(0.005)
