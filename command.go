package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/connexease/caddy-whatsapp-gateway/seal"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "whatsapp-gateway",
		Usage: "<noun> <verb>",
		Short: "Administers the WhatsApp gateway: accounts, apps, keys and events",
		Long: `
Administers the WhatsApp gateway. An account is a prepaid wallet. An app is one
WhatsApp number with its Meta access token, and names the account that pays for
it. A key belongs to an app and is what a program sends messages with. What Meta
reports of the number are events, which are delivered to the app's webhook.

The store is the one that the configuration names (--config), and a gateway may
be running on it. From nothing to the first message:

  caddy whatsapp-gateway account create --name Acme --credit 25.00
  caddy whatsapp-gateway app create --account acct_... --name Support \
      --phone-number-id 123 --waba-id 456 --access-token-file token.txt
  caddy whatsapp-gateway key create --app app_...

Secrets are read from a file or from standard input, never from an argument.
With --json, standard output is one JSON document. The exit status is 0 when
it is done, 1 when it failed, and 2 when the command was called wrongly.`,
		CobraFunc: addCommands,
	})
}

// addCommands hangs the nouns and their verbs on the root of ours.
func addCommands(root *cobra.Command) {
	flags := root.PersistentFlags()
	flags.StringP("config", "c", "Caddyfile", "the `file` with the gateway's configuration; - is standard input")
	flags.StringP("adapter", "a", "", "the `name` of the config adapter, where the file's name does not tell")
	flags.Bool("json", false, "print one JSON document")
	asNoun(root)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if words := cmd.Flags().Args(); cmd.HasSubCommands() && len(words) > 0 {
			err = unknownCommand(words[0]) // the cause of a flag that is unknown here
		}
		return report(cmd, usageError{flagError(err)})
	})
	root.AddCommand(
		noun("account", "Prepaid wallets", accountCreate(), accountList(), accountShow(), accountCredit(), accountLedger()),
		noun("app", "WhatsApp numbers, their Meta tokens, limits and webhooks", appCreate(), appSet(), appList(), appShow()),
		noun("key", "API keys of an app", keyCreate(), keyList(), keyRevoke()),
		noun("event", "What Meta reported and is not delivered yet", eventList(), eventShow(), eventReplay()),
		noun("token", "Meta access tokens at rest", tokenRotate()),
		demo(),
	)
}

// noun is a command that only groups others.
func noun(word, short string, verbs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: word, Short: short}
	asNoun(cmd)
	cmd.AddCommand(verbs...)
	return cmd
}

// asNoun makes a command print its help, and refuse a verb that it does not
// have, which cobra would take for an argument.
func asNoun(cmd *cobra.Command) {
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return report(cmd, unknownCommand(args[0]))
		}
		return cmd.Help()
	}
}

func unknownCommand(word string) error { return usageError{fmt.Errorf("unknown command %q", word)} }

// command is one run of a verb, with the configured store open.
type command struct {
	*cobra.Command
	store store.Store
	app   *App
	json  bool
}

// runVerb does a verb's work.
type runVerb func(ctx context.Context, c *command, args []string) error

// verb is a command that does something. use is its name and those of the
// arguments that it must be given.
func verb(use, short string, run runVerb) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, SilenceErrors: true, SilenceUsage: true,
		Args: func(cmd *cobra.Command, args []string) error { return report(cmd, checkArguments(cmd, args)) },
		PreRunE: func(cmd *cobra.Command, _ []string) error {
			err := cmd.ValidateRequiredFlags()
			if err == nil {
				err = cmd.ValidateFlagGroups()
			}
			if err != nil {
				return report(cmd, usageError{err})
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return report(cmd, runWithStore(cmd, args, run)) },
	}
}

// anyIDs is how a command's Use says that it takes any number of ids.
const anyIDs = "[ID...]"

// checkArguments compares what was given with what the command's Use names. It
// repeats no argument: one too many may well be a secret in the wrong place.
func checkArguments(cmd *cobra.Command, args []string) error {
	wanted := strings.Fields(cmd.Use)[1:]
	switch {
	case slices.Contains(wanted, anyIDs):
		return nil
	case len(args) < len(wanted):
		return usageError{fmt.Errorf("%s is missing", wanted[len(args)])}
	case len(args) > len(wanted) && len(wanted) == 0:
		return usageError{fmt.Errorf("%s takes no arguments but flags", cmd.Name())}
	case len(args) > len(wanted):
		return usageError{fmt.Errorf("%s takes %s and no more arguments", cmd.Name(), strings.Join(wanted, " and "))}
	}
	return nil
}

