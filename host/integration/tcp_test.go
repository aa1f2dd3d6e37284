package integration

import (
	"bufio"
	"context"
	"crypto/md5"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/integration/harness"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

const carryConnections = "--tcp-established"

func needsConnections(t *testing.T) {
	t.Helper()
	gate.Cap(t, unix.CAP_NET_ADMIN)
	gate.Cap(t, unix.CAP_NET_RAW)
	firn(t) // compiled before anything runs
}

// tcpCycle ends the tree while its peers wait, and brings it back.
func (s *subject) tcpCycle() {
	s.t.Helper()
	s.checkpoint(carryConnections)
	time.Sleep(300 * time.Millisecond) // peers send again, to nobody
	s.restore()
}

// unlocked requires that no table of nftables has a port in it.
func unlocked(t *testing.T, port int) {
	t.Helper()
	out, err := harness.Output(harness.Patience, exec.Command(program(t, "nft"), "list", "ruleset"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out, fmt.Sprintf(" . %d", port)) {
		t.Errorf("port %d is locked:\n%s", port, out)
	}
}

// TestConnectionsWithin: both ends of 1,000 connections are in the tree.
func TestConnectionsWithin(t *testing.T) {
	needsConnections(t)
	s := start(t, harness.Spec{Path: program(t, "python3"), Args: []string{script(t, "connections.py"), "1000"}})
	s.ready()
	s.checkpoint(carryConnections, "--leave-running")
	s.ticks(10)
	for range 2 {
		s.tcpCycle()
		s.ticks(10)
	}
}

// TestRedisClients: the clients of a benchmark do not notice that the server was
// away.
func TestRedisClients(t *testing.T) {
	needsConnections(t)
	r := startRedis(t, false)
	type result struct {
		out string
		err error
	}
	done := make(chan result, 1)
	bench := exec.Command(program(t, "redis-benchmark"), append(r.connect, "-c", "20", "-n", "400000", "-r", "1000", "-t", "set,get", "-q")...)
	go func() {
		out, err := harness.Output(4*harness.Patience, bench)
		done <- result{out, err}
	}()
	until(t, "the clients have come", func() bool {
		got, err := r.command("CLIENT", "LIST")
		return err == nil && strings.Count(got, "\n") >= 20
	})
	r.tcpCycle()
	time.Sleep(200 * time.Millisecond)
	r.tcpCycle()
	select {
	case res := <-done:
		if res.err != nil || strings.Contains(res.out, "rror") || strings.Count(res.out, "requests per second") < 2 {
			t.Errorf("redis-benchmark: %v\n%s", res.err, res.out)
		}
	case <-time.After(4 * harness.Patience):
		t.Fatal("redis-benchmark does not end")
	}
	port, _ := strconv.Atoi(r.connect[1])
	unlocked(t, port)
}

// TestGoServer: a Go program listens by MPTCP; its clients speak TCP and keep
// their connections.
func TestGoServer(t *testing.T) {
	needsConnections(t)
	addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	s := startGo(t, "goserver", addr)
	dials := 0
	client := &http.Client{Timeout: harness.Patience, Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			dials++
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		},
	}}
	for n := 1; n <= 9; n++ {
		if n%3 == 0 {
			s.tcpCycle()
		}
		res, err := client.Get("http://" + addr)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || string(body) != strconv.Itoa(n) {
			t.Fatalf("answer %q to request %d: %v", body, n, err)
		}
	}
	if dials != 1 {
		t.Errorf("%d connections for one client", dials)
	}
	s.unharmed()
}

// TestNginx: a slow download over a connection that is kept, with the server away
// for a while in the middle.
func TestNginx(t *testing.T) {
	needsConnections(t)
	dir := workDir(t)
	port := freePort(t)
	conf := fmt.Sprintf("daemon off; worker_processes 2; pid nginx.pid; error_log error.log;\nevents {}\nhttp { access_log off; client_body_temp_path t; proxy_temp_path t; fastcgi_temp_path t; uwsgi_temp_path t; scgi_temp_path t;\nserver { listen 127.0.0.1:%d; root %s; keepalive_timeout 600; } }\n", port, dir)
	want := md5.New()
	f, err := os.Create(filepath.Join(dir, "large"))
	if err != nil {
		t.Fatal(err)
	}
	const size = 64 << 20
	if _, err := io.CopyN(io.MultiWriter(f, want), rand.NewChaCha8([32]byte{1}), size); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "conf"), []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	f.Close()
	s := start(t, harness.Spec{Path: program(t, "nginx"), Args: []string{"-p", dir, "-c", dir + "/conf"}, Dir: dir})
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	var conn net.Conn
	until(t, "nginx listens", func() bool { conn, err = net.Dial("tcp", addr); return err == nil })
	defer conn.Close()
	in := bufio.NewReader(conn)
	for round := range 2 {
		fmt.Fprintf(conn, "GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatalf("request %d: %v", round, err)
		}
		got := md5.New()
		for read := int64(0); read < size; {
			if read == size/4 || read == size/2 {
				s.tcpCycle()
			}
			n, err := io.CopyN(got, res.Body, 1<<20)
			if err != nil {
				t.Fatalf("after %d bytes: %v", read, err)
			}
			read += n
		}
		res.Body.Close()
		if string(got.Sum(nil)) != string(want.Sum(nil)) {
			t.Fatal("other bytes than those of the file")
		}
	}
	unlocked(t, port)
}

