"""Asks a service at a path for what it then checks, over one connection that it
never makes anew by itself. A request without an answer is sent again."""
import socket
import sys
import time

log = open("log", "a", buffering=1)
s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
s.connect(sys.argv[1])
s.settimeout(0.5)
log.write("ready\n")
n = 0
while True:
    question = b"%08d" % n
    s.sendall(question)
    answer = b""
    try:
        while len(answer) < len(question):
            piece = s.recv(len(question) - len(answer))
            if not piece:
                sys.exit("the service has ended the connection")
            answer += piece
    except TimeoutError:
        if answer:
            sys.exit("half an answer")
        continue
    if answer != question:
        log.write("bad: answer %r to %r\n" % (answer, question))
    log.write("tick %d\n" % n)
    n += 1
    time.sleep(0.02)
