package sdk

import (
	"os/exec"
	"strings"
	"testing"
)

// allowedModules are what the SDK may depend on, and what those bring along:
// an author of a plugin gets all of it.
var allowedModules = map[string]bool{
	"github.com/firn-cr/firn":                   true,
	"github.com/hashicorp/go-plugin":            true,
	"github.com/hashicorp/go-hclog":             true,
	"google.golang.org/grpc":                    true,
	"google.golang.org/protobuf":                true,
	"golang.org/x/sys":                          true,
	"github.com/hashicorp/yamux":                true, // go-plugin
	"github.com/oklog/run":                      true, // go-plugin
	"github.com/golang/protobuf":                true, // go-plugin
	"github.com/fatih/color":                    true, // hclog
	"github.com/mattn/go-colorable":             true, // hclog
	"github.com/mattn/go-isatty":                true, // hclog
	"golang.org/x/net":                          true, // grpc
	"golang.org/x/text":                         true, // grpc
	"google.golang.org/genproto/googleapis/rpc": true, // grpc
}

func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}} {{.Module.Path}}{{end}}", ".").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for _, line := range strings.Fields(strings.ReplaceAll(string(out), "\n", " ")) {
		// Import paths and module paths are both below an allowed module.
		if !allowedPath(line) {
			t.Errorf("the SDK depends on %s", line)
		}
		for _, part := range []string{"github.com/firn-cr/firn/host", "github.com/firn-cr/firn/plugins"} {
			if line == part || strings.HasPrefix(line, part+"/") {
				t.Errorf("the SDK imports %s", line)
			}
		}
	}
}

func allowedPath(path string) bool {
	for m := range allowedModules {
		if path == m || strings.HasPrefix(path, m+"/") {
			return true
		}
	}
	return false
}
