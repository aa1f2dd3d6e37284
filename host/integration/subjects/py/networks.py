"""Lives in a network namespace of its own, its child in another one, with a veth
pair between them over which they talk without a pause. When it is asked for
"look" it compares both namespaces with what they were in the beginning; "break"
takes a route away first."""
import ctypes
import json
import os
import re
import socket
import struct
import subprocess
import sys
import time

CLONE_NEWNET = 0x40000000
log = open("log", "a", buffering=1)
libc = ctypes.CDLL(None, use_errno=True)

NEAR = """
ip link add pair0 type veth peer name pair1
ip link add br0 type bridge ageing_time 12345
ip link set pair1 master br0
bridge link set dev pair1 cost 77
ip link set lo up
ip link set near mtu 1400 alias hello
ip link property add dev near altname a-longer-name-of-it
ip link set pair0 up txqueuelen 77
ip link set near up
ip link set pair1 up
ip link set br0 up
ip link add tunnel type vxlan id 5 dstport 4789 remote 10.9.0.7 dev near
ip link add down type ifb
ip addr add 10.9.0.1/24 dev near
ip addr add 10.9.0.3/24 dev near
ip addr add 10.8.0.1/24 dev br0 label br0:web
ip addr add 10.7.0.1 peer 10.7.0.2 dev pair0
ip addr add fd00::1/64 dev near nodad
ip addr add fd00::5/64 dev near nodad valid_lft 5000 preferred_lft 4000
ip addr del fe80::/64 dev pair0 2>/dev/null || true
ip route add 10.77.0.0/16 via 10.9.0.99 metric 7
ip route add 10.77.0.0/16 via 10.9.0.98 metric 8
ip route add blackhole 10.78.0.0/16
ip route add 10.79.0.0/16 mtu 1300 nexthop via 10.9.0.97 weight 2 nexthop via 10.9.0.96 weight 1
ip -6 route add fd77::/64 via fd00::99
ip rule add from 10.1.2.3 fwmark 9 table 7 priority 500
ip rule add not iif near table 8 priority 501
ip -6 rule add to fd99::/16 table 9 priority 77
ip route add default via 10.9.0.50 table 7
ip nexthop add id 5 via 10.9.0.60 dev near
ip route add 10.80.0.0/16 nhid 5
ip neigh add 10.9.0.99 lladdr 02:00:00:00:00:99 dev near
ip neigh add proxy 10.9.0.98 dev near
bridge fdb add 02:00:00:00:00:55 dev pair1 master static
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 4321 > /proc/sys/net/core/somaxconn
echo 2 > /proc/sys/net/ipv4/conf/near/rp_filter
echo 1 > /proc/sys/net/ipv6/conf/near/accept_ra_defrtr
echo 77 > /proc/sys/net/ipv4/neigh/near/gc_stale_time
echo 1 > /proc/sys/net/ipv6/conf/br0/disable_ipv6
"""
RULES = """
table inet filter {
  set networks { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.168.0.0/16 } }
  map ports { type inet_service : ipv4_addr; elements = { 80 : 10.9.0.1, 443 : 10.9.0.3 } }
  set seen { type ipv4_addr; flags dynamic,timeout; timeout 1h; }
  counter named { packets 5 bytes 77 }
  chain other {
    tcp dport { 1, 2, 3 } accept
    return
  }
  chain input {
    type filter hook input priority 0; policy accept;
    ip saddr @networks jump other
    counter name named
    iifname "near" tcp dport 22 drop comment "no shell"
    limit rate 10/minute burst 5 packets log prefix "x"
  }
}
table ip nat {
  chain out {
    type nat hook postrouting priority srcnat;
    ip saddr 10.9.0.1 ip daddr 10.9.0.2 tcp dport 4712 masquerade
  }
}
"""
FAR = """
ip link set lo up
ip link set far up mtu 1400
ip addr add 10.9.0.2/24 dev far
ip route add default via 10.9.0.1
"""


def sh(text):
    subprocess.run(["sh", "-ec", text], check=True)


def listing(*command):
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout or "[]")


LINK = ("ifname", "ifindex", "mtu", "address", "ifalias", "altnames", "master", "txqlen", "link_index")
ADDRESS = ("local", "address", "prefixlen", "scope", "label", "broadcast")
PATHS = ("ipv4/ip_forward", "core/somaxconn", "ipv4/conf/near/rp_filter", "ipv6/conf/near/accept_ra_defrtr",
         "ipv4/neigh/near/gc_stale_time", "ipv6/conf/br0/disable_ipv6", "ipv4/conf/all/accept_redirects",
         "ipv6/conf/near/addr_gen_mode", "ipv6/conf/near/mtu")


