package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk/hbuf"
)

const childEnv = "FIRN_HBUF_BENCH_CHILD"

// job is what a child process does: rounds of count payloads of size bytes.
type job struct {
	Via     string // "arena" or "grpc"
	Bulk    bool
	Size    int
	Count   int // per round
	Rounds  int
	Written bool // wait until the host has written, not only accepted
	Arena   uint64
	Segment uint32
	Socket  string // grpc
	Keep    bool   // the host keeps everything: so does the copy
}

// round is the time that one round took, and the processor time that the plugin
// spent on it, which depends less on what else runs on the machine.
type round struct{ Carry, Copy, Sum, CarryCPU, CopyCPU time.Duration }

// cpu is the processor time of this process.
func cpu() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestMain(m *testing.M) {
	spec := os.Getenv(childEnv)
	if spec == "" {
		os.Exit(m.Run())
	}
	if err := child(spec); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// child runs a job and prints its rounds.
func child(spec string) error {
	var j job
	if err := json.Unmarshal([]byte(spec), &j); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var p *hbuf.Producer
	var err error
	if j.Via == "grpc" {
		var stop func()
		if p, stop, err = serveGRPC(ctx, j.Socket); err != nil {
			return err
		}
		defer stop()
	} else {
		p, err = hbuf.Attach(os.NewFile(3, "arena"), os.NewFile(4, "submit"), os.NewFile(5, "complete"), j.Arena, j.Segment)
		if err != nil {
			return err
		}
	}
	src := source(max(256<<20, j.Size))
	window := make([]byte, hbuf.DefaultWarm)
	if j.Keep {
		window = make([]byte, max(j.Count*j.Size, len(window)))
	}
	for i := 0; i < len(window); i += hbuf.PageSize {
		window[i] = 1
	}
	fmt.Println("ready")
	in := bufio.NewReader(os.Stdin)
	for range j.Rounds {
		if _, err := in.ReadString('\n'); err != nil {
			return err
		}
		var r round
		start, startCPU := time.Now(), cpu()
		copyAll(j, window, src, false)
		r.Copy, r.CopyCPU = time.Since(start), cpu()-startCPU
		start = time.Now()
		copyAll(j, window, src, true)
		r.Sum = time.Since(start)
		start, startCPU = time.Now(), cpu()
		if err := carryAll(ctx, j, p, src); err != nil {
			return err
		}
		r.Carry, r.CarryCPU = time.Since(start), cpu()-startCPU
		if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
			return err
		}
	}
	return p.Close()
}

// source is memory larger than the caches, like the memory of a task.
func source(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7)
	}
	return b
}

// copyAll is what the figures are compared to: one process copies the same
// payloads from the same source into private memory that it has touched
// before, 16 MiB again and again, or as much as there are payloads if the host
// keeps them. With sum it computes their checksums as well.
func copyAll(j job, window, src []byte, sum bool) {
	for i := range j.Count {
		at, to := i*j.Size%(len(src)-j.Size+1), i*j.Size%(len(window)-j.Size+1)
		copy(window[to:to+j.Size], src[at:])
		if sum {
			hbuf.Checksum(window[to : to+j.Size])
		}
	}
}

// carryAll copies the payloads into reserved buffers, commits them, and waits
// until the host has them.
func carryAll(ctx context.Context, j job, p *hbuf.Producer, src []byte) error {
	reserve := p.Get
	if j.Bulk {
		reserve = p.GetBulk
	}
	for i := range j.Count {
		buf, err := reserve(ctx, j.Size)
		if err != nil {
			return err
		}
		at := i * j.Size % (len(src) - j.Size + 1)
		copy(buf.Payload(), src[at:at+j.Size])
		if err := buf.Commit(ctx, 1, 1, uint64(i)); err != nil {
			return err
		}
	}
	if j.Written {
		return p.Barrier(ctx)
	}
	return p.Flush(ctx)
}

// process is a child as the parent sees it.
type process struct {
	cmd *exec.Cmd
	in  *os.File
	out *bufio.Scanner
}

// start runs a child until it is ready.
func start(b *testing.B, j job, files []*os.File) *process {
	b.Helper()
	spec, err := json.Marshal(j)
	if err != nil {
		b.Fatal(err)
	}
	inRead, in, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	out, outWrite, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(spec))
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = inRead, outWrite, os.Stderr, files
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	_ = inRead.Close()
	_ = outWrite.Close()
	p := &process{cmd, in, bufio.NewScanner(out)}
	b.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = out.Close()
	})
	if !p.out.Scan() || p.out.Text() != "ready" {
		b.Fatal("child did not start")
	}
	return p
}

// round lets the child do one round.
func (p *process) round(b *testing.B) round {
	b.Helper()
	if _, err := p.in.WriteString("\n"); err != nil {
		b.Fatal(err)
	}
	var r round
	if !p.out.Scan() {
		b.Fatal("child ended")
	}
	if err := json.NewDecoder(strings.NewReader(p.out.Text())).Decode(&r); err != nil {
		b.Fatal(err)
	}
	return r
}

// report prints the median of the rounds, and the processor time per payload.
func report(b *testing.B, j job, rounds []round, host time.Duration) {
	b.Helper()
	carry, ratio, sums := make([]float64, 0, len(rounds)), make([]float64, 0, len(rounds)), make([]float64, 0, len(rounds))
	var plugin, plain time.Duration
	for _, r := range rounds {
		plugin += r.CarryCPU
		plain += r.CopyCPU
		carry = append(carry, r.Carry.Seconds())
		ratio = append(ratio, r.Copy.Seconds()/r.Carry.Seconds())
		sums = append(sums, r.Sum.Seconds()/r.Carry.Seconds())
	}
	slices.Sort(sums)
	slices.Sort(carry)
	slices.Sort(ratio)
	b.ReportMetric(0, "ns/op")
	total := float64(j.Count * len(rounds))
	b.ReportMetric(float64(plugin.Nanoseconds())/total, "plugin-ns")
	b.ReportMetric(float64(plain.Nanoseconds())/total, "memcpy-ns")
	b.ReportMetric(float64(host.Nanoseconds())/total, "host-ns")
	b.ReportMetric(100*ratio[len(ratio)/2], "%memcpy")
	b.ReportMetric(100*sums[len(sums)/2], "%memcpy+crc")
	if median := carry[len(carry)/2]; j.Bulk {
		b.ReportMetric(float64(j.Count)*float64(j.Size)/median/(1<<30), "GiB/s")
		b.ReportMetric(float64(j.Count)*float64(j.Size)/carry[0]/(1<<30), "GiB/s-best")
	} else {
		b.ReportMetric(float64(j.Count)/median/1e6, "Mrecords/s")
		b.ReportMetric(float64(j.Count)/carry[0]/1e6, "Mrecords/s-best")
	}
}
