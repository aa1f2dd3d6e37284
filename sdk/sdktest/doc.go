// Package sdktest runs a plugin in the process of a test, over real gRPC,
// against a fake host.
//
//	h := sdktest.New(t, files.New(), sdktest.Config{
//		Tree:      sdktest.Tree(os.Getpid()),
//		Resources: []sdk.Resource{...},
//	})
//	findings, err := h.Check(false)
//	img, err := h.Dump()
//	r, err := h.Restore(img, wire.PhaseRestoreObjects)
//	fd := r.FD(object)
//
// [Conform] does all that with one call, for every way in which a session can go.
//
// Tapes are given to [Host.Tapes]; [Execute] runs them for real in the calling
// process. What plugin and host do in a real process (arena, lifeline,
// descriptors) is tested by package dispatch; here records travel as messages.
package sdktest
