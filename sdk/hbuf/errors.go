package hbuf

import "errors"

var (
	// ErrCorrupt means: bytes that should be records are damaged.
	ErrCorrupt = errors.New("corrupt record")
	// ErrProtocol means: the peer broke the rules of the arena. The session is over.
	ErrProtocol = errors.New("record protocol violated")
	// ErrClosed means: the session ended; buffers can neither be reserved nor
	// committed.
	ErrClosed = errors.New("record session closed")
	// ErrTooLarge means: the size is larger than what one record or the arena holds.
	ErrTooLarge = errors.New("record too large")
	// ErrState means: a buffer was used after Commit or Put, or cannot be committed
	// as it is.
	ErrState = errors.New("record buffer in wrong state")
)
