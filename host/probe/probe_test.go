package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

const asNobody = "FIRN_PROBE_TEST_AS_NOBODY"

func TestMain(m *testing.M) {
	if os.Getenv(asNobody) != "" {
		json.NewEncoder(os.Stdout).Encode(answers(All(context.Background())))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func answers(all []Result) map[string]string {
	m := make(map[string]string)
	for _, r := range all {
		m[r.Name] = r.Answer.String()
	}
	return m
}

func TestAll(t *testing.T) {
	all := All(t.Context())
	seen := make(map[string]bool)
	for _, r := range all {
		if r.Name == "" || r.NeededFor == "" || seen[r.Name] {
			t.Errorf("result %+v", r)
		}
		seen[r.Name] = true
		if r.Answer != Yes && r.Detail == "" && r.Name[:4] != "CAP_" {
			t.Errorf("%s: %v without a reason", r.Name, r.Answer)
		}
		t.Logf("%-45s %-14v %s", r.Name, r.Answer, r.Detail)
	}
	if len(all) != len(entries())+len(capabilities) {
		t.Errorf("%d results", len(all))
	}
	if again := All(t.Context()); fmt.Sprint(again) != fmt.Sprint(all) {
		t.Error("the second answer differs from the first")
	}
}

// TestRequired: a kernel of the stated minimum (5.11) that says no to what is
// required, asked with all rights, is a fault of the probe.
func TestRequired(t *testing.T) {
	for _, c := range []int{unix.CAP_SYS_PTRACE, unix.CAP_SYS_ADMIN} {
		gate.Cap(t, c)
	}
	for _, r := range All(t.Context()) {
		if r.Required && r.Answer != Yes {
			t.Errorf("%s: %v: %s", r.Name, r.Answer, r.Detail)
		}
	}
}

func TestAllCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, r := range All(ctx) {
		if r.Name[:4] != "CAP_" && r.Answer != Unknown {
			t.Errorf("%s: %v", r.Name, r.Answer)
		}
	}
}

// TestWithoutRights asks as a user without capabilities.
func TestWithoutRights(t *testing.T) {
	gate.Cap(t, unix.CAP_SETUID)
	gate.Cap(t, unix.CAP_SETGID)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), asNobody+"=1")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]string
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, name := range []string{string(CloneSetTID), string(MapFiles), string(SuspendSeccomp), string(TCPRepair), "CAP_SYS_PTRACE", "CAP_SYS_ADMIN"} {
		if got[name] != "no" {
			t.Errorf("%s: %q", name, got[name])
		}
	}
	for _, name := range []string{string(Kcmp), string(PidfdGetfd), string(VDSOGadget)} {
		if want := Have(Feature(name)).Answer.String(); got[name] != want {
			t.Errorf("%s: %q, with rights %q", name, got[name], want)
		}
	}
}

func TestHave(t *testing.T) {
	if r := Have("nothing"); r.Answer != Unknown || r.Detail == "" {
		t.Errorf("%+v", r)
	}
	if r := Have(Kcmp); r.Name != string(Kcmp) {
		t.Errorf("%+v", r)
	}
}

func TestAnswer(t *testing.T) {
	for err, want := range map[error]Answer{
		nil:                              Yes,
		unix.ENOSYS:                      No,
		unix.EPERM:                       No,
		fmt.Errorf("x: %w", unix.EINVAL): No,
		lacks("something"):               No,
		os.ErrNotExist:                   No,
		unix.ENOMEM:                      Unknown,
		errors.New("what"):               Unknown,
	} {
		if got := answer(err); got != want {
			t.Errorf("%v: %v, want %v", err, got, want)
		}
	}
}

func TestMissing(t *testing.T) {
	got := Missing([]Result{{Name: "a", Answer: Yes}, {Name: "b", Answer: No}, {Name: "c"}})
	if len(got) != 1 || got[0].Name != "b" {
		t.Errorf("%+v", got)
	}
	b, err := json.Marshal(got[0])
	if err != nil || string(b) != `{"name":"b","answer":"no","needed_for":"","required":false}` {
		t.Errorf("%s %v", b, err)
	}
}
