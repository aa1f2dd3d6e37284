package image

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/firn-cr/firn/host/image/delta"
)

// maxDepth is how long a chain of images may be.
const maxDepth = 1000

// ErrParent tells that the image that an image is based on is missing, or is not the one
// that it was.
var ErrParent = errors.New("parent does not fit")

// NewBase makes an image the base of another one, that will be at path ("-" if
// nobody knows). The base is named relative to it if both are in one directory, so
// that they can be moved together.
func NewBase(parent *Image, path string) (*delta.Base, error) {
	name, err := filepath.Abs(parent.path)
	if err != nil {
		return nil, err
	}
	if path != "-" {
		own, err := filepath.Abs(path)
		if err != nil {
			return nil, err
		}
		if own == name {
			return nil, fmt.Errorf("%s cannot be its own parent", path)
		}
		if filepath.Dir(own) == filepath.Dir(name) {
			name = filepath.Base(name)
		}
	}
	b, err := delta.NewBase(delta.Parent{Name: name, ID: parent.header.id, Length: parent.size}, parent.r)
	if err != nil {
		return nil, fmt.Errorf("read image %s: %w", parent.path, err)
	}
	return b, nil
}

// resolve adds what the parent has to an image that leaves it out.
func resolve(c *content, path string, depth int) error {
	if !delta.Is(c.r) {
		return nil
	}
	d, err := delta.Open(c.r, c.size)
	if err != nil {
		return &CorruptError{Path: path, Section: "delta", Offset: c.size, Err: err}
	}
	var from io.ReaderAt
	if p := d.Parent(); p.Name != "" {
		if c.parent = p.Name; !filepath.IsAbs(p.Name) {
			c.parent = filepath.Join(filepath.Dir(path), p.Name)
		}
		parent, err := openParent(c.parent, p, depth+1)
		if err != nil {
			return fmt.Errorf("image %s: parent %s: %w", path, c.parent, err)
		}
		from = parent.r
		c.owned = append(c.owned, parent)
	}
	c.r, c.size, c.file = d.NewReader(from), d.Size(), nil
	return nil
}

// openParent opens the parent that a delta names, and makes sure that it is it.
func openParent(path string, p delta.Parent, depth int) (*Image, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("a chain of more than %d images: %w", maxDepth, ErrParent)
	}
	i, err := openAt(path, depth)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrParent, err)
	}
	if i.header.id != p.ID || i.size != p.Length {
		return nil, errors.Join(fmt.Errorf("it is another image than it was: %w", ErrParent), i.Close())
	}
	return i, nil
}

// Parent is the path of the image that this one is based on; empty if there is
// none.
func (i *Image) Parent() string { return i.content.parent }
