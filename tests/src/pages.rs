//! A metrics page as a scraper reads it, and what the documentation says should be on it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::addresses::Ns;
use crate::world::World;

/// A metric's type and the names of its labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    pub kind: String,
    pub labels: BTreeSet<String>,
}

/// One page, read.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// By `name{labels}`, as the page writes it.
    pub series: BTreeMap<String, f64>,
    pub shapes: BTreeMap<String, Shape>,
    /// From the request to the end of the answer, a program's start included.
    pub took: Duration,
}

impl Page {
    pub fn of(text: &str, took: Duration) -> Self {
        let mut page = Self { took, ..Self::default() };
        for line in text.lines() {
            if let Some(said) = line.strip_prefix("# TYPE ") {
                let (name, kind) = said.split_once(' ').expect("a type");
                kind.clone_into(&mut page.shapes.entry(name.to_owned()).or_default().kind);
            }
            let Some((series, value)) = line.rsplit_once(' ').filter(|_| !line.starts_with('#'))
            else {
                continue;
            };
            page.series.insert(series.to_owned(), value.parse().expect("a number"));
            page.note_labels(series);
        }
        page
    }

    fn note_labels(&mut self, series: &str) {
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let family = ["", "_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|part| name.strip_suffix(part))
            .find(|family| self.shapes.contains_key(*family))
            .unwrap_or_else(|| panic!("{series} has no type"));
        // No label's value of ours holds a comma or an equals sign.
        let names = labels.trim_end_matches('}').split(',').filter_map(|one| one.split_once('='));
        let names = names.map(|(name, _)| name.to_owned()).filter(|name| name != "le");
        self.shapes.get_mut(family).expect("found").labels.extend(names);
    }

    pub fn value(&self, series: &str) -> Option<f64> {
        self.series.get(series).copied()
    }

    /// Whether a collector got what it asked for.
    pub fn success(&self, collector: &str) -> Option<f64> {
        self.value(&format!("vpn_egress_collector_success{{collector=\"{collector}\"}}"))
    }
}

/// The tables of `docs/metrics.md`: what each metric is said to be.
pub fn documented() -> BTreeMap<String, Shape> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let text = fs::read_to_string(&file).expect("docs/metrics.md");
    let rows = text.lines().filter(|line| line.starts_with("| `vpn_egress_"));
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let labels = cells[2].split(',').map(|label| label.trim().trim_matches('`').to_owned());
        let labels = labels.filter(|label| label != "none").collect();
        (cells[0].trim_matches('`').to_owned(), Shape { kind: cells[1].to_owned(), labels })
    };
    rows.map(row).collect()
}

impl World {
    /// One scrape of a Prometheus that waits so long.
    pub fn scrape(&self, base: &str, timeout: Duration) -> Result<Page, String> {
        let header = format!("X-Prometheus-Scrape-Timeout-Seconds: {}", timeout.as_secs_f64());
        let started = Instant::now();
        let response = self.http_get_with(&format!("{base}/metrics"), &header)?;
        if response.status != 200 {
            return Err(format!("{} {}", response.status, response.body));
        }
        Ok(Page::of(&response.body, started.elapsed()))
    }

    /// Any transaction, of whomever: the ruleset is another generation, and the same rules.
    pub fn bump_generation(&self) {
        self.nft(Ns::Egress, "table ip lab_bump { }\ndelete table ip lab_bump\n");
    }
}
