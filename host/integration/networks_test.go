package integration

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/integration/harness"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

// startNetworks starts the subject "networks" by unshare(1).
func startNetworks(t *testing.T, unshare string) *subject {
	t.Helper()
	needsConnections(t)
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	for _, name := range []string{"ip", "bridge", "nft"} {
		program(t, name)
	}
	s := start(t, harness.Spec{Path: program(t, "unshare"), Args: []string{unshare, program(t, "python3"), script(t, "networks.py")}})
	s.ready()
	return s
}

// same has the subject compare its namespaces with what they were.
func (s *subject) same() {
	s.t.Helper()
	before := s.count("same ")
	s.ask("look")
	for end := time.Now().Add(harness.Patience); s.count("same ") == before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatal("the namespaces are not what they were")
		}
		s.ticks(1)
	}
}

// count counts lines of the log.
func (s *subject) count(prefix string) (n int) {
	s.t.Helper()
	lines, err := s.Log()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, l := range lines {
		if strings.HasPrefix(l, prefix) {
			n++
		}
	}
	return n
}

// TestNetworkNamespaces: two network namespaces in a tree, with devices of several
// kinds, a veth pair from one to the other, addresses, rules, routes, nexthops,
// neighbors, nftables and settings, and sockets in both that talk all the time.
func TestNetworkNamespaces(t *testing.T) {
	for name, unshare := range map[string]string{"": "-n", "in a user namespace": "-Urn"} {
		t.Run(name, func(t *testing.T) {
			s := startNetworks(t, unshare)
			s.same()
			s.checkpoint(carryConnections, "--leave-running")
			s.unharmed()
			for range 2 {
				s.tcpCycle()
				s.unharmed()
				s.same()
			}
		})
	}
}

// world is a network namespace in which a test runs firn, so that it does not
// touch the machine's devices.
type world struct {
	t    *testing.T
	name string
}

func newWorld(t *testing.T, tag string) *world {
	t.Helper()
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	w := &world{t, fmt.Sprintf("firn-%s%d", tag, os.Getpid())}
	w.ip("netns", "add", w.name)
	t.Cleanup(func() { w.ip("netns", "del", w.name) })
	w.ip("-n", w.name, "link", "set", "lo", "up")
	return w
}

// ip runs ip(8).
func (w *world) ip(args ...string) string {
	w.t.Helper()
	out, err := harness.Output(harness.Patience, exec.Command(program(w.t, "ip"), args...))
	if err != nil {
		w.t.Fatalf("ip %v: %v: %s", args, err, out)
	}
	return out
}

// pair connects two namespaces. The first one gets address 1 of a network, of which
// the beginning is given, the other one address 2.
func (w *world) pair(other *world, network string) {
	w.ip("-n", w.name, "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", other.name)
	for i, o := range []*world{w, other} {
		o.ip("-n", o.name, "addr", "add", fmt.Sprintf("%s%d/24", network, i+1), "dev", fmt.Sprintf("v%d", i))
		o.ip("-n", o.name, "link", "set", fmt.Sprintf("v%d", i), "up")
	}
}

// enter is the beginning of a command in the namespace.
func (w *world) enter() []string {
	return []string{program(w.t, "nsenter"), "--net=/run/netns/" + w.name, "--"}
}

// firn is firn in the namespace.
func (w *world) firn() harness.Firn {
	f := firn(w.t)
	f.Prefix = w.enter()
	return f
}

// ask starts a client that asks the subject download.py for bytes and checks each
// of them.
func (w *world) ask(address string, rounds, size int) <-chan error {
	client := exec.Command(w.enter()[0], append(w.enter()[1:], program(w.t, "python3"), "-c", fmt.Sprintf(`
import socket
s = socket.create_connection(("%[1]s", 4711), timeout=60)
f = s.makefile("rb")
for n in range(%[2]d):
    s.sendall(b"%[3]d\n")
    for at in range(0, %[3]d, 4096):
        if f.read(4096) != bytes((i * 7 + 13) %% 251 for i in range(at, at + 4096)):
            raise SystemExit("other bytes at %%d" %% at)
print("all is right")
`, address, rounds, size))...)
	done := make(chan error, 1)
	go func() {
		out, err := harness.Output(4*harness.Patience, client)
		if err == nil && out != "all is right\n" {
			err = fmt.Errorf("client: %s", out)
		}
		done <- err
	}()
	return done
}

