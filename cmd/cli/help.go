package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// helpCommand is "keyledger help keys create", the same as --help.
func (a *app) helpCommand() *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND]", Short: "Show the help of a command",
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := a.root.Find(args)
			if err == nil && len(rest) > 0 && cmd.HasAvailableSubCommands() {
				err = a.group(cmd, rest)
			}
			if err != nil {
				return err
			}
			return cmd.Help()
		},
	}
}

// pageWidth is how wide help is written, on any terminal.
const pageWidth = 80

// prose is what a command says of itself, its paragraphs filled. One that is
// indented, such as a list, stands as it was written.
func prose(cmd *cobra.Command) string {
	if cmd.Long == "" {
		return cmd.Short + "."
	}
	paragraphs := strings.Split(cmd.Long, "\n\n")
	for i, p := range paragraphs {
		if strings.HasPrefix(p, "  ") {
			continue
		}
		lines := strings.Split(text.WrapSoft(strings.Join(strings.Fields(p), " "), pageWidth), "\n")
		for j, l := range lines {
			lines[j] = strings.TrimRight(l, " ")
		}
		paragraphs[i] = strings.Join(lines, "\n")
	}
	return strings.Join(paragraphs, "\n\n")
}

// writeUsage writes how a command is used: its line, examples, the commands
// below it, and its flags, apart from those that most commands have.
func writeUsage(w io.Writer, cmd *cobra.Command) error {
	var b strings.Builder
	line := cmd.UseLine()
	if cmd.HasAvailableSubCommands() {
		line = cmd.CommandPath() + " COMMAND"
	}
	section(&b, "Usage", "  "+line)
	section(&b, "Examples", cmd.Example)
	if len(cmd.Groups()) == 0 {
		section(&b, "Commands", commandList(cmd, ""))
	}
	for _, g := range cmd.Groups() {
		section(&b, g.Title, commandList(cmd, g.ID))
	}
	own := pflag.NewFlagSet("", pflag.ContinueOnError)
	shared := pflag.NewFlagSet("", pflag.ContinueOnError)
	// To ask for those that are inherited merges them into the command's own.
	inherited := cmd.InheritedFlags()
	_, secret := cmd.Annotations[showsSecret]
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		switch {
		case secret && f.Name == "quiet":
			return
		case f.Name == "output" && formatsOf(cmd) != idFormats:
			own := *f
			own.Usage = "`format` of the answer: " + formatsOf(cmd)
			if _, export := cmd.Annotations[showsExport]; export {
				own.DefValue = formatLines
			}
			f = &own
		}
		if _, ok := f.Annotations[generalFlag]; ok || inherited.Lookup(f.Name) != nil {
			shared.AddFlag(f)
		} else {
			own.AddFlag(f)
		}
	})
	if cmd.HasAvailableSubCommands() {
		if !cmd.HasParent() {
			section(&b, "Flags", cmd.Flags().FlagUsagesWrapped(pageWidth))
		}
		fmt.Fprintf(&b, "%s COMMAND --help tells more.\n", cmd.CommandPath())
	} else {
		section(&b, "Flags", own.FlagUsagesWrapped(pageWidth))
		section(&b, "General flags", shared.FlagUsagesWrapped(pageWidth))
	}
	_, err := io.WriteString(w, strings.TrimRight(b.String(), "\n")+"\n")
	return err
}

// generalFlag marks the flags that commands have in common.
const generalFlag = "keyledger/general"

func section(b *strings.Builder, title, text string) {
	if text = strings.TrimRight(text, "\n"); text != "" {
		fmt.Fprintf(b, "%s:\n%s\n\n", title, text)
	}
}

func commandList(cmd *cobra.Command, group string) string {
	var b strings.Builder
	for _, c := range cmd.Commands() {
		if c.GroupID == group && c.IsAvailableCommand() && c.Name() != "help" {
			fmt.Fprintf(&b, "  %-13s %s\n", c.Name(), c.Short)
		}
	}
	return b.String()
}

// general marks all flags of a set as those that commands have in common.
func general(f *pflag.FlagSet, names ...string) {
	for _, name := range names {
		flag := f.Lookup(name)
		if flag.Annotations == nil {
			flag.Annotations = map[string][]string{}
		}
		flag.Annotations[generalFlag] = nil
	}
}
