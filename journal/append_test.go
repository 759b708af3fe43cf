package journal

import (
	"bytes"
	"fmt"
	"testing"
)

func FuzzAppend(f *testing.F) {
	j := open(f, f.TempDir())
	f.Add("capture", []byte(`{"hold":"hold_1"}`))
	f.Add("", []byte{})
	f.Add("webhook\x00\xff", []byte{0, 0xff, '\'', '"'})
	f.Add("é", bytes.Repeat([]byte("x"), 70_000))
	f.Fuzz(func(t *testing.T, kind string, body []byte) {
		if err := j.Append(t.Context(), Record{Kind: kind, Body: body}); err != nil {
			t.Fatal(err)
		}
		records := next(t, j, 2)
		if len(records) != 1 || records[0].Kind != kind || !bytes.Equal(records[0].Body, body) {
			t.Fatalf("%d records, the first is not what was put in", len(records))
		}
		if err := j.Done(t.Context(), records[0].ID); err != nil {
			t.Fatal(err)
		}
	})
}

// BenchmarkAppend is of webhooks of 2 KiB, by one and by 64 at a time.
func BenchmarkAppend(b *testing.B) {
	body := bytes.Repeat([]byte("x"), 2_048)
	for _, parallel := range []int{0, 32} {
		b.Run(fmt.Sprintf("writers=%d", max(1, 2*parallel)), func(b *testing.B) {
			j := open(b, b.TempDir())
			b.ReportAllocs()
			write := func() {
				if err := j.Append(b.Context(), Record{Kind: "webhook", Body: body}); err != nil {
					b.Error(err)
				}
			}
			if parallel == 0 {
				for b.Loop() {
					write()
				}
				return
			}
			b.SetParallelism(parallel) // of 2 processors
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					write()
				}
			})
		})
	}
}

// BenchmarkTakeOut is Next and Done of a record in batches, with a million waiting.
func BenchmarkTakeOut(b *testing.B) {
	j := open(b, b.TempDir())
	fill := j.do(b.Context(), &operation{apply: func(w *writer) error {
		return w.exec(`WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 1000000)
			INSERT INTO records (kind, at, body) SELECT 'webhook', 0, zeroblob(100) FROM n`)
	}})
	if fill != nil {
		b.Fatal(fill)
	}
	const batch = 200
	for i := 0; b.Loop(); i++ {
		if i%batch > 0 {
			continue
		}
		records := next(b, j, batch)
		ids := make([]int64, len(records))
		for i, r := range records {
			ids[i] = r.ID
		}
		if err := j.Done(b.Context(), ids...); err != nil {
			b.Fatal(err)
		}
	}
}
