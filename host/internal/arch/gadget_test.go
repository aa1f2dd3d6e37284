package arch

import "testing"

func TestGadgetsOfThisKernel(t *testing.T) {
	start, image, err := VDSO()
	if err != nil {
		t.Fatal(err)
	}
	found := Gadgets(image)
	if start == 0 || len(found) == 0 {
		t.Fatalf("vdso at %#x of %d bytes: no gadget", start, len(image))
	}
	t.Logf("%+v", found)
}
