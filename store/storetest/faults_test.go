package storetest

import (
	"slices"
	"testing"
)

// fault is something that a store could do wrong.
type fault string

const (
	grantsRevoked   fault = "a revoked key has its grant"
	sharesLimits    fault = "a failed update has written through a pointer"
	growsTooEarly   fault = "the generation grows before the change"
	ignoresClose    fault = "a closed store answers"
	ignoresContext  fault = "a cancelled context admits"
	forgetsWindows  fault = "a restart forgets the windows"
	countsRefused   fault = "a refused request is counted"
	refusesRepeated fault = "a repeated hold is refused with nothing left"
	admitsOneMore   fault = "one more than the limit is admitted"
	secondFirst     fault = "a full second outranks a full minute"
	wantsWholeFee   fault = "half a fee does not admit"
	fixedWindows    fault = "windows have fixed beginnings"
	coarseWindows   fault = "windows move in steps of a twentieth"
	hasTwoOutcomes  fault = "a hold has both outcomes"
	capturesTwice   fault = "a repeated capture charges twice"
	creditsTwice    fault = "a repeated credit is given twice"
	settlesAll      fault = "holds made later are in doubt too"
	overflows       fault = "a credit overflows with what is held"
	racesForMoney   fault = "two racers see the same balance"

	losesHeaders    fault = "a webhook comes back without its headers"
	sharesWebhooks  fault = "an app that was read is the record itself"
	findsUnnumbered fault = "an app without a number has the empty one"
	findsOneApp     fault = "one app of a business account is found"

	forgetsEvents    fault = "a restart forgets the outbox"
	receivesHalf     fault = "a cancelled Receive stores its events"
	repeatsEvents    fault = "an event that is received again is there twice"
	backdatesEvents  fault = "events are older than they are"
	sharesPayloads   fault = "payloads are the caller's"
	listsPayloads    fault = "lists have payloads"
	listsAllStates   fault = "lists are of every state"
	keepsAnyNumber   fault = "any number is quarantined"
	keepsAnySize     fault = "any size is quarantined"
	evictsNewest     fault = "the newest give way in quarantine"
	overlooksClaimed fault = "claimed events are not in the backlog"

	claimsTwice   fault = "a claimed event is claimed by others"
	claimsForGood fault = "a claim never runs out"
	claimsEarly   fault = "an event is claimed before it is due"
	claimsOldest  fault = "the oldest is claimed before the longest due"
	claimsOthers  fault = "a claim takes other apps' events"
	claimsAnySize fault = "a claim takes any number of large events"
	starvesLarge  fault = "an event over the claim's size is never claimed"
	tellsClaimed  fault = "the next event may be one that is claimed"
	tellsNoNext   fault = "the next event is not told"
	reusesTokens  fault = "all claims have one token"

	countsReturned fault = "a returned event counts as an attempt"
	trustsStale    fault = "a stale claim fails the event"
	refusesStale   fault = "a stale claim cannot deliver"
	expiresClaims  fault = "a claim that ran out cannot be settled"
	settlesTwice   fault = "a claim can be settled twice"
	missesGone     fault = "settling what is gone is an error"
	buriesAll      fault = "events that came later are buried"
	buriesOthers   fault = "other apps' events are buried"
	buriesClaimed  fault = "claimed events are buried"
	keepsClaims    fault = "a claim that ran out outlasts the burial of its event"
	replaysAny     fault = "any event can be replayed"
	replaysKnown   fault = "a replay takes what it knows"
	replaysOld     fault = "a replayed event is as old as before"
	replaysTired   fault = "a replayed event has its attempts behind it"

	tellsUnknown      fault = "unknown holds are somebody's"
	overlooksAgain    fault = "a hold that was captured again is told as released"
	settlesAlways     fault = "every status of a hold has settled it"
	leavesReleased    fault = "a released hold stays released"
	chargesAgain      fault = "every status of a released hold charges"
	countsAgain       fault = "a hold made again is a request"
	namesNoMessage    fault = "a capture by status names no message"
	needsHold         fault = "a fee needs a hold"
	trustsMessage     fault = "the message outranks the hold"
	chargesEachStatus fault = "every status charges the template fee"
	chargesDollars    fault = "every account is in US dollars"
	chargesNothing    fault = "a fee without a price is one of zero"
	skipsZeroFees     fault = "a fee of zero is not charged"
	sellsFeeIDs       fault = "a credit takes the id of a template fee"
	racesForFees      fault = "two statuses see that the fee was not charged"
	ignoresEarlyFees  fault = "early fees are never charged"
	hurriesEarlyFees  fault = "early fees are forgotten early"
)

