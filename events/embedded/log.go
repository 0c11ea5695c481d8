package embedded

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
)

// logger passes the broker's warnings and errors on. It keeps the last fatal one,
// because the broker tells why it could not start nowhere else, and does not end
// the process over it.
type logger struct {
	to *slog.Logger

	mu    sync.Mutex
	fatal string
}

func (l *logger) Noticef(string, ...any) {}
func (l *logger) Debugf(string, ...any)  {}
func (l *logger) Tracef(string, ...any)  {}

func (l *logger) Warnf(format string, v ...any)  { l.write(slog.LevelWarn, format, v) }
func (l *logger) Errorf(format string, v ...any) { l.write(slog.LevelError, format, v) }

func (l *logger) Fatalf(format string, v ...any) {
	l.mu.Lock()
	l.fatal = fmt.Sprintf(format, v...)
	l.mu.Unlock()
	l.write(slog.LevelError, format, v)
}

func (l *logger) write(level slog.Level, format string, v []any) {
	l.to.Log(context.Background(), level, "broker: "+fmt.Sprintf(format, v...))
}

func (l *logger) reason() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fatal
}
