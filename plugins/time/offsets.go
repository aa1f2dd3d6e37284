package time

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
)

// clocks are readings of, or differences between, the two clocks that a time
// namespace can shift, in nanoseconds.
type clocks struct{ monotonic, boottime int64 }

func (c clocks) plus(o clocks) clocks {
	return clocks{c.monotonic + o.monotonic, c.boottime + o.boottime}
}
func (c clocks) minus(o clocks) clocks {
	return clocks{c.monotonic - o.monotonic, c.boottime - o.boottime}
}

const second = int64(1e9)

// parseOffsets reads /proc/PID/timens_offsets: a line per clock with its name,
// seconds and nanoseconds, of which only the seconds may be negative.
func parseOffsets(text string) (clocks, error) {
	var c clocks
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 3 {
			return c, fmt.Errorf("time offsets %q: %w", line, sdk.ErrCorrupt)
		}
		sec, err1 := strconv.ParseInt(f[1], 10, 64)
		nsec, err2 := strconv.ParseInt(f[2], 10, 64)
		if err := errors.Join(err1, err2); err != nil || nsec < 0 || nsec >= second || sec > 1<<32 || sec < -1<<32 {
			return c, fmt.Errorf("time offsets %q: %w", line, sdk.ErrCorrupt)
		}
		switch f[0] {
		case "monotonic":
			c.monotonic = sec*second + nsec
		case "boottime":
			c.boottime = sec*second + nsec
		}
	}
	return c, nil
}

// formatOffsets is the inverse, with the numbers of the clocks that kernels of
// all ages accept.
func formatOffsets(c clocks) string {
	line := func(clock int, ns int64) string {
		sec, nsec := ns/second, ns%second
		if nsec < 0 {
			sec, nsec = sec-1, nsec+second
		}
		return fmt.Sprintf("%d %d %d\n", clock, sec, nsec)
	}
	return line(unix.CLOCK_MONOTONIC, c.monotonic) + line(unix.CLOCK_BOOTTIME, c.boottime)
}

// offsetsOf reads the offsets of the namespace that children of a process are
// in. A kernel without time namespaces has none.
func offsetsOf(pid string) (clocks, error) {
	b, err := os.ReadFile("/proc/" + pid + "/timens_offsets")
	if errors.Is(err, os.ErrNotExist) {
		return clocks{}, nil
	}
	if err != nil {
		return clocks{}, err
	}
	return parseOffsets(string(b))
}

// machine reads the clocks of the machine itself: what this process sees less
// the offsets of its own namespace.
func machine() (clocks, error) {
	var mono, boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono); err != nil {
		return clocks{}, fmt.Errorf("read clock: %w", err)
	}
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		return clocks{}, fmt.Errorf("read clock: %w", err)
	}
	own, err := offsetsOf("self")
	if err != nil {
		return clocks{}, err
	}
	return clocks{mono.Nano(), boot.Nano()}.minus(own), nil
}
