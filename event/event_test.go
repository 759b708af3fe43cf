package event

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// contents compares changes but for where they stand in their body.
var contents = cmp.Options{cmpopts.IgnoreUnexported(Change{}), cmpopts.EquateEmpty()}

// metadata is that of the number 111.
const metadata = `"messaging_product":"whatsapp","metadata":{"display_phone_number":"15550001111","phone_number_id":"111"}`

// bodyOf is a body of account 1000001 with these changes.
func bodyOf(changes ...string) string {
	return `{"object":"whatsapp_business_account","entry":[{"id":"1000001","time":1755000000,"changes":[` +
		strings.Join(changes, ",") + `]}]}`
}

// changeOf is a change with its value first, as Meta writes it.
func changeOf(field, members string) string {
	return fmt.Sprintf(`{"value":{%s},"field":%q}`, members, field)
}

// numberChange is a change about the number 111.
func numberChange(field, members string) string { return changeOf(field, metadata+","+members) }

// statusOf is a status of the message wamid.1.
func statusOf(state, more string) string {
	return fmt.Sprintf(`{"id":"wamid.1","status":%q,"timestamp":"1755000000","recipient_id":"12025550100"%s}`, state, more)
}

const (
	textMessage = `"contacts":[{"profile":{"name":"Ann"},"wa_id":"12025550100"}],` +
		`"messages":[{"from":"12025550100","id":"wamid.in","timestamp":"1755000000","type":"text","text":{"body":"Hello"}}]`
	onePricing = `,"conversation":{"id":"c1","expiration_timestamp":"1755086400","origin":{"type":"marketing"}},` +
		`"pricing":{"billable":true,"pricing_model":"PMP","type":"regular","category":"marketing"}`
	oneError = `"errors":[{"code":131047,"title":"Re-engagement message","message":"Re-engagement message",` +
		`"error_data":{"details":"More than 24 hours have passed"},"href":"https://developers.facebook.com/docs"}]`
)

func events(all ...tenant.Event) []tenant.Event { return all }

func TestEveryKindOfChangeIsRecognised(t *testing.T) {
	status := func(state string) Status {
		return Status{MessageID: "wamid.1", State: state, Recipient: "12025550100"}
	}
	priced := status("delivered")
	priced.Billable, priced.Category = true, "marketing"
	own := status("sent")
	own.CallbackData = "order 7 \"é\""

	for name, tc := range map[string]struct {
		change string
		want   Change // Field and the ids are filled in
	}{
		"a message": {numberChange("messages", textMessage), Change{Events: events(tenant.EventMessages)}},
		"a message of a user without a number": {
			numberChange("messages", `"contacts":[{"user_id":"US.1"}],"messages":[{"from_user_id":"US.1","id":"wamid.in","type":"text","text":{"body":"x"}}]`),
			Change{Events: events(tenant.EventMessages)},
		},
		"a reaction":     {numberChange("messages", `"messages":[{"id":"wamid.in","type":"reaction","reaction":{"message_id":"wamid.1","emoji":"\ud83d\ude00"}}]`), Change{Events: events(tenant.EventMessages)}},
		"an interactive": {numberChange("messages", `"messages":[{"id":"wamid.in","type":"interactive","interactive":{"type":"nfm_reply","nfm_reply":{"response_json":"{\"a\":[1]}"}}}]`), Change{Events: events(tenant.EventMessages)}},
		"an unsupported": {numberChange("messages", `"messages":[{"id":"wamid.in","type":"unsupported","errors":[{"code":131051}]}]`), Change{Events: events(tenant.EventMessages)}},
		"sent":           {numberChange("messages", `"statuses":[`+statusOf("sent", ``)+`]`), Change{Events: events(tenant.EventMessageStatus), Statuses: []Status{status("sent")}}},
		"delivered":      {numberChange("messages", `"statuses":[`+statusOf("delivered", onePricing)+`]`), Change{Events: events(tenant.EventMessageStatus), Statuses: []Status{priced}}},
		"failed":         {numberChange("messages", `"statuses":[`+statusOf("failed", ","+oneError)+`]`), Change{Events: events(tenant.EventMessageStatus), Statuses: []Status{status("failed")}}},
		"played":         {numberChange("messages", `"statuses":[`+statusOf("played", ``)+`]`), Change{Events: events(tenant.EventMessageStatus), Statuses: []Status{status("played")}}},
		"a new state":    {numberChange("messages", `"statuses":[`+statusOf("seen by a bot", ``)+`]`), Change{Events: events(tenant.EventMessageStatus), Statuses: []Status{status("seen by a bot")}}},
		"no state":       {numberChange("messages", `"statuses":[{"id":"wamid.1"}]`), Change{Events: events(tenant.EventMessageStatus), Statuses: []Status{{MessageID: "wamid.1"}}}},
		"read":           {numberChange("messages", `"statuses":[`+statusOf("read", ``)+`]`), Change{Events: events(tenant.EventRead), Statuses: []Status{status("read")}}},
		"callback data": {
			numberChange("messages", `"statuses":[`+statusOf("sent", `,"biz_opaque_callback_data":"order 7 \"\u00e9\""`)+`]`),
			Change{Events: events(tenant.EventMessageStatus), Statuses: []Status{own}},
		},
		"statuses of both kinds": {
			numberChange("messages", `"statuses":[`+statusOf("read", ``)+`,`+statusOf("sent", ``)+`]`),
			Change{Events: events(tenant.EventMessageStatus, tenant.EventRead), Statuses: []Status{status("read"), status("sent")}},
		},
		"messages and statuses": {
			numberChange("messages", `"statuses":[`+statusOf("sent", ``)+`],`+textMessage),
			Change{Events: events(tenant.EventMessages, tenant.EventMessageStatus), Statuses: []Status{status("sent")}},
		},
		"messages and read": {
			numberChange("messages", textMessage+`,"statuses":[`+statusOf("read", ``)+`]`),
			Change{Events: events(tenant.EventMessages, tenant.EventRead), Statuses: []Status{status("read")}},
		},
		"everything": {
			numberChange("messages", textMessage+`,"statuses":[`+statusOf("failed", ``)+`,`+statusOf("read", ``)+`],`+oneError),
			Change{Events: events(tenant.EventMessages, tenant.EventMessageStatus, tenant.EventRead), Statuses: []Status{status("failed"), status("read")}},
		},
		"only errors":  {numberChange("messages", oneError), Change{Events: events(tenant.EventAccount)}},
		"empty arrays": {numberChange("messages", `"messages":[ ],"statuses":[]`), Change{Events: events(tenant.EventAccount)}},
	} {
		tc.want.Field, tc.want.WABA, tc.want.PhoneNumberID = "messages", "1000001", "111"
		got, err := Split([]byte(bodyOf(tc.change)))
		if diff := cmp.Diff([]Change{tc.want}, got, contents); diff != "" || err != nil {
			t.Errorf("%s: %v %s", name, err, diff)
		}
	}
}

