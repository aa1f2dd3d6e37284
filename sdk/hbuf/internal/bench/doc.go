// Package bench measures package hbuf between two real processes, next to a
// gRPC stream and to a plain copy of the same bytes in the same run.
//
//	go test -run - -bench . ./sdk/hbuf/internal/bench
package bench
