package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
)

// checkBooks compares what the gateways have charged with what Meta has accepted, so that
// no speed is bought with charges that were lost, or made twice.
func (r *rig) checkBooks() error {
	t := newTable("gateway", "accepted by Meta", "charged", "held", "accounts")
	for _, g := range r.gateways {
		r.progress("checking the books of %s", g.name)
		var charged, held pricing.Micros
		var accounts int
		var accepted uint64
		err := r.await(g.process, func() (err error) {
			if accepted, err = r.accepted(g.target); err != nil {
				return err
			}
			if charged, held, accounts, err = r.books(g); err != nil {
				return err
			}
			charged -= pricing.Micros(g.seeded) * baseFee
			if held != 0 || charged != pricing.Micros(accepted)*baseFee {
				return fmt.Errorf("meta has accepted %d messages, %v was charged and %v is held", accepted, charged, held)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("the books are wrong: %w", err)
		}
		t.add(g.name, number(float64(accepted)), number(float64(charged/baseFee)), number(float64(held/baseFee)), number(float64(accounts)))
	}
	r.print("Books: sends that Meta accepted, and base fees that were charged", t)
	return nil
}

// books asks the command line what a gateway has charged to all accounts.
func (r *rig) books(g *gateway) (captured, held pricing.Micros, accounts int, err error) {
	cmd := exec.CommandContext(r.ctx, g.caddy, "whatsapp-gateway", "account", "list", "--json", "--config", filepath.Join(g.dir, "Caddyfile"))
	cmd.Dir, cmd.Env = g.dir, append(os.Environ(), caddyEnv(g.dir)...)
	document, err := cmd.Output()
	if err != nil {
		return 0, 0, 0, fmt.Errorf("account list: %w", err)
	}
	var list []struct{ Held, Captured string }
	if err := json.Unmarshal(document, &list); err != nil {
		return 0, 0, 0, err
	}
	for _, account := range list {
		for text, sum := range map[*string]*pricing.Micros{&account.Held: &held, &account.Captured: &captured} {
			amount, err := pricing.Parse(*text)
			if err != nil {
				return 0, 0, 0, err
			}
			*sum += amount
		}
	}
	return captured, held, len(list), nil
}
