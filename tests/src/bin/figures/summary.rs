//! Median and maximum of a few numbers.

use std::fmt;

pub struct Summary {
    unit: &'static str,
    values: Vec<f64>,
}

impl Summary {
    pub fn new(unit: &'static str) -> Self {
        Self { unit, values: Vec::new() }
    }

    pub fn add(&mut self, value: f64) {
        self.values.push(value);
        self.values.sort_by(f64::total_cmp);
    }

    pub fn median(&self) -> f64 {
        let middle = self.values.len() / 2;
        match self.values.len() {
            0 => f64::NAN,
            even if even % 2 == 0 => f64::midpoint(self.values[middle - 1], self.values[middle]),
            _ => self.values[middle],
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = self.unit;
        let (min, max) = (self.values.first(), self.values.last());
        let (min, max) = (min.copied().unwrap_or(f64::NAN), max.copied().unwrap_or(f64::NAN));
        write!(
            f,
            "median {:.2} {unit}, min {min:.2} {unit}, max {max:.2} {unit}, n = {}",
            self.median(),
            self.values.len()
        )
    }
}
