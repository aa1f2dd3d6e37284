// Package scaffold writes the module of a new plugin: a claim, a dump, a restore,
// tests, a README and a Makefile, which build and pass as they are.
package scaffold

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"go/format"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"text/template"
)

//go:embed template
var templates embed.FS

// Plugin is what a new plugin is to be.
type Plugin struct {
	// Name is the name of the subsystem: lower case letters, digits, dashes.
	Name string
	// Module is its module path.
	Module string
	// Path is the pattern of paths of the files that it claims.
	Path string
	// SDK is the directory of Firn's own module, if it is to be taken from
	// there; empty for a release.
	SDK string
	// Go is the version for the module: "1.26.0".
	Go string
}

var namePattern = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)

// Check tells what is wrong with the plugin; nil if nothing is.
func (p *Plugin) Check() error {
	switch {
	case !namePattern.MatchString(p.Name) || len(p.Name) > 64 || p.Name == "firn":
		return fmt.Errorf("plugin name %q: want lower case letters, digits and dashes", p.Name)
	case !strings.HasPrefix(p.Path, "/") || strings.ContainsAny(p.Path, "\"\\`\n"):
		return fmt.Errorf("pattern %q: want an absolute path, with * for parts that do not matter", p.Path)
	}
	return nil
}

// Write writes the module into a directory, which must not exist or be empty. On
// an error nothing of it is left.
func (p *Plugin) Write(dir string) (err error) {
	if err := p.Check(); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	existed := err == nil
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	case len(entries) > 0:
		return fmt.Errorf("%s is not empty", dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var written []string
	defer func() {
		if err == nil {
			return
		}
		for _, path := range written {
			err = errors.Join(err, os.Remove(path))
		}
		if !existed {
			err = errors.Join(err, os.Remove(dir))
		}
	}()
	files, err := fs.Glob(templates, "template/*.tmpl")
	if err != nil {
		return err
	}
	for _, name := range files {
		text, err := p.render(name)
		if err != nil {
			return err
		}
		base := strings.TrimSuffix(filepath.Base(name), ".tmpl")
		if base == "gitignore" {
			base = ".gitignore"
		}
		path := filepath.Join(dir, base)
		if err := os.WriteFile(path, text, 0o644); err != nil {
			return err
		}
		written = append(written, path)
	}
	return nil
}

func (p *Plugin) render(name string) ([]byte, error) {
	t, err := template.ParseFS(templates, name)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, p); err != nil {
		return nil, err
	}
	if !strings.HasSuffix(name, ".go.tmpl") {
		return out.Bytes(), nil
	}
	text, err := format.Source(out.Bytes())
	if err != nil {
		return nil, fmt.Errorf("format %s: %w", name, err)
	}
	return text, nil
}

// FindSDK looks for the checkout of Firn's own module, from dir upwards; empty if
// there is none.
func FindSDK(dir string) string {
	for {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(text), "module github.com/firn-cr/firn\n") {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return ""
		}
		dir = parent
	}
}
