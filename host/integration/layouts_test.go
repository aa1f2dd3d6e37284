package integration

import "testing"

// TestLayouts: address spaces that leave a restore little room, or that are large in
// one way or another.
func TestLayouts(t *testing.T) {
	for _, name := range []string{"vmas", "sparse", "low", "full"} {
		t.Run(name, func(t *testing.T) {
			s := startC(t, "layouts", name)
			s.cycle()
			s.unharmed()
			s.cycle()
			s.ticks(60) // it counts its mappings every now and then
			s.unharmed()
		})
	}
}
