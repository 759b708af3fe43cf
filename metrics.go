package gateway

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/connexease/caddy-whatsapp-gateway/delivery"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// metrics are the process's, so that their values survive a reload. No label
// grows with the tenants.
var metrics = struct {
	webhooks, events, deliveries, templateFees *prometheus.CounterVec
	defaultFees, settled                       prometheus.Counter
	staleGrants, admissionsByShare             prometheus.Counter
	coreFailures, reported, reportFailures     prometheus.Counter
	attemptSeconds                             prometheus.Histogram
}{
	webhooks:     counterVec("webhooks_total", "Requests of Meta's by the code that they were answered with; none where that was 200.", "code"),
	events:       counterVec("events_total", "Events stored, by name and state; those quarantined have no name.", "event", "state"),
	deliveries:   counterVec("deliveries_total", "Events that an attempt was made to deliver, by its result; those given up without one are among them.", "result"),
	templateFees: counterVec("template_fees_total", "Statuses with a template fee, by what became of it.", "result"),
	defaultFees:  prometheus.NewCounter(counterOpts("template_fees_default_total", "Template fees charged at the default row of the rate card.")),
	attemptSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: moduleName, Name: "delivery_attempt_seconds", Help: "How long attempts to deliver an event took.",
		Buckets: []float64{.01, .03, .1, .3, 1, 3, 5, 10},
	}),
	settled: prometheus.NewCounter(counterOpts("settled_by_status_total", "Holds without an outcome that a status has captured: sends in doubt, and some that were about to be answered.")),

	staleGrants:       prometheus.NewCounter(counterOpts("stale_grants_total", "Look-ups of keys that failed and were answered with a grant whose time was over.")),
	admissionsByShare: prometheus.NewCounter(counterOpts("admissions_by_share_total", "Admissions judged by this gateway's share of the limits, because the store was away.")),
	coreFailures:      prometheus.NewCounter(counterOpts("core_failures_total", "Requests to the Core Service that got no answer.")),
	reported:          prometheus.NewCounter(counterOpts("ledger_reported_total", "Ledger entries that this gateway has reported to the Core Service.")),
	reportFailures:    prometheus.NewCounter(counterOpts("ledger_report_failures_total", "Attempts to report ledger entries that failed.")),
}

// latestWorker is the worker of the newest configuration, and nil before the first.
var latestWorker atomic.Pointer[delivery.Worker]

// outboxLag is a gauge of how far deliveries are behind.
var outboxLag = prometheus.NewGaugeFunc(prometheus.GaugeOpts(counterOpts(
	"outbox_lag_seconds", "For how long the longest due event has been waiting, but for those of endpoints that keep failing.",
)), func() float64 {
	if worker := latestWorker.Load(); worker != nil {
		return worker.Lag().Seconds()
	}
	return 0
})

// ledgerLag is a gauge of how far the reporting of the ledger is behind, at the gateway that does it.
var ledgerLag = prometheus.NewGaugeFunc(prometheus.GaugeOpts(counterOpts(
	"ledger_report_lag_seconds", "How old the oldest ledger entry is that the Core Service has not got yet; 0 at gateways that do not report.",
)), func() float64 {
	if oldest := oldestUnreported.Load(); oldest != 0 {
		return time.Since(time.Unix(0, oldest)).Seconds()
	}
	return 0
})

// journalRecords is a gauge of what waits for the store.
var journalRecords = prometheus.NewGaugeFunc(prometheus.GaugeOpts(counterOpts(
	"journal_records", "Charges and webhooks in the journal that wait for the store.",
)), func() float64 {
	if j := latestJournal.Load(); j != nil {
		return float64(j.Waiting())
	}
	return 0
})

// feeResults are the values of the label result of template fees.
var feeResults = map[store.FeeResult]string{
	store.FeeCharged:        "charged",
	store.FeeRepeated:       "repeated",
	store.FeeNotPriced:      "not_priced",
	store.FeeUnknownMessage: "unknown_message",
}

func init() {
	// A counter that has not counted yet is shown as 0, and not left out.
	for _, result := range feeResults {
		metrics.templateFees.WithLabelValues(result)
	}
	for _, result := range attemptResults {
		metrics.deliveries.WithLabelValues(result)
	}
	for _, name := range tenant.Events {
		metrics.events.WithLabelValues(string(name), string(store.Pending))
	}
	metrics.events.WithLabelValues("", string(store.Quarantined))
}

func counterOpts(name, help string) prometheus.CounterOpts {
	return prometheus.CounterOpts{Namespace: moduleName, Name: name, Help: help}
}

func counterVec(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(counterOpts(name, help), labels)
}

// registerMetrics shows the metrics where a configuration's metrics are shown.
func registerMetrics(registry prometheus.Registerer) error {
	for _, collector := range []prometheus.Collector{
		metrics.webhooks, metrics.events, metrics.deliveries, metrics.templateFees, metrics.defaultFees, metrics.settled, metrics.attemptSeconds, outboxLag,
		metrics.staleGrants, metrics.admissionsByShare, metrics.coreFailures, metrics.reported, metrics.reportFailures, ledgerLag, journalRecords,
	} {
		if err := registry.Register(collector); err != nil && !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
			return err
		}
	}
	return nil
}
