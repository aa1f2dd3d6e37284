package main

import (
	"bytes"
	"maps"
	"testing"

	"github.com/hashicorp/go-hclog"
)

func TestParseLevels(t *testing.T) {
	for text, want := range map[string]struct {
		level   hclog.Level
		plugins map[string]hclog.Level
	}{
		"info":                  {hclog.Info, nil},
		"off,redis=debug":       {hclog.Off, map[string]hclog.Level{"redis": hclog.Debug}},
		"mm=trace,task=error":   {hclog.Warn, map[string]hclog.Level{"mm": hclog.Trace, "task": hclog.Error}},
		"debug,mm=warn,mm=info": {hclog.Debug, map[string]hclog.Level{"mm": hclog.Info}},
	} {
		level, plugins, err := parseLevels(text)
		if err != nil || level != want.level || !maps.Equal(plugins, want.plugins) {
			t.Errorf("%q: %v, %v, %v", text, level, plugins, err)
		}
	}
	for _, bad := range []string{"", "loud", "info,", "info,debug", "mm=loud", "=info", "info,mm"} {
		if _, _, err := parseLevels(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestLevelsOfPlugins(t *testing.T) {
	var out bytes.Buffer
	base := hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, Output: &out, IndependentLevels: true})
	log := &leveled{base, map[string]hclog.Level{"redis": hclog.Debug}}
	log.Debug("host")
	log.Named("mm").Debug("other")
	log.Named("redis").Debug("wanted")
	if got := out.String(); bytes.Count(out.Bytes(), []byte("\n")) != 1 || !bytes.Contains(out.Bytes(), []byte("wanted")) {
		t.Errorf("logged %q", got)
	}
}
