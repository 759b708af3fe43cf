package gateway

import (
	"bytes"
	"context"
	"io"
	"testing"
)

// What strangers have sent and not finished takes nothing from small webhooks.
func TestLargeWebhooksShareABoundedPartOfTheMemory(t *testing.T) {
	read := func(ctx context.Context, size int) (*sharedMemory, error) {
		m := &sharedMemory{ReadCloser: io.NopCloser(bytes.NewReader(make([]byte, size))), ctx: ctx}
		_, err := io.Copy(io.Discard, m)
		return m, err
	}
	impatient, cancel := context.WithCancel(t.Context())
	cancel()
	var held []*sharedMemory
	for taken := int64(0); taken < largeWebhooks; {
		m, err := read(t.Context(), maxWebhookSize)
		if err != nil {
			t.Fatal(err)
		}
		if m.taken < maxWebhookSize-2*smallWebhook || m.taken > maxWebhookSize {
			t.Fatalf("%d bytes have taken %d", maxWebhookSize, m.taken)
		}
		held = append(held, m)
		if taken += m.taken; taken+maxWebhookSize > largeWebhooks {
			break
		}
	}
	if m, err := read(impatient, smallWebhook); err != nil || m.taken != 0 {
		t.Errorf("a small one takes %d bytes, error %v", m.taken, err)
	}
	if m, err := read(impatient, maxWebhookSize); err == nil || m.err == nil {
		t.Error("one too many large ones is read")
	} else {
		m.release()
	}
	for _, m := range held {
		m.release()
	}
	m, err := read(t.Context(), maxWebhookSize)
	if err != nil {
		t.Errorf("when the others are done: %v", err)
	}
	m.release()
	if !webhookMemory.TryAcquire(largeWebhooks) {
		t.Fatal("not all of the memory has come back")
	}
	webhookMemory.Release(largeWebhooks)
}
