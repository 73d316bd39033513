//! A metrics page, built fresh for one scrape, so that no series can outlive what it describes.
//!
//! It is written as text at once: a page of a hundred paths is most of a megabyte.

use std::fmt::Write as _;

use prometheus::TextEncoder;
use prometheus::proto::MetricFamily;

#[derive(Default)]
pub struct Exposition {
    page: String,
}

/// A metric under construction: one sample per call of [`Family::sample`].
pub struct Family<'a> {
    page: &'a mut String,
    name: &'a str,
    /// Its two lines of heading, until the first sample: a metric without a sample is left out.
    heading: Option<(&'a str, &'static str)>,
}

impl Exposition {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn gauge<'a>(&'a mut self, name: &'a str, help: &'a str) -> Family<'a> {
        Family { page: &mut self.page, name, heading: Some((help, "gauge")) }
    }

    pub fn counter<'a>(&'a mut self, name: &'a str, help: &'a str) -> Family<'a> {
        Family { page: &mut self.page, name, heading: Some((help, "counter")) }
    }

    /// Adds metrics that live in a registry.
    pub fn extend(&mut self, mut families: Vec<MetricFamily>) {
        families.retain(|family| !family.get_metric().is_empty());
        if let Err(error) = TextEncoder::new().encode_utf8(&families, &mut self.page) {
            tracing::error!(%error, "the metrics page could not be written whole");
        }
    }

    /// The text format, version 0.0.4.
    pub fn render(self) -> String {
        self.page
    }
}

impl Family<'_> {
    /// Labels may come in any order; the page has them sorted, as a registry's are.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: f64) -> &mut Self {
        let (page, name) = (&mut *self.page, self.name);
        if let Some((help, kind)) = self.heading.take() {
            let _ = write!(page, "# HELP {name} ");
            escape(page, help, &[]);
            let _ = writeln!(page, "\n# TYPE {name} {kind}");
        }
        page.push_str(name);
        let mut labels = labels.to_vec();
        labels.sort_unstable();
        for (nth, (label, text)) in labels.iter().enumerate() {
            let _ = write!(page, "{}{label}=\"", if nth == 0 { '{' } else { ',' });
            escape(page, text, &['"']);
            page.push('"');
        }
        page.push_str(if labels.is_empty() { " " } else { "} " });
        let _ = writeln!(page, "{value}");
        self
    }
}

/// With a backslash before what would end the text.
fn escape(page: &mut String, text: &str, also: &[char]) {
    for char in text.chars() {
        match char {
            '\n' => page.push_str("\\n"),
            '\\' => page.push_str("\\\\"),
            _ => {
                if also.contains(&char) {
                    page.push('\\');
                }
                page.push(char);
            }
        }
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
        page.counter("c_total", "A \\ and\na \"line\".").sample(&[("l", "\\\n")], 0.5);
        let text = page.render();
        assert_eq!(
            text,
            "# HELP a First.\n# TYPE a gauge\na{path=\"p\\\"q\",z=\"\"} inf\n\
             # HELP b_total Second.\n# TYPE b_total counter\nb_total 3\n\
             # HELP c_total A \\\\ and\\na \"line\".\n# TYPE c_total counter\nc_total{l=\"\\\\\\n\"} 0.5\n"
        );
    }
}
