package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"time"
)

// client makes the requests of the checks.
var client = &http.Client{
	Transport: &http.Transport{MaxIdleConnsPerHost: 16, DisableCompression: true},
	Timeout:   10 * time.Second,
}

// expect sends a message and compares the status of the answer, and that a message that
// was accepted has an id.
func (t *target) expect(who customer, size, status int) error {
	url := "http://" + t.fast + t.path(who.phone)
	request, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(message(size)))
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+string(who.key))
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != status {
		return fmt.Errorf("the answer is %d and should be %d: %.200s", response.StatusCode, status, body)
	}
	if status == http.StatusOK && !bytes.Contains(body, []byte("wamid.")) {
		return fmt.Errorf("the answer has no message id: %.200s", body)
	}
	return nil
}
