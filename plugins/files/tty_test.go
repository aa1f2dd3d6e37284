package files

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/firn-cr/firn/plugins/files/filespb"
)

// someMode is a canonical mode in which '|' ends lines, too.
func someMode() *filespb.Termios {
	m := &filespb.Termios{Lflag: unix.ICANON | unix.ISIG, Cflag: unix.CS8 | unix.CREAD | unix.B38400, Cc: make([]byte, len(unix.Termios{}.Cc))}
	m.Cc[unix.VEOL] = '|'
	return m
}

// TestSplitInput: what the kernel counts as complete tells lines from what is
// still edited.
func TestSplitInput(t *testing.T) {
	line := func(text string) *filespb.TtyLine { return &filespb.TtyLine{Text: []byte(text)} }
	eof := func(text string) *filespb.TtyLine { return &filespb.TtyLine{Text: []byte(text), Eof: true} }
	tests := map[string]struct {
		input    string
		complete int
		lines    []*filespb.TtyLine
		rest     string
		exact    bool // the tape can put it back
	}{
		"nothing":                {exact: true},
		"edited":                 {input: "abc", rest: "abc", exact: true},
		"edited, quoted":         {input: "a\nb", rest: "a\nb"},
		"lines":                  {input: "a\nbc|d", complete: 5, lines: []*filespb.TtyLine{line("a\n"), line("bc|")}, rest: "d", exact: true},
		"end-of-file":            {input: "\x00", lines: []*filespb.TtyLine{eof("")}},
		"half a line":            {input: "ab\x00cd", complete: 2, lines: []*filespb.TtyLine{eof("ab")}, rest: "cd"},
		"end-of-file in front":   {input: "\x00ab\nc", complete: 3, lines: []*filespb.TtyLine{eof(""), line("ab\n")}, rest: "c"},
		"end-of-file behind":     {input: "ab\n\x00\x00", complete: 3, lines: []*filespb.TtyLine{line("ab\n"), eof(""), eof("")}},
		"pushed by a new mode":   {input: "abc", complete: 3, lines: []*filespb.TtyLine{eof("abc")}},
		"more than is there":     {input: "ab", complete: 9, lines: []*filespb.TtyLine{eof("ab")}},
		"our own characters":     {input: "\xff\n", complete: 2, lines: []*filespb.TtyLine{line("\xff\n")}},
		"line break when edited": {input: "x\ny\nz", complete: 2, lines: []*filespb.TtyLine{line("x\n")}, rest: "y\nz"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := &filespb.Pty{Termios: someMode()}
			m.Lines, m.Input = splitInput(m.Termios, []byte(test.input), test.complete)
			if diff := cmp.Diff(test.lines, m.Lines, protocmp.Transform()); diff != "" || string(m.Input) != test.rest {
				t.Errorf("rest %q, want %q; lines:\n%s", m.Input, test.rest, diff)
			}
			if got := putBackExactly(m); got != test.exact {
				t.Errorf("the tape puts it back: %v, want %v", got, test.exact)
			}
		})
	}
}
