// Package cli is keyledger at the terminal: one command tree in front of the
// server and of its HTTP API.
//
// # What scripts may rely on
//
// Answers go to standard output, everything else to standard error. With -o
// json an answer is the API's own, and an error is the API's problem document.
// The exit code is 0 for yes, 1 for could not, 2 for a command that was not
// understood, and 3 when the answer is no: a verdict that denies.
//
// # Secrets
//
// A key never stands on a command line, which every user of the machine can
// read, and never in what is printed, but for the one answer that shows a new
// one. Whatever goes to standard error passes through the same net as log lines
// do: what looks like a key comes out masked.
//
// # Settings
//
// Every flag is also KEYLEDGER_<FLAG> in the environment and a member of the
// config file; flags win over the environment, and that over the file.
package cli