// usageError is a mistake in how a command was called.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// exitUsage is the exit status after a usageError.
const exitUsage = 2

// secretArgument is a token, a key or a webhook's secret that was given where it does not belong,
// perhaps with something stuck to it. Unlike Meta's texts, this one may lose more.
var secretArgument = regexp.MustCompile(`EAA[0-9A-Za-z]{8,}|[ps]k_[0-9A-Za-z]{8,}|whsec_[0-9A-Za-z+/=]+`)

// report tells what went wrong, in one line on standard error, and returns the
// error that makes Caddy exit with the right status.
func report(cmd *cobra.Command, err error) error {
	if err == nil {
		return nil
	}
	line := strings.ReplaceAll(err.Error(), "\n", "; ")
	line = secretArgument.ReplaceAllString(line, masked)
	if !errors.As(err, new(usageError)) {
		cmd.PrintErrln(line)
		return err
	}
	cmd.PrintErrf("%s (see %s --help)\n", line, cmd.CommandPath())
	// Caddy's error with a status is its own; this is the way to one.
	return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) { return exitUsage, nil })(cmd, nil)
}

// runWithStore opens the configured store for as long as run takes.
func runWithStore(cmd *cobra.Command, args []string, run runVerb) (err error) {
	c := &command{Command: cmd}
	c.json, _ = cmd.Flags().GetBool("json") // there is one, see addCommands
	if c.app, err = configuredApp(cmd); err != nil {
		return err
	}
	caddyContext, cancel := caddy.NewContext(caddy.Context{Context: cmd.Context()})
	defer cancel()
	if err := c.app.provisionBackend(caddyContext); err != nil {
		return err
	}
	opening, cancelOpening := context.WithTimeout(cmd.Context(), openTimeout)
	defer cancelOpening()
	if c.store, err = c.app.backend.Open(opening, false); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.store.Close()) }()
	settleLeftBehind(opening, c.app.backend, c.store)
	return run(cmd.Context(), c, args)
}

// secrets returns the secrets that the gateway works with. Only those commands
// ask for them that need them: the others work where they are not in the
// environment.
func (c *command) secrets() (*tenant.Pepper, *seal.Ring, error) {
	if err := c.app.resolveSecrets(); err != nil {
		return nil, nil, err
	}
	if err := c.app.checkSecrets(); err != nil {
		return nil, nil, err
	}
	return c.app.secrets()
}

// configuredApp reads the gateway's part of the configuration. It does what
// Caddy's own commands do, but for telling about it in the log.
func configuredApp(cmd *cobra.Command) (*App, error) {
	file, _ := cmd.Flags().GetString("config")
	adapter, _ := cmd.Flags().GetString("adapter")
	config, err := readInput(cmd, file)
	if errors.Is(err, fs.ErrNotExist) && !cmd.Flags().Changed("config") {
		return nil, errors.New("there is no Caddyfile here: name the gateway's configuration with --config")
	}
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	base := strings.ToLower(filepath.Base(file))
	if adapter == "" && filepath.Ext(base) != ".json" && (strings.HasPrefix(base, "caddyfile") || strings.HasSuffix(base, ".caddyfile")) {
		adapter = "caddyfile"
	}
	if adapter != "" {
		from := caddyconfig.GetAdapter(adapter)
		if from == nil {
			return nil, usageError{fmt.Errorf("unknown config adapter %q", adapter)}
		}
		if config, _, err = from.Adapt(config, map[string]any{"filename": file}); err != nil {
			return nil, fmt.Errorf("reading the configuration: %w", err)
		}
	}
	var parts struct {
		Apps map[string]json.RawMessage `json:"apps"`
	}
	if err := json.Unmarshal(caddy.RemoveMetaFields(config), &parts); err != nil {
		return nil, fmt.Errorf("%s is not a configuration in JSON, and --adapter names no other form: %w", file, err)
	}
	app := new(App)
	if part := parts.Apps[moduleName]; part != nil {
		if err := caddy.StrictUnmarshalJSON(part, app); err != nil {
			return nil, fmt.Errorf("%s: apps.%s: %w", file, moduleName, err)
		}
	}
	return app, nil
}

// readInput reads a file, or standard input where its name is a hyphen.
func readInput(cmd *cobra.Command, file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(cmd.InOrStdin())
	}
	return os.ReadFile(file)
}