func TestFieldDecidesTheEvent(t *testing.T) {
	const template = `"event":"APPROVED","message_template_id":594425479261596,"message_template_name":"spring","message_template_language":"en_US"`
	for field, tc := range map[string]struct {
		members string
		want    tenant.Event
	}{
		"message_template_status_update":     {template + `,"reason":"NONE"`, tenant.EventTemplateStatus},
		"message_template_quality_update":    {template + `,"previous_quality_score":"GREEN","new_quality_score":"YELLOW"`, tenant.EventTemplateStatus},
		"message_template_components_update": {template + `,"message_template_element":"Hello {{1}}"`, tenant.EventTemplateStatus},
		"template_category_update":           {template + `,"previous_category":"UTILITY","new_category":"MARKETING"`, tenant.EventTemplateStatus},
		"account_update":                     {`"phone_number":"16505551111","event":"VERIFIED_ACCOUNT"`, tenant.EventAccount},
		"account_review_update":              {`"decision":"APPROVED"`, tenant.EventAccount},
		"account_alerts":                     {`"entity_type":"WABA","entity_id":1000001,"alert_severity":"INFORMATIONAL"`, tenant.EventAccount},
		"business_capability_update":         {`"max_daily_conversation_per_phone":100,"max_phone_numbers_per_business":2`, tenant.EventAccount},
		"phone_number_name_update":           {`"display_phone_number":"15550001111","decision":"APPROVED","requested_verified_name":"Acme"`, tenant.EventAccount},
		"phone_number_quality_update":        {`"display_phone_number":"15550001111","event":"FLAGGED","current_limit":"TIER_1K"`, tenant.EventAccount},
		"security":                           {`"display_phone_number":"15550001111","event":"PIN_CHANGED","requester":"1"`, tenant.EventAccount},
		"user_preferences":                   {metadata + `,"user_preferences":[{"wa_id":"12025550100","category":"marketing_messages","value":"stop"}]`, tenant.EventAccount},
		"smb_message_echoes":                 {metadata + `,"message_echoes":[{"from":"15550001111","to":"12025550100","id":"wamid.e","type":"text","text":{"body":"x"}}]`, tenant.EventAccount},
		"history":                            {metadata + `,"history":[{"metadata":{"phase":0},"threads":[{"id":"12025550100","messages":[]}]}]`, tenant.EventAccount},
		"flows":                              {metadata + `,"event":"FLOW_STATUS_CHANGE","flow_id":"1"`, tenant.EventAccount},
		"group_lifecycle_update":             {metadata + `,"groups":[{"type":"group_create"}]`, tenant.EventAccount},
		"never_heard_of":                     {metadata + `,"messages":[{"id":"wamid.in"}]`, tenant.EventAccount},
		"Messages":                           {textMessage, tenant.EventAccount},
		"":                                   {``, tenant.EventAccount},
	} {
		want := Change{Field: field, WABA: "1000001", Events: events(tc.want)}
		if strings.Contains(tc.members, "phone_number_id") {
			want.PhoneNumberID = "111"
		}
		got, err := Split([]byte(bodyOf(changeOf(field, tc.members))))
		if diff := cmp.Diff([]Change{want}, got, contents); diff != "" || err != nil {
			t.Errorf("%s: %v %s", field, err, diff)
		}
	}
}

