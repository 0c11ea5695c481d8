package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/api"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/domain/keystring"
)

// keyLine is a key that was read, and the line that it stood on.
type keyLine struct {
	number int
	key    keystring.Secret
}

// keyVerdict is the verdict on a line, as it is answered in JSON.
type keyVerdict struct {
	Line   int    `json:"line"`
	Masked string `json:"masked"`
	wire.Verdict
}

// verifyBatch asks about every key of a file, or of standard input. What was
// answered is shown even where a later request fails.
func (a *app) verifyBatch(cmd *cobra.Command, file string, asked wire.VerifyRequest) error {
	lines, err := a.keyLines(file)
	if err != nil {
		return err
	}
	s, err := a.open(cmd)
	if err != nil {
		return err
	}
	verdicts := make([]keyVerdict, 0, len(lines))
	var failed error
	for len(lines) > 0 && failed == nil {
		var part []keyLine
		part, lines = cutBatch(lines, asked)
		var answer wire.Verdicts
		if answer, failed = s.VerifyBatch(cmd.Context(), batchOf(part, asked)); failed != nil {
			break
		}
		if len(answer.Verdicts) != len(part) {
			failed = errors.New("the server has not answered for every key; is it a keyledger server?")
			break
		}
		for i, v := range answer.Verdicts {
			text := part[i].key.Reveal()
			verdicts = append(verdicts, keyVerdict{
				Line: part[i].number, Masked: keystring.Masked(keystring.Prefix(text), keystring.LastFour(text)), Verdict: v,
			})
		}
	}
	if failed != nil && len(verdicts) == 0 {
		return failed
	}
	denied, err := a.showVerdicts(verdicts, asked)
	switch {
	case failed != nil:
		return failed
	case err != nil:
		return err
	case denied > 0:
		return errNo
	default:
		return nil
	}
}

func batchOf(lines []keyLine, asked wire.VerifyRequest) wire.VerifyBatch {
	body := wire.VerifyBatch{Requests: make([]wire.VerifyRequest, len(lines))}
	for i, l := range lines {
		body.Requests[i] = asked
		body.Requests[i].Secret = l.key.Reveal()
	}
	return body
}

// cutBatch takes as many lines as one request may hold. Written as JSON a text
// takes six times its bytes at worst, of which keys are far.
func cutBatch(lines []keyLine, asked wire.VerifyRequest) (part, rest []keyLine) {
	const names = 64 // of the members, with quotes and commas
	each := names + 6*(len(asked.Permission)+len(asked.Workspace)+len(asked.AtLeast))
	n, size := 0, names
	for n < len(lines) && n < api.MaxVerifyBatch {
		size += each + 6*len(lines[n].key.Reveal())
		if size > api.MaxVerifyBatchBytes && n > 0 {
			break
		}
		n++
	}
	return lines[:n], lines[n:]
}

// keyLines reads a key from each line that is not empty.
func (a *app) keyLines(file string) ([]keyLine, error) {
	in, name := a.env.Stdin, "standard input"
	if file == "" || file == "-" {
		if _, terminal := terminalOf(a.env.Stdin); terminal {
			return nil, usage("--batch reads keys from a pipe or a file, not from a terminal that shows them", "Say --file FILE, or < FILE.")
		}
	} else {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("the file of keys cannot be read: %w", err)
		}
		defer f.Close()
		in, name = f, file
	}
	lines, err := readKeyLines(in)
	if err != nil {
		return nil, usage(name+" "+err.Error(), "")
	}
	return lines, nil
}

func readKeyLines(in io.Reader) ([]keyLine, error) {
	var lines []keyLine
	scanner := bufio.NewScanner(in)
	number := 0
	for scanner.Scan() {
		number++
		key := strings.TrimSpace(scanner.Text())
		switch {
		case key == "":
			continue
		case len(key) > maxKeyFile:
			return nil, fmt.Errorf("has no key on line %d: it is longer than %d bytes", number, maxKeyFile)
		case strings.ContainsAny(key, " \t"):
			return nil, fmt.Errorf("has more than one key on line %d", number)
		}
		lines = append(lines, keyLine{number, keystring.Conceal(key)})
	}
	switch err := scanner.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return nil, fmt.Errorf("has no key on line %d: it is longer than %d bytes", number+1, maxKeyFile)
	case err != nil:
		return nil, fmt.Errorf("cannot be read: %w", err)
	case len(lines) == 0:
		return nil, errors.New("is empty")
	}
	return lines, nil
}

// showVerdicts prints verdicts and counts those that deny.
func (a *app) showVerdicts(verdicts []keyVerdict, asked wire.VerifyRequest) (denied int, err error) {
	g := grid{
		head: []string{"LINE", "KEY", "VERDICT", "ID", "ORGANIZATION", "BECAUSE"}, none: "No keys.",
		whole: map[string]bool{"LINE": true, "VERDICT": true, "ID": true}, folded: map[string]bool{"BECAUSE": true},
		spare: []string{"ORGANIZATION", "BECAUSE"},
	}
	for _, v := range verdicts {
		if !v.Valid {
			denied++
		}
		g.rows = append(g.rows, []string{strconv.Itoa(v.Line), v.Masked, v.Code, v.KeyID, v.Organization, because(v.Verdict, asked)})
		// What is no key of this ledger has no id.
		if v.KeyID != "" {
			g.ids = append(g.ids, v.KeyID)
		}
	}
	if err := a.out.list(verdicts, g); err != nil || a.out.format != formatTable {
		return denied, err
	}
	return denied, a.out.say("\n%s, %d denied.", plural(len(verdicts), "key"), denied)
}