def state():
    """What must be the same after a restore, without what is never the same."""
    out = {}
    for l in listing("ip", "-j", "-d", "addr"):
        info = l.get("linkinfo", {})
        data = {k: v for k, v in info.get("info_data", {}).items()
                if "timer" not in k and k not in ("topology_change", "bridge_id", "root_id", "designated_root", "root_port")}
        port = info.get("info_slave_data", {})
        out["link " + l["ifname"]] = [
            {k: l.get(k) for k in LINK}, sorted(set(l["flags"]) & {"UP", "NOARP", "MULTICAST", "PROMISC"}),
            info.get("info_kind"), data, port.get("cost"), port.get("hairpin"),
            sorted(str({k: a.get(k) for k in ADDRESS}) for a in l["addr_info"])]
    for family in "-4", "-6":
        out["routes" + family] = sorted(
            str(r) for r in listing("ip", "-j", family, "route", "show", "table", "all")
            if r.get("type") != "multicast" and r.pop("flags", True) is not None)
        out["rules" + family] = listing("ip", "-j", family, "rule")
    out["nexthops"] = sorted(str({k: v for k, v in n.items() if k != "flags"}) for n in listing("ip", "-j", "nexthop"))
    out["neighbors"] = sorted(str(n) for n in listing("ip", "-j", "neigh", "show", "nud", "permanent"))
    out["proxies"] = sorted(str(n) for n in listing("ip", "-j", "neigh", "show", "proxy"))
    out["forwarding"] = sorted(str(f) for f in listing("bridge", "-j", "fdb", "show")
                               if f.get("state") == "static" or "dst" in f)
    rules = subprocess.run(["nft", "-s", "list", "ruleset"], check=True, capture_output=True, text=True).stdout
    out["nftables"] = [l for l in rules.splitlines() if "expires" not in l]
    counters = subprocess.run(["nft", "list", "counters"], check=True, capture_output=True, text=True).stdout
    out["counter"] = [int(n) >= 77 for n in re.findall(r"bytes (\d+)", counters)]
    for path in PATHS:
        if os.path.exists("/proc/sys/net/" + path):
            out[path] = open("/proc/sys/net/" + path).read()
    return out


def compare(was, where):
    now = state()
    good = True
    for key in sorted(set(was) | set(now)):
        if was.get(key) != now.get(key):
            good = False
            log.write("bad: %s: %s is %s, was %s\n" % (where, key, now.get(key), was.get(key)))
    return good


def child(control):
    if libc.unshare(CLONE_NEWNET):
        sys.exit("unshare: errno %d" % ctypes.get_errno())
    control.sendall(b"u")
    control.recv(1)
    sh(FAR)
    listener = socket.create_server(("10.9.0.2", 4712))
    names = socket.socket(socket.AF_UNIX)
    names.bind("\0networks")  # the parent has this name, too, in its own namespace
    names.listen()
    control.sendall(b"l")
    conn, _ = listener.accept()
    was = None
    while True:
        data = conn.recv(8)
        if not data:
            return
        if data.startswith(b"look"):
            if was is None:
                was = state()
            conn.sendall(b"same    " if compare(was, "child") else b"differs ")
        else:
            conn.sendall(data)


here, there = socket.socketpair()
pid = os.fork()
if pid == 0:
    here.close()
    child(there)
    sys.exit(0)
there.close()
here.recv(1)
sh("ip link add near type veth peer name far netns %d" % pid)
here.sendall(b"g")
here.recv(1)  # the carrier is there
sh(NEAR)
subprocess.run(["nft", "-f", "-"], input=RULES, text=True, check=True)
names = socket.socket(socket.AF_UNIX)
names.bind("\0networks")
names.listen()
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("10.9.0.1", 0))
datagrams.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("239.1.2.3") + socket.inet_aton("10.8.0.1"))
loop = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
loop.bind(("fd00::1", 0))
bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
bound.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"near\0")
bound.bind(("10.9.0.3", 4800))
bound.listen()
conn = socket.create_connection(("10.9.0.2", 4712))
conn.settimeout(60)
time.sleep(2)  # what the kernel adds of its own accord
was = state()
conn.sendall(b"look    ")
if conn.recv(8) != b"same    ":
    sys.exit("the child does not agree with itself")
log.write("ready\n")
n = 0
while True:
    message = struct.pack("!Q", n)
    conn.sendall(message)
    if conn.recv(8) != message:
        sys.exit("the child answered something else")
    loop.sendto(message, loop.getsockname())
    if loop.recv(8) != message:
        sys.exit("another datagram")
    if os.path.exists("break"):
        os.unlink("break")
        sh("ip route del blackhole 10.78.0.0/16")
        open("look", "w").close()
    if os.path.exists("look"):
        os.unlink("look")
        conn.sendall(b"look    ")
        answer = conn.recv(8)
        if compare(was, "parent") and answer == b"same    ":
            log.write("same %d\n" % n)
    log.write("tick %d\n" % n)
    n += 1
    time.sleep(0.005)
