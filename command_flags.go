package gateway

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// flag adds a flag whose value parse reads. What parse refuses is a mistake of
// usage. A word in backquotes in usage is what the help calls the value.
func flag[T any](cmd *cobra.Command, value *T, name, usage string, parse func(string) (T, error)) {
	cmd.Flags().Func(name, usage, func(s string) (err error) {
		*value, err = parse(s)
		return err
	})
}

// flagError says what is wrong with a flag. It repeats nothing of the value,
// which may be a secret.
func flagError(err error) error {
	if invalid := new(pflag.InvalidValueError); errors.As(err, &invalid) {
		return fmt.Errorf("--%s: %w", invalid.GetFlag().Name, invalid.Unwrap())
	}
	// What follows an unknown letter would be its value.
	if unknown := new(pflag.NotExistError); errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() != "" {
		return fmt.Errorf("unknown flag: -%s", unknown.GetSpecifiedName())
	}
	return err
}

// checkUsage adds a check of what a verb is given, before anything is opened.
func checkUsage(cmd *cobra.Command, check func(args []string) error) {
	before := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if err := before(cmd, args); err != nil {
			return err
		}
		if err := check(args); err != nil {
			return report(cmd, usageError{err})
		}
		return nil
	}
}

// require makes flags necessary.
func require(cmd *cobra.Command, names ...string) {
	for _, name := range names {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // there is no such flag
		}
	}
}

// maxName bounds names, in characters.
const maxName = 200

func parseName(s string) (string, error) {
	if strings.TrimSpace(s) == "" || !utf8.ValidString(s) || utf8.RuneCountInString(s) > maxName || strings.ContainsFunc(s, unicode.IsControl) {
		return "", fmt.Errorf("it takes 1 to %d characters, without control characters", maxName)
	}
	return s, nil
}

var currencyCode = regexp.MustCompile(`^[A-Z]{3}$`)

func parseCurrency(s string) (string, error) {
	if !currencyCode.MatchString(s) {
		return "", errors.New("a currency is three upper-case letters, such as USD")
	}
	return s, nil
}

// noAccount is how an app is told to have no account.
const noAccount = "none"

func parseAccountID(s string) (tenant.AccountID, error) {
	if s == "" {
		return "", fmt.Errorf("name an account, or %s", noAccount)
	}
	if s == noAccount {
		s = ""
	}
	return tenant.AccountID(s), nil
}

func parseAppID(s string) (tenant.AppID, error) {
	if s == "" {
		return "", errors.New("name an app")
	}
	return tenant.AppID(s), nil
}

// parseMetaID reads an id of Meta's; an empty one removes it.
func parseMetaID(s string) (string, error) {
	if s != "" && !phoneNumberID.MatchString(s) {
		return "", errors.New("an id of Meta's is up to 32 digits")
	}
	return s, nil
}

func parseLimit(s string) (int, error) {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || n < 0 {
		return 0, errors.New("a limit is a whole number, and 0 the configured limits")
	}
	return int(n), nil
}

func parsePath(s string) (string, error) {
	if s == "" {
		return "", errors.New("name a file, or - for standard input")
	}
	return s, nil
}

// parsePast reads a point in time that may be a duration ago.
func parsePast(s string) (time.Time, error) { return parseTimeOr(s, -1) }

// parseFuture reads a point in time that may be a duration ahead.
func parseFuture(s string) (time.Time, error) {
	t, err := parseTimeOr(s, +1)
	if err == nil && !t.After(time.Now()) {
		err = errors.New("it is in the past")
	}
	return t, err
}

// parseTimeOr reads a time, a date, or a duration from now into the given
// direction.
func parseTimeOr(s string, direction time.Duration) (time.Time, error) {
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), nil
		}
	}
	d, err := caddy.ParseDuration(s)
	if err != nil || d <= 0 {
		return time.Time{}, errors.New("give a time such as 2026-01-31T12:00:00Z, a date such as 2026-01-31, or a duration such as 24h or 30d")
	}
	return now().Add(direction * d), nil
}

// now is the time to the second, in which records are kept.
func now() time.Time { return time.Now().UTC().Truncate(time.Second) }

// readSecret reads a secret from a file or standard input, without the end of
// its line. Errors repeat neither the secret nor the file's name, in whose
// place the secret itself may have been given.
func readSecret(cmd *cobra.Command, what, file string) (string, error) {
	secret, err := readInput(cmd, file)
	if pathError := new(fs.PathError); errors.As(err, &pathError) {
		err = pathError.Err
	}
	if err != nil {
		return "", fmt.Errorf("the file with the %s cannot be read: %w", what, err)
	}
	return strings.TrimRight(string(secret), "\r\n"), nil
}

// takeNegative lets negative amounts be arguments of a verb, which pflag takes
// for flags. check judges the arguments before anything is opened.
func takeNegative(cmd *cobra.Command, check func(args []string) error) {
	cmd.DisableFlagParsing = true // by cobra: it happens here
	cmd.Args = nil
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cmd.DisableFlagParsing = false
		if err := cmd.ParseFlags(protectNegative(cmd, args)); err != nil {
			return cmd.FlagErrorFunc()(cmd, err)
		}
		if help, _ := cmd.Flags().GetBool("help"); help {
			return cmd.Help()
		}
		args = cmd.Flags().Args()
		if err := checkArguments(cmd, args); err != nil {
			return report(cmd, err)
		}
		if err := check(args); err != nil {
			return report(cmd, usageError{err})
		}
		return run(cmd, args)
	}
}

// negativeAmount is what looks like a flag and is none.
var negativeAmount = regexp.MustCompile(`^-[0-9.]`)

// protectNegative moves negative amounts behind "--", so that they are not
// taken for flags.
func protectNegative(cmd *cobra.Command, args []string) []string {
	var others, amounts []string
	for i := 0; i < len(args); i++ {
		switch {
		case args[i] == "--":
			return append(append(others, "--"), append(amounts, args[i+1:]...)...)
		case negativeAmount.MatchString(args[i]):
			amounts = append(amounts, args[i])
		case takesNext(cmd, args[i]) && i+1 < len(args):
			others = append(others, args[i], args[i+1])
			i++
		default:
			others = append(others, args[i])
		}
	}
	return append(append(others, "--"), amounts...)
}

// takesNext tells whether an argument is a flag whose value is the next one.
func takesNext(cmd *cobra.Command, arg string) bool {
	if long, ok := strings.CutPrefix(arg, "--"); ok {
		f := cmd.Flags().Lookup(long)
		return f != nil && f.NoOptDefVal == ""
	}
	if len(arg) == 2 && arg[0] == '-' {
		f := cmd.Flags().ShorthandLookup(arg[1:])
		return f != nil && f.NoOptDefVal == ""
	}
	return false
}
