package hbuf

// Stats counts what a consumer did.
type Stats struct {
	// Segments, Records, RecordBytes and BulkBytes were accepted. RecordBytes
	// is what packed segments take without bulk payloads.
	Segments, Records, RecordBytes, BulkBytes uint64
	// WrittenRecords were written, in WrittenBatches calls of WriteRecords.
	WrittenRecords, WrittenBatches uint64
	// Held is how many bytes are referenced now, MaxHeld the most there were.
	Held, MaxHeld uint64
	// PluginSegments, HeldSegments and FreeSegments add up to the arena's data
	// segments at any moment: nothing is ever lost.
	PluginSegments, HeldSegments, FreeSegments int
}

// Stats returns a snapshot.
func (c *Consumer) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Held = c.held
	s.PluginSegments, s.HeldSegments, s.FreeSegments = c.table.plugin, c.table.held, c.table.free.count
	return s
}
