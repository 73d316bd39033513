//! The distributions of outages. Kept over the life of the process, unlike the rest of the page.

use egress::config::PathConfig;
use egress::names::{EndpointName, PathName};
use prometheus::core::Collector as _;
use prometheus::proto::MetricFamily;
use prometheus::{HistogramOpts, HistogramVec};

use crate::outage::Event;

/// An edge each side of 300 s, for which a `UniFi` gateway blocks, wide enough for the two health
/// cycles within which onset and end are seen.
const DURATION: [f64; 12] =
    [15.0, 30.0, 60.0, 120.0, 240.0, 290.0, 310.0, 360.0, 600.0, 1200.0, 3600.0, 21600.0];
/// A signature of four bytes is met once in 4.3 GB, the known one once in 3.0 TB.
const BYTES: [f64; 8] = [1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13];
/// From an idle tunnel to a gigabit; an edge at the megabit that the rules call load.
const THROUGHPUT: [f64; 8] = [1e3, 1e4, 125e3, 1e6, 3e6, 1e7, 3e7, 1e8];

#[derive(Debug)]
pub struct Histograms {
    lasted: HistogramVec,
    sent: HistogramVec,
    throughput: HistogramVec,
}

impl Histograms {
    pub fn new() -> Self {
        Self {
            lasted: histogram(
                "vpn_egress_outage_duration_seconds",
                "How long outages of the endpoint lasted, measured on after a failover.",
                &DURATION,
            ),
            sent: histogram(
                "vpn_egress_outage_sent_bytes",
                "Bytes sent to the endpoint before an outage, since the switch to it or the outage before.",
                &BYTES,
            ),
            throughput: histogram(
                "vpn_egress_outage_throughput_bytes_per_second",
                "Mean rate of sending over the five minutes before an outage.",
                &THROUGHPUT,
            ),
        }
    }

    /// Every expected series is there from the first scrape on.
    pub fn prepare(&self, path: &PathConfig) {
        for endpoint in &path.endpoints {
            for histogram in self.all() {
                histogram.with_label_values(&[path.name.as_str(), endpoint.name.as_str()]);
            }
        }
    }

    pub fn forget(&self, path: &PathConfig, endpoint: &EndpointName) {
        for histogram in self.all() {
            // One that was never prepared is gone as well.
            let _ = histogram.remove_label_values(&[path.name.as_str(), endpoint.as_str()]);
        }
    }

    pub fn note(&self, path: &PathName, event: &Event) {
        let path = path.as_str();
        match event {
            #[allow(clippy::cast_precision_loss)] // exact up to 2^53
            Event::Began { endpoint, sent_bytes, throughput } => {
                let labels = &[path, endpoint.as_str()];
                self.sent.with_label_values(labels).observe(*sent_bytes as f64);
                self.throughput.with_label_values(labels).observe(*throughput);
            }
            Event::Ended { endpoint, lasted } => {
                let labels = &[path, endpoint.as_str()];
                self.lasted.with_label_values(labels).observe(lasted.as_secs_f64());
            }
        }
    }

    pub fn families(&self) -> Vec<MetricFamily> {
        self.all().iter().flat_map(|histogram| histogram.collect()).collect()
    }

    fn all(&self) -> [&HistogramVec; 3] {
        [&self.lasted, &self.sent, &self.throughput]
    }
}

fn histogram(name: &str, help: &str, buckets: &[f64]) -> HistogramVec {
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    HistogramVec::new(options, &["path", "endpoint"]).expect("names and buckets are constants")
}