// faults must each be found by the checks named here, at least.
var faults = map[fault][]string{
	grantsRevoked:     {"a revoked key has no grant"},
	sharesLimits:      {"a failed update writes nothing"},
	growsTooEarly:     {"a grant read during a change is never taken for the new one"},
	ignoresClose:      {"a closed store says so"},
	ignoresContext:    {"a cancelled context changes nothing", "a cancelled context changes nothing in the outbox"},
	forgetsWindows:    {"windows outlast a restart", "windows are as exact as promised"},
	countsRefused:     {"a refused request changes nothing", "windows are as exact as promised"},
	refusesRepeated:   {"a repeated hold is admitted and changes nothing", "random sequences do what a plain model does"},
	admitsOneMore:     {"the quota is what is left after the decision", "one place left admits one of 64 racers", "windows are as exact as promised", "windows are never passed while limits change"},
	secondFirst:       {"the first check that fails is the verdict"},
	wantsWholeFee:     {"a balance of half a fee still admits", "random sequences do what a plain model does"},
	fixedWindows:      {"a window slides", "windows are as exact as promised", "windows are never passed while limits change"},
	coarseWindows:     {"windows are as exact as promised"},
	hasTwoOutcomes:    {"a hold has one outcome", "one of two racing outcomes wins", "random sequences of many at once keep the books"},
	capturesTwice:     {"a repeated capture changes nothing", "random sequences do what a plain model does"},
	creditsTwice:      {"a repeated credit is given once", "one credit id of 64 racers is one credit"},
	settlesAll:        {"only holds made before are in doubt", "balances and open holds outlast a restart"},
	overflows:         {"a credit that does not fit is refused"},
	racesForMoney:     {"one fee left admits one of 64 racers"},
	losesHeaders:      {"webhooks come back as they were set"},
	sharesWebhooks:    {"webhooks that were read are copies"},
	findsUnnumbered:   {"an empty id finds no app"},
	findsOneApp:       {"apps are found by number and by business account"},
	forgetsEvents:     {"events come back as they were received", "what was received outlasts a restart", "events and statuses that were given up half-way take effect together"},
	receivesHalf:      {"a cancelled context changes nothing in the outbox"},
	repeatsEvents:     {"events that were received again are there once", "what was received half-way takes effect once when it is repeated"},
	backdatesEvents:   {"the store says when an event was received"},
	sharesPayloads:    {"payloads that were read are copies"},
	listsPayloads:     {"events are listed oldest first without payloads"},
	listsAllStates:    {"events are listed by app and state"},
	keepsAnyNumber:    {"the newest quarantined events are kept"},
	keepsAnySize:      {"quarantined events are bounded in size"},
	evictsNewest:      {"the newest quarantined events are kept"},
	overlooksClaimed:  {"the backlog is what is pending", "random deliveries do what a plain model does"},
	claimsTwice:       {"a claimed event is kept from others", "each event of 64 racers is claimed once", "random deliveries do what a plain model does"},
	claimsForGood:     {"a claim that ran out is taken up again", "claims do not outlast their lease over a restart", "random deliveries do what a plain model does"},
	claimsEarly:       {"what is not due is not claimed", "random deliveries do what a plain model does"},
	claimsOldest:      {"the longest due is claimed first", "random deliveries do what a plain model does"},
	claimsOthers:      {"claims leave other apps alone", "random deliveries do what a plain model does"},
	claimsAnySize:     {"a claim of large events is small"},
	starvesLarge:      {"an event is claimed however large it is"},
	tellsClaimed:      {"a claim tells when the next event is due", "random deliveries do what a plain model does"},
	tellsNoNext:       {"a claim tells when the next event is due"},
	reusesTokens:      {"every claim has a token of its own"},
	countsReturned:    {"a returned event is up for claiming as before", "random deliveries do what a plain model does"},
	trustsStale:       {"a stale claim does nothing but deliver", "claims do not outlast their lease over a restart", "random deliveries do what a plain model does"},
	refusesStale:      {"a stale claim does nothing but deliver", "random deliveries do what a plain model does"},
	settlesTwice:      {"an outcome counts once", "racing outcomes of one claim count once", "an attempt whose outcome was given up half-way counts once"},
	missesGone:        {"settling what is gone is no error"},
	buriesAll:         {"burying makes dead letters of what was received before", "random deliveries do what a plain model does"},
	buriesOthers:      {"burying makes dead letters of what was received before"},
	keepsClaims:       {"burying ends a claim that has run out"},
	buriesClaimed:     {"claimed events are not buried", "random deliveries do what a plain model does"},
	replaysAny:        {"a replay of what is no dead letter changes nothing"},
	replaysKnown:      {"a replay of what is no dead letter changes nothing"},
	replaysOld:        {"a replayed event has all attempts ahead of it", "random deliveries do what a plain model does"},
	replaysTired:      {"a replayed event has all attempts ahead of it", "random deliveries do what a plain model does"},
	tellsUnknown:      {"holds tell whose they are"},
	overlooksAgain:    {"holds tell whose they are"},
	settlesAlways:     {"a status leaves a captured hold alone", "one status of 64 racers settles"},
	leavesReleased:    {"a status of a released hold charges once", "racing capture, release and statuses charge once", "racing statuses and captures make the books of a plain model"},
	chargesAgain:      {"a status of a released hold charges once", "random sequences do what a plain model does"},
	countsAgain:       {"a hold made again is no request"},
	namesNoMessage:    {"a status captures an open hold", "a message tells whose the template fee is"},
	needsHold:         {"a message tells whose the template fee is", "random sequences do what a plain model does"},
	trustsMessage:     {"a hold tells whose the template fee is"},
	chargesEachStatus: {"a template fee is charged once for each message", "random sequences do what a plain model does"},
	chargesDollars:    {"a template fee is in the account's currency", "random sequences do what a plain model does"},
	chargesNothing:    {"a template fee without a price in the currency is not charged"},
	skipsZeroFees:     {"a template fee of zero is charged"},
	sellsFeeIDs:       {"a credit cannot have the id of a template fee"},
	racesForFees:      {"racing statuses charge one template fee"},
	ignoresEarlyFees:  {"an early template fee is charged with the capture", "racing statuses and captures make the books of a plain model", "random sequences do what a plain model does"},
	hurriesEarlyFees:  {"an early template fee is remembered for as long as promised"},
}

func TestFaultsAreFound(t *testing.T) {
	for f, names := range faults {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			for _, name := range names {
				i := slices.IndexFunc(checks, func(c check) bool { return c.name == name })
				if i < 0 {
					t.Fatalf("there is no check %q", name)
				}
				found := false
				for n := 0; n < 100 && !found; n++ { // some find a fault by chance only
					found = fails(t, checks[i], openMemory(f))
				}
				if !found {
					t.Errorf("%q passes", name)
				}
			}
		})
	}
}
