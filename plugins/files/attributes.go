package files

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
)

// readAttributes reads the extended attributes of a file, access control lists
// among them.
func readAttributes(path string) ([]*filespb.Attribute, error) {
	names, err := readXattr(func(b []byte) (int, error) { return unix.Listxattr(path, b) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list extended attributes: %w", err)
	}
	var out []*filespb.Attribute
	for name := range strings.SplitSeq(strings.TrimRight(string(names), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value, err := readXattr(func(b []byte) (int, error) { return unix.Getxattr(path, name, b) })
		if err != nil {
			return nil, fmt.Errorf("read extended attribute %s: %w", name, err)
		}
		out = append(out, &filespb.Attribute{Name: []byte(name), Value: value})
	}
	return out, nil
}

// readXattr calls get with a buffer that is big enough.
func readXattr(get func([]byte) (int, error)) ([]byte, error) {
	for {
		n, err := get(nil)
		if err != nil || n == 0 {
			return nil, err
		}
		b := make([]byte, n)
		n, err = get(b)
		if errors.Is(err, unix.ERANGE) {
			continue // has grown
		}
		if err != nil {
			return nil, err
		}
		return b[:n], nil
	}
}

func setAttributes(fd int, attributes []*filespb.Attribute) error {
	for _, a := range attributes {
		if err := unix.Fsetxattr(fd, string(a.GetName()), a.GetValue(), 0); err != nil {
			return fmt.Errorf("set extended attribute %s: %w", a.GetName(), err)
		}
	}
	return nil
}
