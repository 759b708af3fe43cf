// Package linger learns for how long it is worth to wait for company, where what is done costs as
// much for one as for many. (Producers of Kafka call such a wait linger.ms.)
//
// Who waits for one another comes back together, sooner or later: the longer one waits for all of
// them, the fewer times the work is done. Others come when they like: to wait for as many of those
// as came by chance the last time only delays the ones that are there. Which it is shows in
// how the waits end.
package linger

import "time"

// Linger is the limit of a wait. Not safe for concurrent use. The zero value never waits.
type Linger struct{ least, most, limit time.Duration }

// New returns a Linger that is between least and most, and least at first.
func New(least, most time.Duration) Linger { return Linger{least, most, least} }

// Limit is for how long to wait next.
func (l *Linger) Limit() time.Duration { return l.limit }

// Learn is told how a wait has ended: whether those have come who were waited for, or
// the time was over. Where hardly more than half of them end well, the limit becomes the least.
func (l *Linger) Learn(came bool) {
	if came {
		l.limit = min(l.limit*3/2, l.most)
	} else {
		l.limit = max(l.limit*3/5, l.least)
	}
}
