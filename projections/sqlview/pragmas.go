package sqlview

import (
	"net/url"
	"strings"
)

// busyTimeout is how long SQLite itself waits for a lock, in milliseconds: only
// someone else's tool can hold one against us.
const busyTimeout = "busy_timeout(5000)"

var (
	// writerPragmas are the writer's settings.
	writerPragmas = []string{
		busyTimeout,
		// Readers do not wait for the writer, nor it for them.
		"journal_mode(WAL)",
		// With a write-ahead log, NORMAL keeps the file consistent through a
		// loss of power and may lose the last transactions, position and rows
		// alike; the ledger, which syncs each fact, gives them again. FULL
		// would sync a second time for nothing.
		"synchronous(NORMAL)",
		// What is overwritten or deleted is zeroed: an erased text must not
		// lie on in a free page.
		"secure_delete(ON)",
		// What one statement may have to take back is kept in memory: it is a few
		// pages, and a file of them would be written to at every statement.
		"temp_store(MEMORY)",
		// A log that a long query let grow is cut back afterwards (64 MiB).
		"journal_size_limit(67108864)",
		// The inner pages of the indexes of some million rows (32 MiB).
		"cache_size(-32768)",
		// The file's schema is data: functions with effects stay out of it.
		"trusted_schema(OFF)",
	}

	// readerPragmas are those of queries. Not mode=ro: a reader of a
	// write-ahead log must be able to create its index.
	readerPragmas = []string{busyTimeout, "cache_size(-4096)", "trusted_schema(OFF)"}
)

func dsn(path string, pragmas []string) string {
	return fileURI(path) + "?_pragma=" + strings.Join(pragmas, "&_pragma=")
}

// fileURI writes an absolute path so that no character of it is taken for
// syntax.
func fileURI(path string) string {
	return "file:" + (&url.URL{Path: path}).EscapedPath()
}
