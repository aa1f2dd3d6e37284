"""firn-plugin-redial carries connections to services outside of the tree: a stream
socket that was connected to a path is connected to that path again after a restore.
An example of a plugin that is not written in Go; docs/plugin-protocol.md is all that
it is built from.

It claims less than the shipped plugin does, so that it gets the sockets that it is
given:

    firn checkpoint PID -o IMAGE --plugin-for 'file:socket:[INODE]=redial'
"""
import concurrent.futures
import ctypes
import json
import os
import queue
import socket
import struct
import sys
import threading

import grpc
import plugin_pb2 as pb

NAME, VERSION = "redial", "1.0.0"
KIND_CONNECTION = 1  # never reuse a number
PASSING, LIFELINE = 7, 6  # inherited descriptors
NOTE, BLOCK = 1, 3  # levels of findings
CODE_CORRUPT, KIND_FILE = 2, 2
SYS_PIDFD_GETFD = 438

libc = ctypes.CDLL(None, use_errno=True)


def log(level, message, **more):
    """A line of JSON on stderr is a line of the host's log."""
    print(json.dumps({"@level": level, "@message": message, **more}), file=sys.stderr, flush=True)


def crc32c(data):
    """Checksum of records (Castagnoli)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


HEADER = "<IHHIHHQQQQQI"  # 60 bytes, followed by their checksum


def record(kind, obj, payload, seq):
    """Packs a record: header, payload, zeros up to a multiple of 64 bytes."""
    head = struct.pack(HEADER, 0x43455246, 1, 0, kind, 1, 0, obj, len(payload), crc32c(payload), seq, 0, 0)
    data = head + struct.pack("<I", crc32c(head)) + payload
    return data + bytes(-len(data) % 64)


class Corrupt(Exception):
    """The image is damaged."""


def records(segment):
    """Yields kind, object and payload of every record of a packed segment."""
    at = 0
    while at < len(segment):
        head = segment[at:at + 60]
        if len(head) < 60 or crc32c(head) != struct.unpack_from("<I", segment, at + 60)[0]:
            raise Corrupt("record header at %d" % at)
        magic, _, flags, kind, _, _, obj, length, crc, _, _, _ = struct.unpack(HEADER, head)
        payload = segment[at + 64:at + 64 + length]
        if magic != 0x43455246 or flags or len(payload) != length or crc32c(payload) != crc:
            raise Corrupt("record at %d" % at)
        yield kind, obj, payload
        at += (64 + length + 63) // 64 * 64


def duplicate(request, resource):
    """Takes a duplicate of a socket out of a task that has it."""
    pids = {p.id: p.pid for p in request.tree.processes}
    ref = resource.file.refs[0]
    pidfd = os.pidfd_open(pids[ref.task])
    try:
        fd = libc.syscall(SYS_PIDFD_GETFD, pidfd, ref.fd, 0)
        if fd < 0:
            raise OSError(ctypes.get_errno(), "pidfd_getfd: " + os.strerror(ctypes.get_errno()))
        return socket.socket(fileno=fd)
    finally:
        os.close(pidfd)


class Plugin:
    def __init__(self):
        self.calls = queue.Queue()  # to the host, on the stream of services
        self.replies = {}
        self.next_id = 0
        self.sequence = 0
        self.image, self.blocks = None, []
        self.restored = []

    def Describe(self, request, context):
        return pb.DescribeResponse(
            name=NAME, version=VERSION, api_version=1, summary="connections to unix sockets outside, connected again",
            claims=[pb.Claim(kind=KIND_FILE, type="sock", socket=pb.Socket(family=socket.AF_UNIX, type=-1, protocol=-1))],
            capabilities=["CAP_SYS_PTRACE"],  # for duplicates of descriptors of root's programs
            records=[pb.RecordType(kind=KIND_CONNECTION, version=1, name="connection")],
            phases=[pb.PHASE_CHECK, pb.PHASE_DUMP, pb.PHASE_CHECK_IMAGE, pb.PHASE_RESTORE_OBJECTS, pb.PHASE_ABORT])

    def Open(self, request, context):
        if request.HasField("image"):
            message, fds, _, _ = socket.recv_fds(socket.socket(fileno=os.dup(PASSING)), 64, 1)
            if message != b"firn image v1" or len(fds) != 1:
                context.abort(grpc.StatusCode.INTERNAL, "no image came: %r" % message)
            self.image, self.blocks = fds[0], list(request.image.blocks)
        return pb.OpenResponse()

    def Services(self, replies, context):
        def receive():
            for reply in replies:
                self.replies.pop(reply.id).put(reply)
            self.calls.put(None)

        threading.Thread(target=receive, daemon=True).start()
        yield from iter(self.calls.get, None)

    def call(self, **what):
        """Asks the host for something and waits for the reply."""
        self.next_id += 1
        answer = self.replies[self.next_id] = queue.Queue()
        self.calls.put(pb.ServiceCall(id=self.next_id, **what))
        reply = answer.get()
        if reply.HasField("error"):
            raise RuntimeError(reply.error.text)
        return reply

    def Run(self, request, context):
        run = {pb.PHASE_CHECK: self.check, pb.PHASE_DUMP: self.dump, pb.PHASE_CHECK_IMAGE: self.check_image,
               pb.PHASE_RESTORE_OBJECTS: self.restore}.get(request.phase, lambda _: pb.RunResponse())
        try:
            return run(request)
        except Corrupt as e:
            context.abort(grpc.StatusCode.DATA_LOSS, "%s is damaged" % e)
        except OSError as e:
            context.abort(grpc.StatusCode.UNKNOWN, str(e).lower())

    def check(self, request):
        findings = []
        for r in request.resources:
            level, text = NOTE, ""
            with duplicate(request, r) as s:
                path = s.getpeername() if s.type == socket.SOCK_STREAM and not is_listener(s) else None
                if not isinstance(path, str) or not path.startswith("/"):
                    level, text = BLOCK, "is not connected to an absolute path"
                elif request.frozen and unread(s):
                    level, text = BLOCK, "has data from %s that was not read" % path
                else:
                    text = "connection to %s: is made anew, the service sees another client" % path
            findings.append(pb.Finding(level=level, task=r.task, object=r.object, subject="fd %d" % r.file.refs[0].fd, text=text))
        return pb.RunResponse(findings=findings)

    def dump(self, request):
        segment = b""
        for r in request.resources:
            with duplicate(request, r) as s:
                payload = json.dumps({"path": s.getpeername(), "flags": r.file.flags}).encode()
            segment += record(KIND_CONNECTION, r.object, payload, self.sequence)
            self.sequence += 1
        if segment:
            self.call(submit=pb.Submit(segment=segment))
        self.call(flush=pb.Flush())
        return pb.RunResponse()

    def connections(self, request):
        """The connections of the image, by object."""
        found = {}
        for block in self.blocks:
            for _, obj, payload in records(os.pread(self.image, block.length, block.offset)):
                try:
                    c = json.loads(payload)
                    found[obj] = (str(c["path"]), int(c["flags"]))
                except (ValueError, KeyError, TypeError) as e:
                    raise Corrupt("record of object %d" % obj) from e
        for r in request.resources:
            if r.object not in found:
                raise Corrupt("object %d" % r.object)
        return found

    def check_image(self, request):
        findings = []
        for obj, (path, _) in self.connections(request).items():
            try:
                connect(path).close()
            except OSError as e:
                findings.append(pb.Finding(level=BLOCK, object=obj, subject="connection to " + path,
                                           text=str(e).lower(), help="start the service"))
        return pb.RunResponse(findings=findings)

    def restore(self, request):
        provided = []
        for obj, (path, flags) in self.connections(request).items():
            s = connect(path)
            s.setblocking(not flags & os.O_NONBLOCK)
            self.restored.append(s)  # open until Close
            provided.append(pb.Provided(object=obj, fd=s.fileno()))
            log("info", "connected again", path=path)
        return pb.RunResponse(provided=provided)

    def Close(self, request, context):
        for s in self.restored:
            s.close()
        self.restored.clear()
        self.calls.put(None)
        return pb.CloseResponse()


def is_listener(s):
    return s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) != 0


def unread(s):
    try:
        return s.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return False


def connect(path):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        s.connect(path)
    except OSError:
        s.close()
        raise
    return s


def follow_host():
    """The end of the lifeline is that of the host: so is the plugin's."""
    os.read(LIFELINE, 1)
    os._exit(0)


