package redis

import (
	"context"
	"encoding/binary"
	"strconv"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/connexease/caddy-whatsapp-gateway/store"
)

// job is one run of a script that every send needs, or some questions. It is used again with all
// that it has, for a send should make little garbage.
type job struct {
	node     *goredis.Client // where it is sent to
	script   *script
	request  request
	packed   packed // the request, as it is written
	deadline time.Time

	args    [argsOfJob]any
	command *goredis.StringCmd // of args
	again   *goredis.Cmd       // the script with its text, where it was not known

	// reads are the commands of a job that runs no script, and only asks questions; not nil, then. usual are those of
	// the usual form, which are used again.
	reads []*goredis.Cmd
	usual [maxQuestions]*goredis.Cmd

	// turn tells that the job is done, or that it is to lead, which it was told then.
	turn  chan bool
	told  time.Time
	timer *time.Timer
	// queued: it is not sent yet. leads: it sends, or has been told to. Both are guarded
	// by the lane.
	queued, leads bool
	// written: it has been written to a connection's buffer, and so may have been sent.
	written bool
	// done is what an unattended job calls, which the lane has been entrusted with. patience is the timer of its hurry; patient, which
	// the lane guards, is that it has not fired yet.
	done     func(answer)
	lane     *lane
	patience *time.Timer
	patient  bool
	err      error
}

// What is where in a job's args.
const (
	argSHA     = 1
	argKeys    = 2
	argBase    = 3
	argNoKey   = 4
	argNow     = 5
	argRequest = 6
	argsOfJob  = 7
)

var jobs = sync.Pool{New: func() any {
	j := newJob()
	j.args = [argsOfJob]any{0: "evalsha", argKeys: "2", argRequest: j}
	j.command = goredis.NewStringCmd(context.Background(), j.args[:]...)
	return j
}}

func newJob() *job {
	j := &job{turn: make(chan bool, 1), timer: time.NewTimer(time.Hour)}
	j.timer.Stop()
	return j
}

// unattended tells that nobody waits for a job.
func (j *job) unattended() bool { return j.done != nil }

// MarshalBinary is what go-redis writes of a job.
func (j *job) MarshalBinary() ([]byte, error) {
	j.written = true
	j.packed = j.request.packed(j.packed[:0])
	return j.packed, nil
}

// release returns what became of a job that is done, and lets it be used again.
func (j *job) release() answer {
	j.timer.Stop()
	if j.reads != nil {
		return j.releaseReads()
	}
	hurries := j.unattended() && !j.patience.Stop()
	a := answer{reply: j.command.Val(), err: j.err, sent: j.written}
	j.command.SetVal("")
	j.command.SetErr(nil)
	j.node, j.script, j.err, j.done = nil, nil, nil, nil
	j.request = request{}
	if j.patient = false; !hurries { // else its timer may yet look at it
		jobs.Put(j)
	}
	return a
}

// packed is what a script is to do, as its struct.unpack reads it: one argument is
// cheaper than many.
type packed []byte

// text adds a text, behind its length.
func (q packed) text(t string) packed {
	return append(binary.BigEndian.AppendUint32(q, uint32(len(t))), t...)
}

// decimal adds a number in decimal digits, behind their number.
func (q packed) decimal(n int64) packed {
	at := len(q)
	q = strconv.AppendInt(append(q, 0, 0, 0, 0), n, 10)
	binary.BigEndian.PutUint32(q[at:], uint32(len(q)-at-4))
	return q
}

// record adds what an admission costs, and to whom: the RECORD of records.lua.
func (q packed) record(a store.Admission) packed {
	return q.text(string(a.Account)).text(string(a.App)).decimal(int64(a.Fee))
}

// number adds a number that is not negative and that Lua can count with.
func (q packed) number(n int) packed {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(min(max(n, 0), 1<<53)))
	return append(q, b[1:]...)
}

// unpacker takes from the front of what a script has packed.
type unpacker struct {
	rest  string
	short bool // there was less than was asked for
}

func (u *unpacker) take(n uint64) (taken string) {
	if n > uint64(len(u.rest)) {
		u.rest, u.short = "", true
		return ""
	}
	taken, u.rest = u.rest[:n], u.rest[n:]
	return taken
}

// byte takes one byte; 0 where there is none.
func (u *unpacker) byte() byte {
	if b := u.take(1); b != "" {
		return b[0]
	}
	return 0
}

// text takes a text, behind its length.
func (u *unpacker) text() string { return u.take(uint64(number(u.take(4)))) }

// number reads what a script has packed in up to seven bytes.
func number(b string) (n int) {
	for i := range len(b) {
		n = n<<8 | int(b[i])
	}
	return n
}
