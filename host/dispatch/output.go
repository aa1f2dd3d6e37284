package dispatch

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"regexp"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// maxLine bounds a line of a plugin's output in bytes; the rest is dropped.
const maxLine = 64 << 10

// maxValue bounds a value in a log line in bytes.
const maxValue = 16 << 10

// handshakeLine is what go-plugin's line looks like. Everything else on stdout
// is noise.
var handshakeLine = regexp.MustCompile(`^\d+\|\d+\|[a-z]+\|[^|]+\|[a-z]+`)

// output reads what a plugin prints. go-plugin gets the handshake line; the
// rest goes to the log: lines of hclog at their level, others at debug, and a
// crash at error.
type output struct {
	name      string
	log       hclog.Logger
	handshake *io.PipeReader
	nothing   *io.PipeReader
	found     *io.PipeWriter // to handshake
	end       *io.PipeWriter // of nothing
	done      chan struct{}  // closed when everything was read

	mu    sync.Mutex
	crash string // headline of a crash
	last  string // last line at error level, or plain
}

func newOutput(name string, log hclog.Logger) *output {
	o := &output{name: name, log: log, done: make(chan struct{})}
	o.handshake, o.found = io.Pipe()
	o.nothing, o.end = io.Pipe()
	return o
}

// read reads until both pipes end, or a while after the process did.
func (o *output) read(p *process) {
	var both sync.WaitGroup
	both.Add(2)
	go func() {
		defer both.Done()
		defer p.stderr.Close()
		crashed := false
		eachLine(p.stderr, func(line string) { crashed = o.stderrLine(line, crashed) })
	}()
	go func() {
		defer both.Done()
		defer p.stdout.Close()
		shook := false
		eachLine(p.stdout, func(line string) { shook = o.stdoutLine(line, shook) })
		_ = o.found.Close()
	}()
	both.Wait()
	close(o.done)
	<-p.done
	_ = o.end.Close()
}

// close makes go-plugin's readers end, and ends writing to readers that are
// not there.
func (o *output) close() {
	_ = o.handshake.Close()
	_ = o.nothing.Close()
}

// stdoutLine handles a line of stdout. It returns whether the handshake is
// done.
func (o *output) stdoutLine(line string, shook bool) bool {
	if !shook && handshakeLine.MatchString(line) {
		_, _ = io.WriteString(o.found, line+"\n") // fails if go-plugin gave up
		return true
	}
	if !shook {
		o.log.Warn("plugin prints on stdout before it serves", "text", line)
		o.remember(line)
		return false
	}
	o.log.Debug("stdout", "text", line)
	return true
}

// stderrLine handles a line of stderr. It returns whether it is part of a
// crash report.
func (o *output) stderrLine(line string, crashed bool) bool {
	if e, ok := parseLog(line); ok {
		if e.level >= hclog.Error {
			o.remember(e.text())
		}
		o.log.Log(e.level, e.message, e.args...)
		return crashed
	}
	if !crashed && (strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") || strings.HasPrefix(line, "SIG")) {
		crashed = true
		o.mu.Lock()
		o.crash = line
		o.mu.Unlock()
	}
	if crashed {
		o.log.Error("crash", "text", line)
		return true
	}
	o.remember(line)
	o.log.Debug("stderr", "text", line)
	return false
}

func (o *output) remember(line string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.last = line
}

// headline is what a crash began with, and the last line of interest. It is
// for a process that has ended: what it wrote is read first.
func (o *output) headline() (crash, last string) {
	select {
	case <-o.done:
	case <-time.After(2 * drainTime):
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.crash, o.last
}

// logEntry is a parsed line of hclog's JSON format.
type logEntry struct {
	level   hclog.Level
	message string
	args    []any
}

func (e *logEntry) text() string {
	for i := 0; i+1 < len(e.args); i += 2 {
		if e.args[i] == "error" {
			if s, ok := e.args[i+1].(string); ok {
				return e.message + ": " + s
			}
		}
	}
	return e.message
}

// parseLog parses a line of hclog's JSON format. Whatever has another shape is
// no such line: a plugin can print anything.
func parseLog(line string) (*logEntry, bool) {
	if !strings.HasPrefix(line, "{") {
		return nil, false
	}
	var raw map[string]any
	if err := json.Unmarshal([]byte(line), &raw); err != nil {
		return nil, false
	}
	message, ok := raw["@message"].(string)
	if !ok {
		return nil, false
	}
	level, ok := raw["@level"].(string)
	if !ok {
		return nil, false
	}
	e := &logEntry{level: hclog.LevelFromString(level), message: message}
	if e.level == hclog.NoLevel || e.level == hclog.Off {
		e.level = hclog.Debug
	}
	keys := make([]string, 0, len(raw))
	for k := range raw {
		if !strings.HasPrefix(k, "@") {
			keys = append(keys, k)
		}
	}
	sort.Strings(keys)
	for _, k := range keys {
		e.args = append(e.args, k, bounded(raw[k]))
	}
	return e, true
}

// bounded makes a value of JSON printable on one line of bounded length.
func bounded(v any) any {
	s, ok := v.(string)
	if !ok {
		b, err := json.Marshal(v)
		if err != nil {
			return "?"
		}
		s = string(b)
	}
	if len(s) > maxValue {
		s = s[:maxValue] + "..."
	}
	return s
}

// eachLine calls f for every line of r, cut at maxLine, until r ends.
func eachLine(r io.Reader, f func(string)) {
	in := bufio.NewReaderSize(r, 4096)
	var line []byte
	for {
		part, prefix, err := in.ReadLine()
		if room := maxLine - len(line); room > 0 {
			line = append(line, part[:min(len(part), room)]...)
		}
		if prefix {
			continue
		}
		if err == nil || len(line) > 0 {
			f(string(line))
			line = line[:0]
		}
		if err != nil {
			return
		}
	}
}

// lineWriter logs what go-plugin copies from a plugin's stdout or stderr.
type lineWriter struct {
	log  hclog.Logger
	name string

	mu   sync.Mutex
	rest []byte
}

// Write implements io.Writer.
func (w *lineWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rest = append(w.rest, b...)
	for {
		i := bytes.IndexByte(w.rest, '\n')
		if i < 0 && len(w.rest) < maxLine {
			return len(b), nil
		}
		if i < 0 {
			i = len(w.rest) - 1
		}
		w.log.Debug(w.name, "text", strings.TrimSuffix(string(w.rest[:i+1]), "\n"))
		w.rest = w.rest[i+1:]
	}
}