func TestStatusesOfOtherFieldsAreReadToo(t *testing.T) {
	got, err := Split([]byte(bodyOf(numberChange("group_messages", `"statuses":[`+statusOf("sent", ``)+`]`))))
	if err != nil || len(got) != 1 || len(got[0].Statuses) != 1 {
		t.Errorf("%d changes, error %v", len(got), err)
	}
}

func TestOddStatusesDoNoHarm(t *testing.T) {
	longest := strings.Repeat("m", maxMessageID)
	for name, tc := range map[string]struct {
		statuses string
		want     []Status
		event    tenant.Event
	}{
		"not an array":                 {`{"id":"wamid.1","status":"sent"}`, nil, tenant.EventAccount},
		"not objects":                  {`[null,1,"sent",[{"id":"wamid.1"}]]`, nil, tenant.EventAccount},
		"no message id":                {`[{"status":"read"}]`, nil, tenant.EventRead},
		"an empty message id":          {`[{"id":"","status":"sent"}]`, nil, tenant.EventMessageStatus},
		"a number as message id":       {`[{"id":7,"status":"sent"}]`, nil, tenant.EventMessageStatus},
		"a message id just fits":       {`[{"id":"` + longest + `","status":"read"}]`, []Status{{MessageID: longest, State: "read"}}, tenant.EventRead},
		"a message id too long":        {`[{"id":"` + longest + `m","status":"read"},{"id":"a","status":"read"}]`, []Status{{MessageID: "a", State: "read"}}, tenant.EventRead},
		"unexpected types":             {`[{"id":"a","status":1,"recipient_id":[],"biz_opaque_callback_data":{},"pricing":[{"billable":true}]}]`, []Status{{MessageID: "a"}}, tenant.EventMessageStatus},
		"unexpected types in pricing":  {`[{"id":"a","pricing":{"billable":"true","category":null}}]`, []Status{{MessageID: "a"}}, tenant.EventMessageStatus},
		"the last of duplicates":       {`[{"id":"a","status":"sent","id":"b","status":"read"}]`, []Status{{MessageID: "b", State: "read"}}, tenant.EventRead},
		"the last, though no text":     {`[{"id":"a","status":"read","status":1},{"id":"b","id":2}]`, []Status{{MessageID: "a"}}, tenant.EventMessageStatus},
		"the last callback data":       {`[{"id":"a","biz_opaque_callback_data":"x","biz_opaque_callback_data":"y"}]`, []Status{{MessageID: "a", CallbackData: "y"}}, tenant.EventMessageStatus},
		"the last, if it is no text":   {`[{"id":"a","biz_opaque_callback_data":"x","biz_opaque_callback_data":1}]`, []Status{{MessageID: "a"}}, tenant.EventMessageStatus},
		"the last pricing":             {`[{"id":"a","pricing":{"billable":true,"category":"utility"},"pricing":{"category":"service"}}]`, []Status{{MessageID: "a", Category: "service"}}, tenant.EventMessageStatus},
		"both statuses of duplicates":  {`[{"id":"a"}],"statuses":[{"id":"b"}]`, []Status{{MessageID: "a"}, {MessageID: "b"}}, tenant.EventMessageStatus},
		"escapes in names and values":  {`[{"\u0069d":"\u0061","st\u0061tus":"re\u0061d"}]`, []Status{{MessageID: "a", State: "read"}}, tenant.EventRead},
		"invalid UTF-8":                {"[{\"id\":\"a\xff\",\"\xff\":\"\xff\"}]", []Status{{MessageID: "a\ufffd"}}, tenant.EventMessageStatus},
		"half a surrogate":             {`[{"id":"a\ud83d"}]`, []Status{{MessageID: "a\ufffd"}}, tenant.EventMessageStatus},
		"the names in another context": {`[{"id":"a","conversation":{"id":"c","status":"read","pricing":{"billable":true}}}]`, []Status{{MessageID: "a"}}, tenant.EventMessageStatus},
	} {
		got, err := Split([]byte(bodyOf(numberChange("messages", `"statuses":`+tc.statuses))))
		want := []Change{{WABA: "1000001", PhoneNumberID: "111", Field: "messages", Events: events(tc.event), Statuses: tc.want}}
		if diff := cmp.Diff(want, got, contents); diff != "" || err != nil {
			t.Errorf("%s: %v %s", name, err, diff)
		}
	}
}

