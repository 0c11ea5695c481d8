package serve

import "golang.org/x/sys/unix"

// undumpable has the kernel write no core dump even where a program takes them, and
// let nobody attach to this process, or read its memory and environment, who may not
// do so to any.
func undumpable() error { return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) }
