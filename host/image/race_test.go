//go:build race

package image

// stride of the test that changes every byte: the race detector has nothing to
// find in it and makes it ten times as long.
const stride = 13
