package integration

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/firn-cr/firn/host/integration/harness"
)

// mariadb is a server that reads and writes its tables through io_uring.
type mariadb struct {
	*subject
	socket string
}

// startMariaDB makes a database and starts its server.
func startMariaDB(t *testing.T) *mariadb {
	t.Helper()
	firn(t) // compiled before the program runs
	dir := workDir(t)
	m := &mariadb{socket: dir + "/sock"}
	const script = `"$1" --no-defaults --user=root --datadir="$PWD/data" --auth-root-authentication-method=normal --skip-test-db >install 2>&1 &&
exec "$2" --no-defaults --user=root --datadir="$PWD/data" --socket="$PWD/sock" --pid-file="$PWD/pid" --skip-networking --innodb-flush-log-at-trx-commit=2`
	m.subject = start(t, harness.Spec{
		Path: program(t, "bash"), Dir: dir, Args: []string{"-c", script, "bash", program(t, "mariadb-install-db"), program(t, "mariadbd")},
	})
	until(t, "the server answers", func() bool { _, err := m.query("select 1"); return err == nil })
	return m
}

// query runs the client; it is gone when it returns.
func (m *mariadb) query(sql string) (string, error) {
	out, err := harness.Output(harness.Patience, exec.Command("/usr/bin/mariadb", "--no-defaults", "-S", m.socket, "-u", "root", "-N", "-B", "-e", sql))
	return strings.TrimSpace(out), err
}

func (m *mariadb) want(answer, sql string) {
	m.t.Helper()
	if got, err := m.query(sql); err != nil || got != answer {
		m.t.Fatalf("mariadb answers %q to %.80q, want %q: %v", got, sql, answer, err)
	}
}

// rings counts the rings of io_uring that the server has.
func (m *mariadb) rings() (n int) {
	dir := fmt.Sprintf("/proc/%d/fd/", m.PID)
	entries, err := os.ReadDir(dir)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, e := range entries {
		if link, _ := os.Readlink(dir + e.Name()); link == "anon_inode:[io_uring]" {
			n++
		}
	}
	return n
}

// TestMariaDB: a database that works with io_uring goes on after every restore, with
// what it had not written to its tables yet, and writes on through the ring.
func TestMariaDB(t *testing.T) {
	m := startMariaDB(t)
	if m.rings() == 0 {
		t.Fatal("the server does not use io_uring: nothing would be tested")
	}
	m.want("", "create database d; create table d.t (n int primary key, text text) engine=InnoDB")
	rows := 0
	for i := range 3 {
		m.want("", fmt.Sprintf("use d; insert into t select seq, repeat(md5(seq), 5) from seq_%d_to_%d", rows+1, rows+5000))
		rows += 5000
		if i == 2 {
			break
		}
		m.retried("--file-locks")
		m.restore()
		m.want(fmt.Sprintf("%d\t%d", rows, rows), "select count(*), sum(crc32(text) = crc32(repeat(md5(n), 5))) from d.t")
		if m.rings() == 0 {
			t.Error("the server has lost its ring")
		}
	}
	// Everything goes through the ring, in both directions.
	m.want("OK", "flush tables d.t for export; unlock tables; select 'OK'")
	m.want("d.t\tcheck\tstatus\tOK", "check table d.t extended")
	m.want(fmt.Sprint(rows), "select count(*) from d.t")
}
