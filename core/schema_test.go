package core_test

import (
	"fmt"
	"regexp"
	"slices"
	"time"
)

// check says where v is not what a schema of the contract describes. It knows the words that
// the contract uses, and takes a property that is not described for wrong.
func (c contract) check(schema object, v any) error {
	schema = c.resolve(schema)
	if choices, ok := schema["oneOf"].([]any); ok {
		return c.checkOne(choices, v)
	}
	if words, ok := schema["enum"].([]any); ok && !slices.Contains(words, v) {
		return fmt.Errorf("%v is none of %v", v, words)
	}
	if kind, ok := schema["type"]; ok && !slices.Contains(kinds(kind), kindOf(v)) {
		return fmt.Errorf("%v is a %s and no %v", v, kindOf(v), kind)
	}
	switch v := v.(type) {
	case float64:
		if least, ok := schema["minimum"].(float64); ok && v < least {
			return fmt.Errorf("%v is under %v", v, least)
		}
	case string:
		return checkText(schema, v)
	case []any:
		return c.checkItems(schema, v)
	case object:
		return c.checkProperties(schema, v)
	}
	return nil
}

func (c contract) checkOne(choices []any, v any) (err error) {
	for _, choice := range choices {
		if err = c.check(choice.(object), v); err == nil {
			return nil
		}
	}
	return err
}

func (c contract) checkItems(schema object, items []any) error {
	if least, ok := schema["minItems"].(float64); ok && len(items) < int(least) {
		return fmt.Errorf("%d items", len(items))
	}
	for _, item := range items {
		if err := c.check(schema["items"].(object), item); err != nil {
			return err
		}
	}
	return nil
}

func (c contract) checkProperties(schema, v object) error {
	required, _ := schema["required"].([]any)
	for _, name := range required {
		if _, ok := v[name.(string)]; !ok {
			return fmt.Errorf("%s is missing", name)
		}
	}
	properties, _ := schema["properties"].(object)
	for name, value := range v {
		property, ok := properties[name].(object)
		if !ok {
			property, ok = schema["additionalProperties"].(object)
		}
		if !ok && len(schema) > 0 {
			return fmt.Errorf("%s is not described", name)
		}
		if err := c.check(property, value); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func checkText(schema object, v string) error {
	if _, ok := schema["minLength"]; ok && v == "" {
		return fmt.Errorf("it is empty")
	}
	if pattern, ok := schema["pattern"].(string); ok && !regexp.MustCompile(pattern).MatchString(v) {
		return fmt.Errorf("%q is not %s", v, pattern)
	}
	if schema["format"] == "date-time" {
		_, err := time.Parse(time.RFC3339, v)
		return err
	}
	return nil
}

func kinds(v any) []string {
	if one, ok := v.(string); ok {
		return []string{one}
	}
	var several []string
	for _, kind := range v.([]any) {
		several = append(several, kind.(string))
	}
	return several
}

func kindOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case string:
		return "string"
	case float64:
		if v == float64(int64(v)) {
			return "integer"
		}
		return "number"
	case []any:
		return "array"
	case object:
		return "object"
	}
	return fmt.Sprintf("%T", v)
}
