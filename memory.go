package gateway

import (
	"os"
	"sync"
)

// heapFloorSize is in bytes. With it the collector begins its next round when some 40 MB
// have been allocated, which is some 1,500 sends; without it, after a fifth of that.
const heapFloorSize = 32 << 20

// heapFloor makes the heap count as larger than it is: the collector runs whenever the
// heap has doubled, and would go through a small one time and again for little. It is
// never written to, so that it takes addresses and no memory. Where the operator has set
// GOGC or GOMEMLIMIT, that decides.
var heapFloor = sync.OnceValue(func() []byte {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return nil
	}
	return make([]byte, heapFloorSize)
})
