package cli

import (
	"runtime"

	"github.com/spf13/cobra"
)

func (a *app) versionCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "version", Short: "Print the version", Args: takes(),
		RunE: func(*cobra.Command, []string) error {
			return a.out.done(map[string]string{
				"version": a.env.Version, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH,
			}, a.env.Version, "keyledger %s (%s, %s/%s)", a.env.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		},
	}
	a.out.flags(c.Flags())
	return c
}

func (a *app) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "completion SHELL", Short: "Print the script that completes commands in a shell",
		Long: "Print the script that completes commands in bash, zsh, fish or powershell.",
		Example: `  source <(keyledger completion bash)
  keyledger completion zsh > "${fpath[1]}/_keyledger"
  keyledger completion fish > ~/.config/fish/completions/keyledger.fish
  keyledger completion powershell | Out-String | Invoke-Expression`,
		Args:      takes("SHELL"),
		ValidArgs: []string{"bash", "zsh", "fish", "powershell"},
		RunE: func(_ *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return a.root.GenBashCompletionV2(a.out.out, true)
			case "zsh":
				return a.root.GenZshCompletion(a.out.out)
			case "fish":
				return a.root.GenFishCompletion(a.out.out, true)
			case "powershell":
				return a.root.GenPowerShellCompletionWithDesc(a.out.out)
			default:
				return usage("there is completion for bash, zsh, fish and powershell", "")
			}
		},
	}
}
