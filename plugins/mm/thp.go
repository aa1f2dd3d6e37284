package mm

import (
	"os"
	"strings"
	"sync"

	"github.com/firn-cr/firn/plugins/mm/mmpb"
)

// alwaysHuge tells whether the system gives transparent huge pages to programs
// that have not asked for them.
var alwaysHuge = sync.OnceValue(func() bool {
	b, err := os.ReadFile("/sys/kernel/mm/transparent_hugepage/enabled")
	return err == nil && strings.Contains(string(b), "[always]")
})

// wantsHuge tells whether the kernel makes huge pages when the task itself
// touches a mapping.
func wantsHuge(m *mmpb.Mapping, as *mmpb.AddressSpace) bool {
	if as.ThpDisabled || has(m, mmpb.Flag_FLAG_NO_HUGE_PAGE) {
		return false
	}
	return alwaysHuge() || has(m, mmpb.Flag_FLAG_HUGE_PAGE)
}
