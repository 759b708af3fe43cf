package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"strings"
	"text/tabwriter"
	"unicode"
)

// print prints one record: as JSON, or for people with a field on each line.
func (c *command) print(record any) error {
	out := c.OutOrStdout()
	document, err := marshal(record)
	if err != nil {
		return err
	}
	if c.json {
		_, err := fmt.Fprintf(out, "%s\n", document)
		return err
	}
	names, values, err := cells(document)
	if err != nil {
		return err
	}
	table := newTable(out)
	for i := range names {
		fmt.Fprintf(table, "%s\t%s\n", names[i], values[i]) // an error comes again from Flush
	}
	return table.Flush()
}

// tableBlock is how many rows of a table are aligned with each other, so that
// a long one need not be held in memory.
const tableBlock = 500

// printAll prints records as they come: as a JSON array, or for people as a
// table. nothing is what people read where there is none.
func printAll[T any](c *command, records iter.Seq2[T, error], nothing string) error {
	out := c.OutOrStdout()
	if c.json {
		return printArray(out, records)
	}
	table := newTable(out)
	rows := 0
	for record, err := range records {
		if err != nil {
			return err
		}
		document, err := marshal(record)
		if err != nil {
			return err
		}
		names, values, err := cells(document)
		if err != nil {
			return err
		}
		if rows == 0 {
			fmt.Fprintln(table, strings.ToUpper(strings.Join(names, "\t")))
		}
		fmt.Fprintln(table, strings.Join(values, "\t"))
		if rows++; rows%tableBlock == 0 {
			if err := table.Flush(); err != nil {
				return err
			}
		}
	}
	if rows == 0 {
		fmt.Fprintln(table, nothing)
	}
	return table.Flush()
}

// printArray prints one element a line. Nothing is printed where the first
// thing to come is an error.
func printArray[T any](out io.Writer, records iter.Seq2[T, error]) error {
	before := "[\n"
	for record, err := range records {
		if err != nil {
			return err
		}
		element, err := marshal(record)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(out, "%s%s", before, element); err != nil {
			return err
		}
		before = ",\n"
	}
	end := "\n]\n"
	if before == "[\n" {
		end = "[]\n"
	}
	_, err := io.WriteString(out, end)
	return err
}

// views turns records into what is printed of them.
func views[R, V any](records []R, view func(R) (V, error)) iter.Seq2[V, error] {
	return func(yield func(V, error) bool) {
		for _, record := range records {
			if !yield(view(record)) {
				return
			}
		}
	}
}

// optional is what is null in JSON where it is not set.
func optional[T comparable](value T) *T {
	if value == *new(T) {
		return nil
	}
	return &value
}

// listed names what there is to choose from.
func listed[T ~string](choices []T) string {
	names := make([]string, len(choices))
	for i, choice := range choices {
		names[i] = string(choice)
	}
	return strings.Join(names, ", ")
}

func newTable(out io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(out, 0, 0, 2, ' ', 0) }

func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(v)
	return bytes.TrimSpace(b.Bytes()), err
}

// cells takes a JSON object apart, in its order, so that people and programs
// are shown the same under the same names.
func cells(document []byte) (names, values []string, err error) {
	decoder := json.NewDecoder(bytes.NewReader(document))
	decoder.UseNumber()
	if _, err := decoder.Token(); err != nil { // the brace
		return nil, nil, err
	}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return nil, nil, err
		}
		var value any
		if err := decoder.Decode(&value); err != nil {
			return nil, nil, err
		}
		names, values = append(names, fmt.Sprint(name)), append(values, cell(value))
	}
	return names, values, nil
}

// nothingCell stands for what is not set.
const nothingCell = "-"

func cell(value any) string {
	switch v := value.(type) {
	case nil:
		return nothingCell
	case bool:
		if v {
			return "yes"
		}
		return "no"
	case []any:
		elements := make([]string, len(v))
		for i, element := range v {
			elements[i] = cell(element)
		}
		value = strings.Join(elements, " ")
	}
	if value == "" {
		return nothingCell
	}
	return strings.Map(visible, fmt.Sprint(value))
}

// visible replaces what would break the table or do something to the terminal.
func visible(r rune) rune {
	if !unicode.IsPrint(r) {
		return '?'
	}
	return r
}
