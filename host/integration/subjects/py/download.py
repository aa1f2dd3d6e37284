"""Sends what a client asks for: a line with a number, answered by as many bytes
of a sequence that the client can compute. Listens on an address and port."""
import socket
import sys

log = open("log", "a", buffering=1)
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
log.write("ready\n")
n = 0
while True:
    log.write("tick %d\n" % n)
    n += 1
    listener.settimeout(0.02)
    try:
        client, _ = listener.accept()
    except TimeoutError:
        continue
    client.settimeout(None)
    with client, client.makefile("rb") as lines:
        for line in lines:
            sent, size = 0, int(line)
            while sent < size:
                piece = bytes((i * 7 + 13) % 251 for i in range(sent, min(sent + 4096, size)))
                client.sendall(piece)
                sent += len(piece)
                log.write("tick %d\n" % n)
                n += 1
