package caddytest

import "testing"

// What an answer is like.
func broke(a answer) bool {
	return a.Errors.Description == broken && a.Errors.Params["retry_safe"] == false
}
func late(a answer) bool {
	return a.Errors.Description == timedOut && a.Errors.Params["retry_safe"] == false
}
func ununderstood(a answer) bool {
	return a.Errors.Description == unclear && a.Errors.Params["retry_safe"] == false
}
func success(a answer) bool { return a.messageID() != "" }
func metaCode(code float64) func(answer) bool {
	return func(a answer) bool {
		return a.Errors.Params["meta_code"] == code && a.Errors.Params["retry_safe"] == true
	}
}

// unsure is an error with which Meta does not say what failed.
func unsure(code float64) func(answer) bool {
	return func(a answer) bool {
		return a.Errors.Params["meta_code"] == code && a.Errors.Params["retry_safe"] == false
	}
}

// simulatorFates are those of package metasim, by the recipient's last digits.
var simulatorFates = []struct {
	digits string
	right  func(answer) bool
	fate   fate
}{
	{"0000", success, captured},
	{"0190", metaCode(190), released},
	{"0429", metaCode(130429), released},
	{"1016", unsure(131016), released},
	{"1026", metaCode(131026), released},
	{"1047", metaCode(131047), released},
	{"1052", metaCode(131052), released},
	{"1053", metaCode(131053), released},
	{"2001", metaCode(132001), released},
	{"8001", success, captured},
	{"9001", broke, inDoubt},
	{"9002", broke, inDoubt},
	{"9003", late, inDoubt},
	{"9004", ununderstood, inDoubt},
	{"9005", ununderstood, inDoubt},
	{"9006", ununderstood, inDoubt},
	{"9102", broke, inDoubt},
	{"9103", late, inDoubt},
	{"9107", success, captured},
	{"9108", func(a answer) bool { return a.Errors.Description == oversize }, inDoubt},
	{"9109", success, captured},
	{"9110", broke, inDoubt},
}

func TestTheFatesOfTheSimulator(t *testing.T) {
	t.Parallel()
	// The timeout is only for those that get no answer, and longer than the
	// slowest machine needs for the others.
	g := startGateway(t, settings{
		handler: "upstream_timeout 15s", simulator: "slow_answer 100ms",
		site: under("impatient", "upstream_timeout 300ms\nreverse_proxy {$SIMULATOR}"),
	})
	who := g.tenant(t, profile{})
	var outcomes []outcome
	for _, c := range simulatorFates {
		t.Run(c.digits, func(t *testing.T) {
			path := messagePath
			if c.digits == "9003" || c.digits == "9103" {
				path = "/impatient" + messagePath
			}
			a := g.sendTo(t, path, who.key, g.message(c.digits))
			if !c.right(a) {
				t.Errorf("status %d: %s", a.status, g.masked(a.body))
			}
			outcomes = append(outcomes, outcome{c.digits, c.fate})
		})
	}
	g.wantOutcomes(t, who, outcomes...)
	if got, want := g.tally(t).sends(who), len(outcomes); got != want {
		t.Errorf("%d sends have reached Meta, want %d", got, want)
	}
}
