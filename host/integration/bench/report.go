package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// series are the samples of one figure.
type series []float64

func (s *series) add(v float64) { *s = append(*s, v) }

func (s series) median() float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	if n := len(sorted); n%2 == 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return sorted[len(sorted)/2]
}

// String is the median with the range.
func (s series) String() string {
	if len(s) == 0 {
		return "-"
	}
	return fmt.Sprintf("%s (%s-%s)", number(s.median()), number(slices.Min(s)), number(slices.Max(s)))
}

// short is the median alone.
func (s series) short() string {
	if len(s) == 0 {
		return "-"
	}
	return number(s.median())
}

func number(v float64) string {
	if v >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.1f", v)
}

// report holds the figures of all cases.
type report struct {
	runs  int
	whole []samples
	modes []samples
}

func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Measured on %s.\nMilliseconds; median of %d interleaved runs, range in parentheses.\n", machine(), r.runs)
	if len(r.whole) > 0 {
		b.WriteString("\n### Whole checkpoint and restore\n\n")
		b.WriteString("Wall time of the command, plugins' start included; the tree is ended and restored.\n\n")
		b.WriteString("| case | checkpoint `--no-sync` | checkpoint (fsync) | frozen | restore `-d` | image MiB |\n|---|---|---|---|---|---|\n")
		for _, s := range r.whole {
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", s.name, s.noSync, s.synced, s.frozen, s.restore, s.image.short())
		}
	}
	if len(r.modes) > 0 {
		b.WriteString("\n### Frozen time in direct, deferred and live mode\n\n")
		b.WriteString("`--leave-running --no-sync`, the modes in turn.\n\n")
		b.WriteString("The program's own view is the longest time that its first process did not run.\n\n")
		b.WriteString("| case | mode | frozen | of direct | own view | whole | image MiB |\n|---|---|---|---|---|---|---|\n")
		for _, s := range r.modes {
			for m, name := range []string{"direct", "deferred", "live"} {
				f := s.modes[m]
				fmt.Fprintf(&b, "| %s | %s | %s | %.2f | %s | %s | %s |\n", s.name, name, f.frozen,
					f.frozen.median()/s.modes[0].frozen.median(), f.gap, f.whole, s.image.short())
			}
		}
	}
	r.limits(&b)
	return b.String()
}

// limits prints what the machine did with the same bytes in the same run.
func (r *report) limits(b *strings.Builder) {
	var rows []string
	for _, s := range slices.Concat(r.whole, r.modes) {
		if l := s.limits; len(l.copied) > 0 {
			rows = append(rows, fmt.Sprintf("| %s | %s | %s | %s | %s |\n", s.name, l.copied, l.touched, l.written, l.synced))
		}
	}
	if len(rows) == 0 {
		return
	}
	b.WriteString("\n### The machine's own limits, in the same run\n\n")
	b.WriteString("One thread, the same number of bytes (for processes: those of the image).\n\n")
	b.WriteString("| case | memcpy | first touch, 4 KiB pages | pwrite, page cache | pwrite and fsync |\n|---|---|---|---|---|\n")
	b.WriteString(strings.Join(slices.Compact(rows), ""))
}

// machine describes where the figures come from.
func machine() string {
	var u unix.Utsname
	release := "Linux"
	if err := unix.Uname(&u); err == nil {
		release = "Linux " + unix.ByteSliceToString(u.Release[:])
	}
	var info unix.Sysinfo_t
	memory := ""
	if err := unix.Sysinfo(&info); err == nil {
		memory = fmt.Sprintf(", %d GiB", (info.Totalram*uint64(info.Unit)+1<<29)>>30)
	}
	return fmt.Sprintf("%s %s, %d cores%s", release, runtime.GOARCH, runtime.NumCPU(), memory)
}

const (
	begin = "<!-- figures: begin -->\n"
	end   = "<!-- figures: end -->"
)

// replace puts the figures between the marks of a Markdown file.
func replace(path, text string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(b), begin)
	_, after, found := strings.Cut(rest, end)
	if !ok || !found {
		return fmt.Errorf("%s has no marks for the figures", path)
	}
	return os.WriteFile(path, []byte(before+begin+"\n"+text+"\n"+end+after), 0o644)
}
