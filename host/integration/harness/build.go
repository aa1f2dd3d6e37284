package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// Programs are the built firn, its plugins and the subjects.
type Programs struct {
	// Bin has firn and the plugins.
	Bin string
	// Firn is the path of firn.
	Firn string

	root, dir string
	mu        sync.Mutex
	subjects  map[string]string
}

// BinVariable names the environment variable with a directory of built programs
// that Build uses instead of compiling them: to test what is installed.
const BinVariable = "FIRN_TEST_BIN"

// Build compiles firn and its plugins into a directory below dir. Subjects are
// compiled when they are first asked for.
func Build(dir string) (*Programs, error) {
	p, err := Subjects(dir)
	if err != nil {
		return nil, err
	}
	if built := os.Getenv(BinVariable); built != "" {
		p.Bin, p.Firn = built, filepath.Join(built, "firn")
		return p, nil
	}
	p.Bin = filepath.Join(dir, "bin")
	p.Firn = filepath.Join(p.Bin, "firn")
	if err := os.Mkdir(p.Bin, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	mains, err := filepath.Glob(filepath.Join(p.root, "plugins/*/cmd/firn-plugin-*"))
	if err != nil {
		return nil, err
	}
	args := []string{"build", "-trimpath", "-tags", "grpcnotrace", "-ldflags", "-s -w -X main.version=0.0.0-test", "-o", p.Bin + "/"}
	args = append(append(args, mains...), filepath.Join(p.root, "host/cmd/firn"))
	if err := p.compile("go", args...); err != nil {
		return nil, err
	}
	return p, nil
}

// Subjects prepares for compiling subjects only.
func Subjects(dir string) (*Programs, error) {
	root, err := moduleRoot()
	if err != nil {
		return nil, err
	}
	return &Programs{root: root, dir: dir, subjects: map[string]string{}}, nil
}

// moduleRoot is the directory of go.mod above the working directory.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("no go.mod above the working directory")
}

func (p *Programs) compile(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir = p.root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := orphans.start(cmd); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := orphans.wait(cmd); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out.String())
	}
	return nil
}

// Path is the path of a file of the tree.
func (p *Programs) Path(name string) string { return filepath.Join(p.root, name) }

// Source is the path of a file among the subjects.
func (p *Programs) Source(name string) string {
	return p.Path(filepath.Join("host/integration/subjects", name))
}

// GoSubject compiles a subject in Go and returns the program's path.
func (p *Programs) GoSubject(name string) (string, error) {
	return p.once(name, func(out string) error {
		return p.compile("go", "build", "-o", out, p.Source(name))
	})
}

// cSources are the subjects in C that consist of more than NAME.c.
var cSources = map[string][]string{
	"taskstate": {"taskstate.c", "taskstate_set.c", "taskstate_dump.c"},
	"memory":    {"memory.c", "memory_kinds.c"},
	"registers": {"registers.c", "spin_amd64.S"},
}

// CSubject compiles a subject in C and returns the program's path. The flags
// make it another program.
func (p *Programs) CSubject(name string, flags ...string) (string, error) {
	return p.once(name+strings.Join(flags, ""), func(out string) error {
		sources, ok := cSources[name]
		if !ok {
			sources = []string{name + ".c"}
		}
		args := append([]string{"-O2", "-Wall", "-Wextra", "-pthread", "-o", out}, flags...)
		for _, s := range sources {
			args = append(args, p.Source(filepath.Join("c", s)))
		}
		return p.compile("gcc", args...)
	})
}

func (p *Programs) once(key string, build func(out string) error) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if path, ok := p.subjects[key]; ok {
		return path, nil
	}
	dir := filepath.Join(p.dir, "subjects")
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	out := filepath.Join(dir, strings.NewReplacer("/", "_", "=", "").Replace(key))
	if err := build(out); err != nil {
		return "", err
	}
	p.subjects[key] = out
	return out, nil
}

// Program finds a program of the system, the distribution's own first.
func Program(name string) (string, error) {
	for _, dir := range []string{"/usr/bin", "/bin", "/usr/sbin"} {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return exec.LookPath(name)
}