// TestPostgresClient: a client in the middle of a transaction.
func TestPostgresClient(t *testing.T) {
	needsConnections(t)
	p := startPostgres(t)
	p.want("", "create table t (n int)")
	cmd := exec.Command("/usr/bin/psql", "-h", "127.0.0.1", "-p", p.port, "-U", "postgres", "-XAtq", "-v", "ON_ERROR_STOP=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	answers, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer answers.Close()
	cmd.Stdout, cmd.Stderr = out, out
	done := make(chan error, 1)
	wait, err := harness.Begin(cmd)
	if err != nil {
		t.Fatal(err)
	}
	out.Close()
	go func() { done <- wait() }()
	defer cmd.Process.Kill()
	lines := bufio.NewReader(answers)
	expect := func(sql, want string) {
		t.Helper()
		fmt.Fprintln(in, sql)
		if err := answers.SetReadDeadline(time.Now().Add(harness.Patience)); err != nil {
			t.Fatal(err)
		}
		if got, err := lines.ReadString('\n'); err != nil || got != want+"\n" {
			t.Fatalf("%s: %q, want %q: %v", sql, got, want, err)
		}
	}
	expect("begin; insert into t select generate_series(1, 1000); select count(*) from t;", "1000")
	for range 2 {
		p.retried(carryConnections)
		p.restore()
		expect("insert into t values (0); select count(*) > 1000 from t;", "t")
	}
	expect("commit; select count(*) from t;", "1002")
	in.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	p.want("1002", "select count(*) from t")
}

// TestNamespacePeer: the client is in another network namespace and does not stop
// asking while the server is away.
func TestNamespacePeer(t *testing.T) {
	needsConnections(t)
	server, client := newWorld(t, "a"), newWorld(t, "b")
	server.pair(client, "192.0.2.")
	s := start(t, harness.Spec{Path: program(t, "nsenter"), Args: append(server.enter()[1:],
		program(t, "python3"), script(t, "download.py"), "192.0.2.1", "4711")})
	s.ready()
	done := client.ask("192.0.2.1", 3, 3<<20)
	for range 2 {
		s.ticks(100)
		want(t, harness.StatusDone, server.firn(), "checkpoint", strconv.Itoa(s.PID), "-o", s.image, carryConnections)
		s.Forget()
		time.Sleep(300 * time.Millisecond)
		want(t, harness.StatusDone, server.firn(), "restore", "-d", s.image)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	s.unharmed()
}

// TestConnectionCrash: firn is killed at random moments of a checkpoint. The
// connection goes on, and nothing is locked.
func TestConnectionCrash(t *testing.T) {
	needsConnections(t)
	port := freePort(t)
	s := start(t, harness.Spec{Path: program(t, "python3"), Args: []string{script(t, "download.py"), "127.0.0.1", strconv.Itoa(port)}})
	s.ready()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	at, total := 0, 8<<20
	fmt.Fprintln(conn, total)
	read := func(n int) {
		t.Helper()
		b := make([]byte, n)
		if err := conn.SetDeadline(time.Now().Add(harness.Patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, b); err != nil {
			t.Fatalf("at %d: %v", at, err)
		}
		for _, c := range b {
			if c != byte((at*7+13)%251) {
				t.Fatalf("at %d: other bytes", at)
			}
			at++
		}
	}
	f := firn(t)
	for range 25 {
		r, err := f.Start("checkpoint", strconv.Itoa(s.PID), "-o", s.image, carryConnections, "--leave-running", "--no-sync")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rand.IntN(70)) * time.Millisecond)
		if err := r.Kill(); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Wait(); err != nil {
			t.Fatal(err)
		}
		read(100000)
		until(t, "nothing is disturbed", func() bool { return len(s.Disturbed()) == 0 })
	}
	until(t, "nothing is locked", func() bool {
		out, err := harness.Output(harness.Patience, exec.Command(program(t, "nft"), "list", "ruleset"))
		return err == nil && !strings.Contains(out, fmt.Sprintf(" . %d", port))
	})
}
