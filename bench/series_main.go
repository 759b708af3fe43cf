package main

// send is a probe of a target whose active tenants send messages of this length, one after
// the other, to a Meta that answers at once.
func (r *rig) send(name string, t *target, body int) (*probe, error) {
	l, err := r.newLoad("send", func(i int) []byte {
		if i == len(t.tenants.active) {
			return nil
		}
		who := t.tenants.active[i]
		return httpPost(t.path(who.phone), string(who.key), message(body))
	})
	return &probe{name: name, target: t, address: t.fast, load: l, connections: r.connections}, err
}

// sends are probes of all targets with a small message.
func (r *rig) sends() (probes []*probe, err error) {
	for _, t := range r.targets {
		p, err := r.send(t.name, t, smallBody)
		if err != nil {
			return nil, err
		}
		probes = append(probes, p)
	}
	return probes, nil
}

// directName is the row of what is not behind anything.
const directName = "nothing: the stub itself"

// direct is a probe of the stub itself, with nothing in between.
func (r *rig) direct(address string, connections int) (*probe, error) {
	who := newCustomer(r.group(), 0)
	request := httpPost(messagesPath(who.phone), tokenOf(who.phone), message(smallBody))
	l, err := r.newLoad("direct", once(request))
	if err != nil {
		return nil, err
	}
	t := &target{name: directName, process: r.stub.process}
	return &probe{name: t.name, target: t, address: address, load: l, connections: connections}, t.rest()
}

// mainSeries has all targets forward small messages to a Meta that answers at once.
func (r *rig) mainSeries() error {
	probes, err := r.sends()
	if err != nil {
		return err
	}
	direct, err := r.direct(r.stub.fast, r.connections)
	if err != nil {
		return err
	}
	if err := r.interleave("main", append(probes, direct)); err != nil {
		return err
	}
	bare := r.probe("main", r.bare)
	t := newTable("target", "req/s", "p50", "p99", "CPU a request", "against bare Caddy", "CPU of Redis", "idle", "under load", "errors")
	for _, p := range append(probes, direct) {
		against, redis := p.against(bare, cpu, ratio).ratio(), ""
		if p.target.redis != nil {
			redis = micros(p.median(redisCPU))
		}
		t.add(p.name, number(p.median(perSecond)), millis(p.median(p50)), millis(p.median(p99)), micros(p.median(cpu)), against, redis,
			mebibytes(p.median(idle)), mebibytes(p.median(memory)), number(p.median(failures)))
	}
	r.print("Sends, 300 bytes, Meta answers at once", t)
	r.mainBars(bare)
	if r.against == "" {
		r.note("Of the others only nginx with Lua and Redis knows a minute's limit and a balance: its windows begin with their first request, and the fee is taken " +
			"before the message is sent and never given back. None of them has a ledger. Bare Caddy checks no key.")
	}
	r.note("Allocations a send are counted by `go test -run - -bench Send -benchmem .`")
	return nil
}