// startOutside starts the subject download.py in a network namespace of its own,
// whose veth pair ends in a bridge of the world.
func (w *world) startOutside() *subject {
	t := w.t
	t.Helper()
	w.ip("-n", w.name, "link", "add", "bridge0", "type", "bridge")
	w.ip("-n", w.name, "link", "set", "bridge0", "up")
	w.ip("-n", w.name, "addr", "add", "10.66.0.254/24", "dev", "bridge0")
	s := start(t, harness.Spec{Path: program(t, "unshare"), Args: []string{"-n", "sh", "-c",
		`until ip addr show eth0 >/dev/null 2>&1; do sleep 0.05; done
ip link set lo up; ip addr add 10.66.0.1/24 dev eth0; ip link set eth0 up; ip route add default via 10.66.0.254
exec python3 "$0" 10.66.0.1 4711`, script(t, "download.py")}})
	for deadline := time.Now().Add(harness.Patience); !ownNetwork(t, s.PID); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the subject has no network namespace of its own")
		}
	}
	w.ip("-n", w.name, "link", "add", "web1", "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(s.PID))
	w.ip("-n", w.name, "link", "set", "web1", "master", "bridge0", "up")
	s.ready()
	return s
}

// outside is what lets a checkpoint of startOutside's subject leave the other end
// of its pair to the restore.
var outside = []string{"--external", "veth[eth0]"}

// TestNetworkNamespaceOutside: the veth pair of a tree ends in a bridge outside,
// where a client is in the middle of a download; the namespace is made anew.
func TestNetworkNamespaceOutside(t *testing.T) {
	needsConnections(t)
	w := newWorld(t, "o")
	s := w.startOutside()
	res := run(t, w.firn(), "checkpoint", strconv.Itoa(s.PID), "-o", s.image)
	if res.Status != harness.StatusRefused || !strings.Contains(res.Stderr, "its other end web1 is outside of the tree: --external 'veth[eth0]'") {
		t.Errorf("%v", res)
	}
	done := w.ask("10.66.0.1", 3, 3<<20)
	checkpoint := append([]string{"checkpoint", strconv.Itoa(s.PID), "-o", s.image, carryConnections}, outside...)
	for i, names := range [][]string{nil, {"--external", "veth[eth0]:web2@bridge0"}} {
		s.ticks(50)
		want(t, harness.StatusDone, w.firn(), checkpoint...)
		s.Forget()
		time.Sleep(300 * time.Millisecond)
		if i == 0 {
			w.taken(s)
		}
		want(t, harness.StatusDone, w.firn(), append([]string{"restore", "-d", s.image}, names...)...)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	s.unharmed()
	if out := w.ip("-n", w.name, "-br", "link", "show", "master", "bridge0"); !strings.HasPrefix(out, "web2@") || strings.Contains(out, "web1") {
		t.Errorf("ports of the bridge: %s", out)
	}
	if out := w.ip("-n", w.name, "link", "show", "type", "veth"); strings.Count(out, "veth")+strings.Count(out, "web") != 1 {
		t.Errorf("devices: %s", out)
	}
}

// taken tries a restore whose outer device cannot be made: nothing is left of it.
func (w *world) taken(s *subject) {
	w.t.Helper()
	w.ip("-n", w.name, "link", "add", "web1", "type", "ifb")
	res := run(w.t, w.firn(), "restore", "-d", s.image)
	if res.Status == harness.StatusDone || !strings.Contains(res.Stderr, "has a device web1 already") {
		w.t.Errorf("%v", res)
	}
	w.ip("-n", w.name, "link", "del", "web1")
	res = run(w.t, w.firn(), "restore", "-d", s.image, "--external", "veth[eth0]:web1@nowhere")
	if res.Status == harness.StatusDone || !strings.Contains(res.Stderr, "there is no bridge nowhere") {
		w.t.Errorf("%v", res)
	}
}

// ownNetwork tells whether a process is in another network namespace than the test.
func ownNetwork(t *testing.T, pid int) bool {
	t.Helper()
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		t.Fatal(err)
	}
	ours, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return theirs != ours
}

