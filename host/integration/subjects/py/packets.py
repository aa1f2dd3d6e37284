# Watches the loopback device through packet sockets: every datagram that it sends
# itself must be seen once by each of them, whole, and no other.
import ctypes, os, socket, struct, time

log = open("log", "a", buffering=1)
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 0))
port = server.getsockname()[1]
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def watcher(kind, header):
    """Sees what goes to the port: ldh [header + 22]; jeq port; ret."""
    s = socket.socket(socket.AF_PACKET, kind, 0)
    code = [(0x28, 0, 0, header + 22), (0x15, 0, 1, port), (6, 0, 0, 0xFFFF), (6, 0, 0, 0)]
    prog = b"".join(struct.pack("HBBI", *c) for c in code)
    buf = ctypes.create_string_buffer(prog)
    s.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HL", len(code), ctypes.addressof(buf)))
    s.bind(("lo", 0x0800))
    s.settimeout(10)
    return s


watchers = [(watcher(socket.SOCK_RAW, 14), 14), (watcher(socket.SOCK_DGRAM, 0), 0)]
n = 0
print("ready", file=log)
while True:
    n += 1
    text = b"datagram %d" % n
    if os.path.exists("break"):
        text = text[:-1]
    client.sendto(text, ("127.0.0.1", port))
    got = server.recv(100)
    if got != b"datagram %d" % n:
        print("bad: received", got, file=log)
    for s, header in watchers:
        try:
            p = s.recv(1000)
        except socket.timeout:
            print("bad: saw nothing of", text, file=log)
            continue
        if p[header + 28 :] != b"datagram %d" % n:
            print("bad: saw", p[header + 28 :], "not", text, file=log)
    print("tick", n, file=log)
    time.sleep(0.01)
