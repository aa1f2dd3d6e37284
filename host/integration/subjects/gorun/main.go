// Command gorun is a Go program that verifies itself while it is checkpointed
// and restored: goroutines and channels, tickers, timers, the garbage
// collector, locked threads, and the network poller over pipes, unix sockets
// and a listening TCP socket.
//
// It works like the subjects in C: see subject.h.
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	tickers   = 50
	computers = 4
	lockers   = 2
)

var (
	logFile *os.File
	// beats has one counter per part of the program; all must go on.
	beats [tickers + computers + lockers + 4]atomic.Int64
	next  atomic.Int64
)

func say(format string, args ...any) {
	if _, err := fmt.Fprintf(logFile, format+"\n", args...); err != nil {
		os.Exit(99)
	}
}

func bad(format string, args ...any) { say("bad: "+format, args...) }

func beat() *atomic.Int64 { return &beats[next.Add(1)-1] }

func ticking(every time.Duration, b *atomic.Int64) {
	t := time.NewTicker(every)
	for range t.C {
		b.Add(1)
	}
}

// computing allocates and verifies, so that the collector has work.
func computing(seed byte, b *atomic.Int64) {
	var kept [16][]byte
	for i := 0; ; i++ {
		slot := i % len(kept)
		if old := kept[slot]; old != nil && !bytes.Equal(old, bytes.Repeat([]byte{seed}, len(old))) {
			bad("goroutine %d: memory changed", seed)
		}
		kept[slot] = bytes.Repeat([]byte{seed}, 1000+i%5000)
		b.Add(1)
		if i%100 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
}

// locked holds an OS thread, which must stay the same one.
func locked(b *atomic.Int64) {
	runtime.LockOSThread()
	tid := syscall.Gettid()
	for {
		if got := syscall.Gettid(); got != tid {
			bad("locked thread %d is %d now", tid, got)
		}
		b.Add(1)
		time.Sleep(2 * time.Millisecond)
	}
}

// echoing sends numbers through a connection and reads them back.
func echoing(name string, w io.Writer, r io.Reader, b *atomic.Int64) {
	in := bufio.NewReader(r)
	for i := 0; ; i++ {
		if _, err := fmt.Fprintf(w, "%d\n", i); err != nil {
			bad("%s: write: %v", name, err)
			return
		}
		line, err := in.ReadString('\n')
		if err != nil || line != fmt.Sprintf("%d\n", i) {
			bad("%s: read %q, want %d: %v", name, line, i, err)
			return
		}
		b.Add(1)
		time.Sleep(3 * time.Millisecond)
	}
}

func pipes() {
	r, w, err := os.Pipe()
	if err != nil {
		bad("setup: %v", err)
	}
	go echoing("pipe", w, r, beat())
}

// unixPair echoes through a second goroutine over a socket pair.
func unixPair() {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		bad("setup: %v", err)
		return
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		if ends[i], err = net.FileConn(f); err != nil {
			bad("setup: %v", err)
			return
		}
		_ = f.Close()
	}
	go func() { _, _ = io.Copy(ends[1], ends[1]) }()
	go echoing("socket pair", ends[0], ends[0], beat())
}

// deadlines uses the poller's timers: nothing ever arrives.
func deadlines() {
	r, w, err := os.Pipe()
	if err != nil {
		bad("setup: %v", err)
	}
	b := beat()
	go func() {
		defer w.Close() // or the collector would close it
		for {
			_ = r.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			if n, err := r.Read(make([]byte, 1)); !os.IsTimeout(err) {
				bad("deadline: read %d bytes: %v", n, err)
				return
			}
			b.Add(1)
		}
	}()
}

// serve answers every connection with a greeting: the test connects after the
// restore. The addresses are written to the log.
func serve(network, address string) {
	l, err := net.Listen(network, address)
	if err != nil {
		bad("setup: %v", err)
		return
	}
	say("listening %s %s", network, l.Addr())
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				bad("accept: %v", err)
				return
			}
			_, _ = fmt.Fprintf(c, "greetings from %d\n", os.Getpid())
			_ = c.Close()
		}
	}()
}

func main() {
	var err error
	if logFile, err = os.OpenFile("log", os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644); err != nil {
		os.Exit(97)
	}
	for i := range tickers {
		go ticking(time.Duration(3+i%7)*time.Millisecond, beat())
	}
	for i := range computers {
		go computing(byte(i+1), beat())
	}
	for range lockers {
		go locked(beat())
	}
	pipes()
	unixPair()
	deadlines()
	collected := beat()
	serve("tcp", "127.0.0.1:0")
	serve("unix", "gorun.sock")
	say("ready")
	var last [len(beats)]int64
	for n := 0; ; n++ {
		runtime.GC()
		collected.Add(1)
		for i := range beats {
			for beats[i].Load() == last[i] {
				time.Sleep(time.Millisecond)
			}
			last[i] = beats[i].Load()
		}
		say("tick %d", n)
		if _, err := os.Stat("break"); err == nil {
			bad("asked to break")
		}
		time.Sleep(10 * time.Millisecond)
	}
}