func TestChangesThatAreNobodys(t *testing.T) {
	long := strings.Repeat("1", maxID+1)
	for name, tc := range map[string]struct{ entry, want string }{
		"a number":               {`"id":"1","changes":[7]`, problemNotObject},
		"null":                   {`"id":"1","changes":[null]`, problemNotObject},
		"an array":               {`"id":"1","changes":[[{"field":"messages"}]]`, problemNotObject},
		"an empty object":        {`"id":"1","changes":[{}]`, problemNoField},
		"a number as field":      {`"id":"1","changes":[{"field":1}]`, problemNoField},
		"another letter case":    {`"id":"1","changes":[{"Field":"messages"}]`, problemNoField},
		"a field too long":       {`"id":"1","changes":[{"field":"` + long + `"}]`, problemFieldLong},
		"a number id too long":   {`"id":"1","changes":[{"field":"a","value":{"metadata":{"phone_number_id":"` + long + `"}}}]`, problemPhoneLong},
		"the same as a number":   {`"id":"1","changes":[{"field":"a","value":{"metadata":{"phone_number_id":` + long + `}}}]`, problemPhoneLong},
		"an account id too long": {`"id":"` + long + `","changes":[{"field":"a","value":{"metadata":{"phone_number_id":"1"}}}]`, problemWABALong},
		"no id at all":           {`"changes":[{"field":"a","value":{}}]`, problemNoAddress},
		"ids of strange types":   {`"id":[1],"changes":[{"field":"a","value":{"metadata":{"phone_number_id":{}}}}]`, problemNoAddress},
		"empty ids":              {`"id":"","changes":[{"field":"a","value":{"metadata":{"phone_number_id":""}}}]`, problemNoAddress},
		"metadata not an object": {`"id":null,"changes":[{"field":"a","value":{"metadata":["phone_number_id"]}}]`, problemNoAddress},
		"a value not an object":  {`"changes":[{"field":"a","value":"phone_number_id"}]`, problemNoAddress},
		"two reasons":            {`"changes":[7]`, problemNotObject},
		"field twice":            {`"id":"1","changes":[{"field":"a","field":"a"}]`, problemTwiceField},
		"value twice":            {`"id":"1","changes":[{"field":"a","value":1,"value":{}}]`, problemTwiceValue},
		"metadata twice":         {`"id":"1","changes":[{"field":"a","value":{"metadata":{},"metadata":{}}}]`, problemTwiceMeta},
		"two numbers":            {`"id":"1","changes":[{"field":"a","value":{"metadata":{"phone_number_id":"1","phone_number\u005fid":"2"}}}]`, problemTwicePhone},
	} {
		got, err := Split([]byte(`{"object":"x","entry":[{` + tc.entry + `}]}`))
		if err != nil || len(got) != 1 || got[0].Problem != tc.want || len(got[0].Events) == 0 {
			t.Errorf("%s: error %v, changes %+v, want %q", name, err, got, tc.want)
		}
	}
}

func TestIDsMayBeNumbers(t *testing.T) {
	got, err := Split([]byte(`{"object":"x","entry":[{"changes":[{"field":"messages","value":{"metadata":{"phone_number_id":111}}}],"id":1000001}]}`))
	want := []Change{{WABA: "1000001", PhoneNumberID: "111", Field: "messages", Events: events(tenant.EventAccount)}}
	if diff := cmp.Diff(want, got, contents); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
}

func TestIDsMayBeAsLongAsAllowed(t *testing.T) {
	long := strings.Repeat("1", maxID)
	got, err := Split([]byte(`{"object":"x","entry":[{"id":"` + long + `","changes":[{"field":"` + long + `","value":{"metadata":{"phone_number_id":"` + long + `"}}}]}]}`))
	want := []Change{{WABA: long, PhoneNumberID: long, Field: long, Events: events(tenant.EventAccount)}}
	if diff := cmp.Diff(want, got, contents); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
}

func TestEventsAreInTheOrderOfTheTenants(t *testing.T) {
	for has, list := range byContent {
		at := 0
		for _, event := range tenant.Events {
			if at < len(list) && list[at] == event {
				at++
			}
		}
		if at != len(list) || at == 0 {
			t.Errorf("content %b: %v", has, list)
		}
	}
}
