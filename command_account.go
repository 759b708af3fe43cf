package gateway

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/spf13/cobra"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

const (
	accountPrefix = "acct"
	creditPrefix  = "credit"
)

// accountView is what is shown of an account.
type accountView struct {
	ID        tenant.AccountID `json:"id"`
	Name      string           `json:"name"`
	Currency  string           `json:"currency"`
	Available pricing.Micros   `json:"available"`
	Held      pricing.Micros   `json:"held"`
	Captured  pricing.Micros   `json:"captured"`
	CreatedAt time.Time        `json:"created_at"`
}

func viewAccount(a tenant.Account, b store.Balance) accountView {
	return accountView{a.ID, a.Name, a.Currency, b.Available, b.Held, b.Captured, a.CreatedAt}
}

// entryView is what is shown of a ledger entry.
type entryView struct {
	Seq       int64          `json:"seq"`
	ID        string         `json:"id"`
	Kind      store.Kind     `json:"kind"`
	Amount    pricing.Micros `json:"amount"`
	Balance   pricing.Micros `json:"balance"`
	MessageID *string        `json:"message_id"`
	AppID     *tenant.AppID  `json:"app_id"`
	At        time.Time      `json:"at"`
}

// notFound says in an operator's words which record there is not.
func notFound[ID ~string](err error, kind string, id ID) error {
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("no %s with id %s", kind, id)
	}
	return err
}

func accountCreate() *cobra.Command {
	account := tenant.Account{Currency: "USD"}
	var credit pricing.Micros
	cmd := verb("create", "Create an account", func(ctx context.Context, c *command, _ []string) error {
		account.ID, account.CreatedAt = tenant.AccountID(tenant.NewID(accountPrefix)), now()
		if err := c.store.CreateAccount(ctx, account); err != nil {
			return err
		}
		var balance store.Balance
		if credit != 0 {
			var err error
			operation := tenant.NewID(creditPrefix)
			if balance, err = c.store.Credit(ctx, account.ID, credit, operation); err != nil {
				return fmt.Errorf("account %s was created, and crediting it failed: %w", account.ID, uncertain(operation, err))
			}
		}
		return c.print(viewAccount(account, balance))
	})
	flag(cmd, &account.Name, "name", "the `name` that people call the account by (required)", parseName)
	flag(cmd, &account.Currency, "currency", "the account's `currency`, such as EUR (default USD)", parseCurrency)
	flag(cmd, &credit, "credit", "the first `amount` to credit, such as 25.00", pricing.Parse)
	require(cmd, "name")
	return cmd
}

func accountList() *cobra.Command {
	return verb("list", "List all accounts with their balances", func(ctx context.Context, c *command, _ []string) error {
		accounts, err := c.store.Accounts(ctx)
		if err != nil {
			return err
		}
		return printAll(c, views(accounts, func(a tenant.Account) (accountView, error) {
			balance, err := c.store.Balance(ctx, a.ID)
			return viewAccount(a, balance), err
		}), "no accounts in "+c.app.backend.Key())
	})
}

func accountShow() *cobra.Command {
	return verb("show ID", "Show an account and its balance", func(ctx context.Context, c *command, args []string) error {
		id := tenant.AccountID(args[0])
		account, err := c.store.Account(ctx, id)
		if err != nil {
			return notFound(err, "account", id)
		}
		balance, err := c.store.Balance(ctx, id)
		if err != nil {
			return err
		}
		return c.print(viewAccount(account, balance))
	})
}

func accountCredit() *cobra.Command {
	var operation string
	var amount pricing.Micros
	cmd := verb("credit ID AMOUNT", "Top up an account, or correct it with a negative amount", func(ctx context.Context, c *command, args []string) error {
		id := tenant.AccountID(args[0])
		account, err := c.store.Account(ctx, id)
		if err != nil {
			return notFound(err, "account", id)
		}
		if operation == "" {
			operation = tenant.NewID(creditPrefix)
		}
		balance, err := c.store.Credit(ctx, id, amount, operation)
		if errors.Is(err, store.ErrConflict) {
			return fmt.Errorf("operation %s has already done something else", operation)
		}
		if err != nil {
			return uncertain(operation, err)
		}
		return c.print(struct {
			accountView
			Operation string `json:"operation"`
		}{viewAccount(account, balance), operation})
	})
	cmd.Long = `Top up an account, or correct it with a negative amount, and print the new balance.

Give the operation an id of your own, such as the number of an invoice, where
the command may be repeated: the same id credits once.`
	cmd.Example = "  caddy whatsapp-gateway account credit acct_... 25.00 --id invoice-4711\n" +
		"  caddy whatsapp-gateway account credit acct_... -3.50"
	flag(cmd, &operation, "id", "the operation's `id`; the same one credits once (default: a new one)", parseName)
	takeNegative(cmd, func(args []string) (err error) {
		amount, err = pricing.Parse(args[1])
		return err
	})
	return cmd
}

// uncertain adds to the error of a credit that it may have been made all the same.
func uncertain(operation string, err error) error {
	if gotAnswer(err) || errors.Is(err, store.ErrFull) {
		return err
	}
	return fmt.Errorf("%w; should it have been made all the same, crediting with --id %s credits once", err, operation)
}

func accountLedger() *cobra.Command {
	var since time.Time
	cmd := verb("ledger ID", "List what moved an account's money", func(ctx context.Context, c *command, args []string) error {
		id := tenant.AccountID(args[0])
		return notFound(printAll(c, viewLedger(c.store.Ledger(ctx, id, since)), "no entries"), "account", id)
	})
	cmd.Long = `List what moved an account's money, oldest first.

A credit adds to what is available. Each send holds its fee, and Meta's answer
captures it or releases it. A template fee is charged when a template was
delivered. The balance is what was available after the entry.`
	flag(cmd, &since, "since", "leave out what is older: a `time`, a date, or a duration ago such as 24h", parsePast)
	return cmd
}

func viewLedger(entries iter.Seq2[store.Entry, error]) iter.Seq2[entryView, error] {
	return func(yield func(entryView, error) bool) {
		for e, err := range entries {
			view := entryView{e.Seq, e.ID, e.Kind, e.Amount, e.Balance, optional(e.MessageID), optional(e.AppID), e.At.UTC()}
			if !yield(view, err) {
				return
			}
		}
	}
}