// TestJoinNetworkNamespace: a namespace that somebody else has made is not in the
// image, and the tree enters it again while a client outside waits.
func TestJoinNetworkNamespace(t *testing.T) {
	needsConnections(t)
	outer, inner := newWorld(t, "j"), newWorld(t, "k")
	outer.pair(inner, "10.67.0.")
	// Something that the plugin would refuse.
	inner.ip("-n", inner.name, "tuntap", "add", "mode", "tun", "t0")
	s := start(t, harness.Spec{Path: program(t, "nsenter"), Args: append(inner.enter()[1:],
		program(t, "python3"), script(t, "download.py"), "10.67.0.2", "4711")})
	s.ready()
	pid, path := strconv.Itoa(s.PID), "net:/run/netns/"+inner.name
	res := run(t, outer.firn(), "checkpoint", pid, "-o", s.image)
	if res.Status != harness.StatusRefused || !strings.Contains(res.Stderr, "device t0: its kind tun is not carried") {
		t.Errorf("%v", res)
	}
	var st unix.Stat_t
	if err := unix.Stat("/run/netns/"+inner.name, &st); err != nil {
		t.Fatal(err)
	}
	done := outer.ask("10.67.0.2", 3, 3<<20)
	for range 2 {
		s.ticks(50)
		want(t, harness.StatusDone, outer.firn(), "checkpoint", pid, "-o", s.image, carryConnections, "--external", fmt.Sprintf("net[%d]", st.Ino))
		s.Forget()
		time.Sleep(300 * time.Millisecond)
		for _, c := range []struct {
			args []string
			text string
		}{
			{nil, "is not in the image: pass --join-ns net:PATH"},
			{[]string{"--join-ns", "net:/proc/self/ns/uts"}, "is no net namespace"},
			{[]string{"--join-ns", "net"}, "want NAME:PATH"},
			{[]string{"--join-ns", "net:/run/netns/nobody"}, "no such file"},
			{[]string{"--join-ns", path, "--join-ns", path}, "given twice"},
			{[]string{"--join-ns", path, "--join-ns", "uts:/proc/self/ns/uts"}, "no uts namespace of its own"},
		} {
			res := run(t, outer.firn(), append([]string{"restore", "-d", s.image}, c.args...)...)
			if res.Status == harness.StatusDone || !strings.Contains(res.Stderr, c.text) {
				t.Errorf("%v: %v", c.args, res)
			}
		}
		want(t, harness.StatusDone, outer.firn(), "restore", "-d", s.image, "--join-ns", path)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	s.unharmed()
	if pids := inner.ip("netns", "pids", inner.name); strings.TrimSpace(pids) != pid {
		t.Errorf("processes in the namespace: %s, want %s", pids, pid)
	}
}

// TestNetworkNamespaceRefused: what cannot be carried is named, all of it.
func TestNetworkNamespaceRefused(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	s := start(t, harness.Spec{Path: program(t, "unshare"), Args: []string{"-n", "sh", "-ec",
		`ip tuntap add mode tun t0
ip link add v0 type veth peer name v1
tc qdisc add dev v0 root tbf rate 1mbit burst 32kbit latency 400ms
ip link add br0 type bridge
bridge fdb add 02:00:00:00:00:77 dev br0 self permanent
ip xfrm policy add src 10.0.0.0/8 dst 10.1.0.0/16 dir out tmpl src 10.0.0.1 dst 10.1.0.1 proto esp mode tunnel || echo no IPsec >> out
exec python3 "$0"`, script(t, "counter.py")}})
	s.ready()
	res := run(t, firn(t), "check", strconv.Itoa(s.PID))
	words := []string{"device t0: its kind tun is not carried", "device v0: has the queueing discipline tbf", "device br0: has the permanent forwarding entry"}
	if out, err := s.Lines("out"); err != nil || !strings.Contains(strings.Join(out, "\n"), "no IPsec") {
		words = append(words, "IPsec: has")
	}
	for _, w := range words {
		if res.Status != harness.StatusRefused || !strings.Contains(res.Stdout, w) {
			t.Errorf("status %d, not in the report: %s\n%s", res.Status, w, res.Stdout)
		}
	}
	s.unharmed()
}
