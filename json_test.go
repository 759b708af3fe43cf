package gateway

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// passes tells whether the scanner takes text as one value.
func passes(text string) bool {
	s := scanner{text: []byte(text)}
	return utf8.ValidString(text) && s.skip(maxNesting) == nil && s.ended()
}

func TestScannerTakesJSONAndNothingElse(t *testing.T) {
	for text, want := range map[string]bool{
		`{}`: true, `[]`: true, ` [ 1 , {"a" : [ ] } ] `: true, "\t\r\n null": true, `true`: true, `false`: true, `""`: true,
		`0`: true, `-0`: true, `10`: true, `0.5`: true, `-1.25e+10`: true, `1E-2`: true, `1e5`: true,
		`"\"\\\/\b\f\n\r\t"`: true, `"\u00e9\uABCD"`: true, `"\ud83d\ude00"`: true, `"\uD83D\uDE00"`: true, "\"\u007f\u2028é\"": true,
		`{"a":1,"a":2}`: true,

		``: false, ` `: false, `nul`: false, `nulll`: false, `True`: false, `tru e`: false,
		`01`: false, `+1`: false, `-`: false, `.5`: false, `1.`: false, `1e`: false, `1e+`: false, `--1`: false, `0x1`: false, `1 2`: false, `NaN`: false,
		`"`: false, `"a`: false, `"\"`: false, `"\x"`: false, `"\u12"`: false, `"\u12g4"`: false, "\"\\u\x101234\"": false, "\"\n\"": false, "\"\x00\"": false, `'a'`: false,
		`"\ud800"`: false, `"\udc00"`: false, `"\ud800\u0041"`: false, `"\ud800\ud800"`: false, `"\ud800x"`: false, `"\ud83d\n"`: false,
		`{`: false, `}`: false, `{"a"}`: false, `{"a":}`: false, `{"a":1,}`: false, `{,}`: false, `{1:2}`: false, `{"a" 1}`: false, `{"a":1 "b":2}`: false,
		`[`: false, `]`: false, `[1,]`: false, `[,1]`: false, `[1 2]`: false, `[1}`: false, `{"a":1]`: false,
		"\x00": false, "[\x00]": false, "\u00a0[]": false, "\ufeff[]": false, `//x`: false,
	} {
		if got := passes(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

// Every byte at every place of a word, behind and before others of every kind.
func TestPlainBytesEndAtTheFirstThatIsNot(t *testing.T) {
	isPlain := func(c byte) bool { return c >= ' ' && c != '"' && c != '\\' }
	for length := range 20 {
		for at := range length {
			for c := range 256 {
				for _, around := range []string{"a", "!", "#", "[", "]", "\x7f", "\xff", "\xa2", "\xdc", "\x80"} {
					text := []byte(strings.Repeat(around, length))
					text[at] = byte(c)
					want := length
					if !isPlain(byte(c)) {
						want = at
					}
					if got := plain(text); got != want {
						t.Fatalf("of %q, %d bytes are plain, want %d", text, got, want)
					}
					text[length-1] = '"' // and one more that is not
					if got := plain(text); got != min(want, length-1) {
						t.Fatalf("of %q, %d bytes are plain, want %d", text, got, min(want, length-1))
					}
				}
			}
		}
	}
}

func TestScannerCountsLevels(t *testing.T) {
	for levels := range 4 {
		for text, deep := range map[string]int{`1`: 0, `"[["`: 0, `[]`: 1, `{"a":1}`: 1, `[{}]`: 2, `{"a":[]}`: 2, `[1,[[2]],3]`: 3} {
			s := scanner{text: []byte(text)}
			err := s.skip(levels)
			if (err == nil) != (deep <= levels) || err != nil && !errors.Is(err, errTooDeep) {
				t.Errorf("%s with %d levels: %v", text, levels, err)
			}
		}
	}
}

// FuzzScanner checks that the scanner takes what package jsontext does, and reads
// strings as it does.
func FuzzScanner(f *testing.F) {
	for _, text := range []string{
		`{"a":[1,-2.5e+7,true,false,null,"\u00e9\ud83d\ude00\n"]}`, `"\ud800"`, `[1,]`, `{"a":1,}`, "\"\xff\"", "[\x00]", `01`, ` {} `, `"\u00`, bodyWith(``), benchAnswer,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s := scanner{text: text}
		value, err := s.value(maxNesting)
		if errors.Is(err, errTooDeep) {
			return
		}
		got := utf8.Valid(text) && err == nil && s.ended()
		want := jsontext.Value(text).IsValid(jsontext.AllowDuplicateNames(true))
		if got != want {
			t.Fatalf("%q: %v, and package jsontext says %v", text, got, want)
		}
		if !got {
			return
		}
		if trimmed := strings.Trim(string(text), " \t\r\n"); string(value) != trimmed {
			t.Fatalf("the value is %q, want %q", value, trimmed)
		}
		if value.Kind() == '"' {
			var want string
			if err := json.Unmarshal(value, &want); err != nil || string(unquoted(value)) != want {
				t.Fatalf("%q says %q, want %q: %v", value, unquoted(value), want, err)
			}
		}
	})
}

// FuzzPlainAcceptance checks that what is taken for an acceptance without decoding
// it is the same one once it is decoded.
func FuzzPlainAcceptance(f *testing.F) {
	for _, body := range []string{
		benchAnswer, `{"messages":[{"id":"a"},{"id":"b"}]}`, `{"messages":[{"id":"a","ID":"b"}]}`, `{"messages":[{"id":"a"}],"Messages":[{"id":"b"}]}`,
		"{\"messages\":[{\"id\":\"a\"}],\"me\u017fsages\":[{\"id\":\"b\"}]}", `{"messages":[{"id":"a"}],"m\u0065ssages":[]}`,
		`{"messages":[{"id":"a"}],"messages":[]}`, `{"messages":[{"id":"a","id":"b"}]}`, `{"messages":[{"id":"\u0061\ud83d\ude00"}]}`, `{"messages":[{"id":1}]}`,
		`{"messages":[7,{"id":"a"}]}`, `{"messages":{"id":"a"}}`, `{"error":{"code":1},"messages":[{"id":"a"}]}`, `{"messages":[{"id":"a"}]} {}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		id := plainAcceptance(body)
		if id == "" {
			return
		}
		var answer metaAnswer
		if err := parseAnswer(body, &answer); err != nil || len(answer.Messages) == 0 || answer.Messages[0].ID != id {
			t.Fatalf("%q: the id is %q, decoded %+v: %v", body, id, answer.Messages, err)
		}
	})
}

func TestUsualAnswersAreNotDecoded(t *testing.T) {
	for body, want := range map[string]string{
		benchAnswer: "wamid.HBgLMTU1NTAwMDExMTEVAgARGBI5QTNDQTVCM0Q0Q0Q2RTY3RTcA",
		`{"messaging_product":"whatsapp","contacts":[{"input":"US.1","user_id":"US.1"}],"messages":[{"id":"wamid.1","message_status":"accepted"}]}`: "wamid.1",
		`{"messages":[{"id":"wamid.1"}],"Messages":[]}`: "", `{"messages":[{"id":"wamid.1"},]}`: "", `{"success":true}`: "",
	} {
		if got := plainAcceptance([]byte(body)); got != want {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
}
