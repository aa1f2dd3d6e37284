// Package ui formats what firn prints.
package ui

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// JSON prints v as one object.
func JSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// Count formats a number with its noun.
func Count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// Size formats bytes in binary units.
func Size(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	if i == 0 || f >= 100 {
		return fmt.Sprintf("%.0f %s", f, units[i])
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}

// Millis formats milliseconds.
func Millis(ms float64) string {
	switch {
	case ms >= 10000:
		return fmt.Sprintf("%.1f s", ms/1000)
	case ms >= 100:
		return fmt.Sprintf("%.0f ms", ms)
	}
	return fmt.Sprintf("%.1f ms", ms)
}

// MS converts a duration to milliseconds with three digits.
func MS(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// Bytes is a flag: a number with an optional unit (K, M, G, binary).
type Bytes int64

// Set implements pflag.Value.
func (b *Bytes) Set(s string) error {
	text := strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(s), "B"), "I")
	shift := 0
	for i, unit := range []string{"K", "M", "G", "T"} {
		if cut, ok := strings.CutSuffix(text, unit); ok {
			text, shift = cut, 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n <= 0 || n > (1<<62)>>shift {
		return fmt.Errorf("%q is not a size such as 512M", s)
	}
	*b = Bytes(n << shift)
	return nil
}

// String implements pflag.Value.
func (b *Bytes) String() string {
	if *b == 0 {
		return ""
	}
	return Size(int64(*b))
}

// Type implements pflag.Value.
func (b *Bytes) Type() string { return "size" }

// Progress shows one changing line on a terminal, and nothing elsewhere.
type Progress struct {
	mu    sync.Mutex
	out   *os.File
	tty   bool
	last  time.Time
	shown bool
}

// NewProgress makes a Progress that writes to out if that is a terminal.
func NewProgress(out *os.File) *Progress {
	_, err := unix.IoctlGetTermios(int(out.Fd()), unix.TCGETS)
	return &Progress{out: out, tty: err == nil}
}

// Show reports the phase; done and total are in bytes or objects, total may be
// zero. It is cheap: at most twenty lines a second are drawn.
func (p *Progress) Show(phase string, done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.tty || time.Since(p.last) < 50*time.Millisecond {
		return
	}
	p.last, p.shown = time.Now(), true
	if total > 0 {
		fmt.Fprintf(p.out, "\r\033[K%s %d%%", phase, done*100/total)
		return
	}
	fmt.Fprintf(p.out, "\r\033[K%s", phase)
}

// Done removes the line, if there is one.
func (p *Progress) Done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shown {
		fmt.Fprint(p.out, "\r\033[K")
		p.shown = false
	}
}
