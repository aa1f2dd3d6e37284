package main

import (
	"errors"
	"os"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// logUsage describes the levels.
const logUsage = "what goes to stderr: `LEVEL` off, error, warn, info, debug or trace; PLUGIN=LEVEL after a comma for one plugin"

// log makes the logger of a command: to stderr, quiet unless asked.
func (g *global) log() (hclog.Logger, error) {
	level, levels, err := parseLevels(g.logLevel)
	if err != nil {
		return nil, err
	}
	if g.logger != nil && len(levels) > 0 {
		g.declined = errors.New("the plugins that firn serve has ready have their levels already")
		return nil, g.declined
	}
	if g.logger != nil {
		g.logger.SetLevel(level)
		g.logger.Info("served by", "process", os.Getpid(), "ready for", g.idle)
		return g.logger, nil
	}
	log := hclog.New(&hclog.LoggerOptions{Name: "firn", Level: level, Output: os.Stderr, IndependentLevels: len(levels) > 0})
	if g.unserved != nil {
		log.Info("not served", "reason", g.unserved)
	}
	if len(levels) > 0 {
		log = &leveled{log, levels}
	}
	return log, nil
}

// parseLevels reads "LEVEL,PLUGIN=LEVEL,...", in which any part may be missing.
func parseLevels(text string) (level hclog.Level, plugins map[string]hclog.Level, err error) {
	level = hclog.Warn
	for i, part := range strings.Split(text, ",") {
		name, value, one := strings.Cut(part, "=")
		if !one {
			value = part
		}
		l := hclog.LevelFromString(value)
		if l == hclog.NoLevel || one && name == "" || !one && i > 0 {
			return level, nil, usagef("--log-level %q: want off, error, warn, info, debug or trace, and PLUGIN=LEVEL after commas", text)
		}
		if !one {
			level = l
			continue
		}
		if plugins == nil {
			plugins = map[string]hclog.Level{}
		}
		plugins[name] = l
	}
	return level, plugins, nil
}

// leveled gives some of the loggers below it levels of their own.
type leveled struct {
	hclog.Logger
	levels map[string]hclog.Level
}

// Named implements [hclog.Logger].
func (l *leveled) Named(name string) hclog.Logger {
	log := l.Logger.Named(name)
	if level, ok := l.levels[name]; ok {
		log.SetLevel(level)
	}
	return log
}
