package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/firn-cr/firn/host/integration/harness"
)

// postgres is a server with an IPC namespace of its own, in which it has its
// System V shared memory.
type postgres struct {
	*subject
	port string
}

// startPostgres makes a database and starts its server.
func startPostgres(t *testing.T) *postgres {
	t.Helper()
	firn(t) // compiled before the program runs
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(found) == 0 {
		t.Fatalf("no postgres: %v: make deps installs what the tests need", err)
	}
	bin := filepath.Dir(found[len(found)-1])
	dir := workDir(t)
	const nobody = 65534
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	p := &postgres{port: strconv.Itoa(freePort(t))}
	script := `umask 077; "$1/initdb" -D data -A trust -U postgres -N && exec "$1/postgres" -D data -k "$PWD" -c listen_addresses=127.0.0.1 -p "$2" -c autovacuum_naptime=1`
	p.subject = start(t, harness.Spec{
		Path: program(t, "unshare"), Dir: dir,
		Args: []string{"--ipc", program(t, "setpriv"), "--reuid", strconv.Itoa(nobody), "--regid", strconv.Itoa(nobody), "--clear-groups",
			program(t, "bash"), "-c", script, "bash", bin, p.port},
	})
	until(t, "the server answers", func() bool { _, err := p.query("select 1"); return err == nil })
	return p
}

// query runs psql; the client is gone when it returns.
func (p *postgres) query(sql string) (string, error) {
	cmd := exec.Command("/usr/bin/psql", "-h", "127.0.0.1", "-p", p.port, "-U", "postgres", "-XAtq", "-c", sql)
	out, err := harness.Output(harness.Patience, cmd)
	return strings.TrimSpace(out), err
}

func (p *postgres) want(answer, sql string) {
	p.t.Helper()
	if got, err := p.query(sql); err != nil || got != answer {
		p.t.Fatalf("postgres answers %q to %.80q, want %q: %v", got, sql, answer, err)
	}
}

// quiet waits until no server process has a client.
func (p *postgres) quiet() {
	p.t.Helper()
	until(p.t, "the clients are gone", func() bool {
		clients := 0
		for _, pr := range p.Tree() {
			line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pr.PID))
			if strings.Contains(string(line), "127.0.0.1(") {
				clients++
			}
		}
		return clients == 0
	})
}

// TestPostgres: a database with rows that are in shared memory and in the log
// only. After every restore they are there, and more can be written.
func TestPostgres(t *testing.T) {
	p := startPostgres(t)
	p.want("", "create table t (n int primary key, text text)")
	rows := 0
	for i := range 3 {
		p.want("", fmt.Sprintf("insert into t select n, repeat(md5(n::text), 5) from generate_series(%d, %d) n", rows, rows+9999))
		rows += 10000
		if i == 2 {
			break
		}
		p.quiet()
		p.retried()
		p.restore()
		p.want(fmt.Sprint(rows, "|", rows), "select count(*), count(*) filter (where text = repeat(md5(n::text), 5)) from t")
	}
	p.want(fmt.Sprint(rows), "checkpoint; select count(*) from t")
	if lines := strings.Join(p.lines("out"), "\n"); strings.Contains(lines, "PANIC") || strings.Contains(lines, "terminat") {
		t.Errorf("the server complains:\n%s", lines)
	}
}