def main():
    if os.environ.get("FIRN_PLUGIN_COOKIE") != "6f1cb1a5-firn-checkpoint-plugin":
        sys.exit("firn-plugin-%s %s is a plugin of firn, which starts it. Try: firn plugin list" % (NAME, VERSION))
    for fd in range(3, 9):
        try:
            os.set_inheritable(fd, False)
        except OSError:
            pass  # not all are always there
    threading.Thread(target=follow_host, daemon=True).start()
    path = os.path.join(os.environ["PLUGIN_UNIX_SOCKET_DIR"], NAME)
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(8), options=unlimited)
    plugin = Plugin()
    handlers = {}
    for method, asked, stream in [("Describe", pb.DescribeRequest, False), ("Open", pb.OpenRequest, False),
                                  ("Run", pb.RunRequest, False), ("Close", pb.CloseRequest, False),
                                  ("Services", pb.ServiceReply, True)]:
        make = grpc.stream_stream_rpc_method_handler if stream else grpc.unary_unary_rpc_method_handler
        handlers[method] = make(getattr(plugin, method), asked.FromString, lambda answer: answer.SerializeToString())
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("firn.plugin.v1.Plugin", handlers),))
    server.add_insecure_port("unix:" + path)
    server.start()
    print("1|1|unix|%s|grpc" % path, flush=True)
    server.wait_for_termination()


main()
