package clocks

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
)

// Reading is what the two clocks say that a time namespace can shift, or a
// difference between two readings.
type Reading struct{ Monotonic, Boottime time.Duration }

func (r Reading) plus(o Reading) Reading {
	return Reading{r.Monotonic + o.Monotonic, r.Boottime + o.Boottime}
}

func (r Reading) minus(o Reading) Reading {
	return Reading{r.Monotonic - o.Monotonic, r.Boottime - o.Boottime}
}

// parseOffsets reads /proc/PID/timens_offsets: a line per clock with its name,
// seconds and nanoseconds, of which only the seconds may be negative.
func parseOffsets(text string) (Reading, error) {
	var r Reading
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 3 {
			return r, fmt.Errorf("time offsets %q: %w", line, sdk.ErrCorrupt)
		}
		sec, err1 := strconv.ParseInt(f[1], 10, 64)
		nsec, err2 := strconv.ParseInt(f[2], 10, 64)
		if err := errors.Join(err1, err2); err != nil || nsec < 0 || nsec >= int64(time.Second) || sec > 1<<32 || sec < -1<<32 {
			return r, fmt.Errorf("time offsets %q: %w", line, sdk.ErrCorrupt)
		}
		offset := time.Duration(sec)*time.Second + time.Duration(nsec)
		switch f[0] {
		case "monotonic":
			r.Monotonic = offset
		case "boottime":
			r.Boottime = offset
		}
	}
	return r, nil
}

// formatOffsets is the inverse, with the numbers of the clocks that kernels of
// all ages accept.
func formatOffsets(r Reading) string {
	line := func(clock int, offset time.Duration) string {
		sec, nsec := offset/time.Second, offset%time.Second
		if nsec < 0 {
			sec, nsec = sec-1, nsec+time.Second
		}
		return fmt.Sprintf("%d %d %d\n", clock, int64(sec), int64(nsec))
	}
	return line(unix.CLOCK_MONOTONIC, r.Monotonic) + line(unix.CLOCK_BOOTTIME, r.Boottime)
}

// offsetsOf reads the offsets of the namespace that children of a process are
// in. A kernel without time namespaces has none.
func offsetsOf(pid string) (Reading, error) {
	b, err := os.ReadFile("/proc/" + pid + "/timens_offsets")
	if errors.Is(err, os.ErrNotExist) {
		return Reading{}, nil
	}
	if err != nil {
		return Reading{}, err
	}
	return parseOffsets(string(b))
}

// machine reads the clocks of the machine itself: what this process sees less
// the offsets of its own namespace.
func machine() (Reading, error) {
	var mono, boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono); err != nil {
		return Reading{}, fmt.Errorf("read clock: %w", err)
	}
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		return Reading{}, fmt.Errorf("read clock: %w", err)
	}
	shift, err := offsetsOf("self")
	if err != nil {
		return Reading{}, err
	}
	return Reading{time.Duration(mono.Nano()), time.Duration(boot.Nano())}.minus(shift), nil
}
