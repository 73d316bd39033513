//! A metrics page, built fresh for one scrape, so that no series can outlive what it describes.

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder as _, TextEncoder};

#[derive(Default)]
pub struct Exposition {
    families: Vec<MetricFamily>,
}

/// A metric under construction: one sample per call of [`Family::sample`].
pub struct Family<'a>(&'a mut MetricFamily);

impl Exposition {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn gauge(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, help, MetricType::GAUGE)
    }

    pub fn counter(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, help, MetricType::COUNTER)
    }

    /// Adds metrics that live in a registry.
    pub fn extend(&mut self, families: Vec<MetricFamily>) {
        self.families.extend(families);
    }

    /// The text format, version 0.0.4. Metrics without a sample are left out.
    pub fn render(self) -> String {
        let families: Vec<MetricFamily> =
            self.families.into_iter().filter(|family| !family.get_metric().is_empty()).collect();
        let mut page = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&families, &mut page) {
            tracing::error!(%error, "the metrics page could not be written whole");
        }
        String::from_utf8_lossy(&page).into_owned()
    }

    fn family(&mut self, name: &str, help: &str, kind: MetricType) -> Family<'_> {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        self.families.push(family);
        Family(self.families.last_mut().expect("just pushed"))
    }
}

impl Family<'_> {
    /// Labels may come in any order; the page has them sorted, as a registry's are.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: f64) -> &mut Self {
        let mut labels = labels.to_vec();
        labels.sort_unstable();
        let labels = labels.iter().map(|(name, text)| {
            let mut label = LabelPair::default();
            label.set_name((*name).to_owned());
            label.set_value((*text).to_owned());
            label
        });
        let mut metric = Metric::from_label(labels.collect());
        if self.0.get_field_type() == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.0.mut_metric().push(metric);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_holds_what_was_sampled_and_no_empty_metric() {
        let mut page = Exposition::new();
        page.gauge("a", "First.").sample(&[("z", ""), ("path", "p\"q")], f64::INFINITY);
        page.counter("b_total", "Second.").sample(&[], 3.0);
        page.gauge("empty", "Never sampled.");
        let text = page.render();
        assert_eq!(
            text,
            "# HELP a First.\n# TYPE a gauge\na{path=\"p\\\"q\",z=\"\"} inf\n\
             # HELP b_total Second.\n# TYPE b_total counter\nb_total 3\n"
        );
    }
}
