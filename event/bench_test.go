package event

import (
	"fmt"
	"strings"
	"testing"
)

// BenchmarkSplit takes apart bodies of delivered statuses, and makes an
// envelope of each change.
func BenchmarkSplit(b *testing.B) {
	for _, n := range []int{1, 1_000} {
		changes := make([]string, n)
		for i := range changes {
			status := fmt.Sprintf(`{"id":"wamid.HBgLMTIwMjU1NTAxMDAVAgARGBI%032d","status":"delivered","timestamp":"1755000000","recipient_id":"1202555%04d",`+
				`"biz_opaque_callback_data":"%s:order %d"%s}`, i, i, hold, i, onePricing)
			changes[i] = numberChange("messages", `"statuses":[`+status+`]`)
		}
		body := []byte(`{"object":"whatsapp_business_account","entry":[{"id":"1000001","changes":[` + strings.Join(changes, ",") + `]}]}`)
		b.Run(fmt.Sprintf("changes=%d/split", n), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				if got, err := Split(body); err != nil || len(got) != n {
					b.Fatal(len(got), err)
				}
			}
		})
		split, err := Split(body)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("changes=%d/envelopes", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				for i := range split {
					split[i].Envelope(holdPart)
				}
			}
		})
	}
}
