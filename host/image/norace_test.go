//go:build !race

package image

// stride of the test that changes every byte.
const stride = 1
