package hbuf

// topUp gives the plugin segments until it has what it may have. In
// write-through mode that includes what is being written, which comes back
// soon, so that the same warm memory is used again; in deferred mode held
// memory is replaced. The lock is held.
func (c *Consumer) topUp() {
	has := c.table.plugin
	if c.mode == WriteThrough {
		has += c.table.held
	}
	c.grant(c.window - has)
}

// grant gives the plugin up to n free segments. The lock is held.
func (c *Consumer) grant(n int) {
	for n > 0 {
		first, got, ok := c.table.give(n)
		if !ok {
			break
		}
		c.publish(first, got)
		n -= got
	}
	c.wakePlugin()
}

// publish tells the plugin that it owns a run. The lock is held.
func (c *Consumer) publish(first, n int) {
	c.completion(c.head).Store(entry(first, n))
	c.head++
	c.word(wordCompletions).Store(c.head)
}

// wakePlugin rings if the plugin waits. The lock is held.
func (c *Consumer) wakePlugin() { c.complete.ringIf(c.word(wordPluginSleeps)) }

// serveWanted gives the plugin a run of segments that it waits for, beyond
// what it may have: it has seen everything that it was given, and nothing that
// it submitted will free a segment by itself. If no free run is that long,
// everything held is written and everything free is given: then the plugin
// owns all there is and lacks only what it holds itself. acceptMu is held.
func (c *Consumer) serveWanted() error {
	wanted := c.word(wordWanted).Load()
	if c.served.Swap(wanted) == wanted {
		return nil
	}
	run, seen := entryParts(wanted)
	if run == 0 || c.giveRun(run, seen) {
		return nil
	}
	c.log("arena is fragmented: writing everything that was deferred", "segments", run)
	for {
		found, err := c.writeOldest()
		if err != nil {
			return err
		}
		if !found {
			break
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.grant(c.total)
	return nil
}

// giveRun gives the plugin a free run of the length it wants. It reports false
// if there is none. A plugin that has not seen all completions will look at
// them and ask again.
func (c *Consumer) giveRun(run, seen uint32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if seen != uint32(c.head) {
		return true
	}
	if uint64(run) > uint64(c.total) {
		return false
	}
	first, ok := c.table.giveRun(int(run))
	if ok {
		c.publish(first, int(run))
		c.wakePlugin()
	}
	return ok
}
