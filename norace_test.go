//go:build !race

package gateway

// underRace: the race detector allocates, too.
const underRace = false
