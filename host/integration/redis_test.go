package integration

import (
	"bytes"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/firn-cr/firn/host/integration/harness"
)

const redisKeys = 100000

// redisServer is a running redis-server and how to talk to it.
type redisServer struct {
	*subject
	connect []string
}

// command runs redis-cli; the client is gone when it returns.
func (r *redisServer) command(args ...string) (string, error) {
	cli, err := harness.Program("redis-cli")
	if err != nil {
		return "", err
	}
	res, err := harness.Output(10*time.Second, exec.Command(cli, append(r.connect, args...)...))
	return strings.TrimSpace(res), err
}

func (r *redisServer) want(answer string, args ...string) {
	r.t.Helper()
	got, err := r.command(args...)
	if err != nil || got != answer {
		r.t.Fatalf("redis answers %q to %.60q, want %q: %v", got, args, answer, err)
	}
}

// freePort is a TCP port that nobody listens on.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func startRedis(t *testing.T, unixSocket bool) *redisServer {
	t.Helper()
	dir := workDir(t)
	args := []string{"--save", "", "--appendonly", "no", "--dir", dir, "--logfile", "redis.log"}
	var r redisServer
	if unixSocket {
		args = append(args, "--port", "0", "--unixsocket", dir+"/redis.sock")
		r.connect = []string{"-s", dir + "/redis.sock"}
	} else {
		port := strconv.Itoa(freePort(t))
		args = append(args, "--port", port, "--bind", "127.0.0.1", "-::1")
		r.connect = []string{"-p", port}
	}
	r.subject = start(t, harness.Spec{Path: program(t, "redis-server"), Args: append(args, "--set-proc-title", "no"), Dir: dir})
	deadline := time.Now().Add(grace)
	for {
		if got, _ := r.command("PING"); got == "PONG" {
			break
		}
		if time.Now().After(deadline) {
			lines, _ := r.Lines("redis.log")
			t.Fatalf("redis does not answer:\n%s", strings.Join(lines, "\n"))
		}
		time.Sleep(20 * time.Millisecond)
	}
	return &r
}

// TestRedis: redis-server with 100,000 keys and no client listens where it
// did and has every key.
func TestRedis(t *testing.T) {
	for name, unixSocket := range map[string]bool{"tcp": false, "unix socket": true} {
		t.Run(name, func(t *testing.T) {
			needs(t)
			r := startRedis(t, unixSocket)
			const load = `for i = 1, tonumber(ARGV[1]) do redis.call('SET', 'key:' .. i, 'value of ' .. i * 7) end return 'loaded'`
			const check = `local right = 0 for i = 1, tonumber(ARGV[1]) do if redis.call('GET', 'key:' .. i) == 'value of ' .. i * 7 then right = right + 1 end end return right`
			keys := strconv.Itoa(redisKeys)
			r.want("loaded", "EVAL", load, "0", keys)
			for range 2 {
				r.quiet()
				r.cycle()
				r.want(keys, "DBSIZE")
				r.want(keys, "EVAL", check, "0", keys)
				r.want("OK", "SET", "written", "after the restore")
				r.want("after the restore", "GET", "written")
				r.want("1", "DEL", "written")
			}
			if got, err := r.command("INFO", "server"); err != nil || !strings.Contains(got, fmt.Sprintf("process_id:%d\r", r.PID)) {
				t.Errorf("redis tells of another process than %d: %v", r.PID, err)
			}
		})
	}
}

// quiet waits until the server has closed the last client's connection.
func (r *redisServer) quiet() {
	r.t.Helper()
	deadline := time.Now().Add(grace)
	for {
		// The asking client itself is one line.
		got, err := r.command("CLIENT", "LIST")
		if err == nil && bytes.Count([]byte(got), []byte("\n")) == 0 {
			break
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("redis has clients: %q: %v", got, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond)
}
