package main

import (
	"fmt"
	"strings"
)

// table is one in Markdown: the first column is text, the others are numbers.
type table struct {
	head []string
	rows [][]string
}

func newTable(head ...string) *table { return &table{head: head} }

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (r *rig) print(title string, t *table) {
	r.printf("## %s\n\n| %s |\n| --- |%s\n", title, strings.Join(t.head, " | "), strings.Repeat(" ---: |", len(t.head)-1))
	for _, row := range t.rows {
		r.printf("| %s |\n", strings.Join(row, " | "))
	}
	r.printf("\n")
}

func number(v float64) string { return fmt.Sprintf("%.0f", v) }

// millis and micros write seconds.
func millis(v float64) string { return fmt.Sprintf("%.2f ms", v*1e3) }
func micros(v float64) string { return fmt.Sprintf("%.1f µs", v*1e6) }

func mebibytes(v float64) string { return fmt.Sprintf("%.0f MiB", v/(1<<20)) }

func (s spread) ratio() string {
	if s.median == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f (%.2f..%.2f)", s.median, s.lowest, s.highest)
}

func (s spread) micros() string {
	return fmt.Sprintf("%.1f µs (%.1f..%.1f)", s.median*1e6, s.lowest*1e6, s.highest*1e6)
}

func (s spread) millis() string {
	return fmt.Sprintf("%.2f ms (%.2f..%.2f)", s.median*1e3, s.lowest*1e3, s.highest*1e3)
}
