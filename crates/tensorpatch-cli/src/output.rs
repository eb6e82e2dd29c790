//! Everything that is printed: reports for people and for programs, numbers with units, tables.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use tensorpatch::store::RequestCounts;

use crate::terminal::{shown_json, shown_styled};

/// Where reports go and what they look like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
}

/// What a command has to say in the end: the fields of the JSON document, and the same for people.
pub(crate) trait Report: Serialize {
    /// The report for people, each line without its end.
    fn lines(&self) -> Vec<String>;
}

/// Standard output is closed, as by `head`. Not an error to speak of.
#[derive(Debug, thiserror::Error)]
#[error("standard output was closed")]
pub(crate) struct OutputClosed;

impl Output {
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet }
    }

    /// Whether programs read the output.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Prints a report to standard output.
    pub(crate) fn report(self, report: &impl Report) -> Result<()> {
        self.write(report, &mut anstream::stdout().lock())
    }

    /// Prints a report to standard error, for commands whose data goes to standard output.
    pub(crate) fn report_aside(self, report: &impl Report) -> Result<()> {
        self.write(report, &mut anstream::stderr().lock())
    }

    fn write(self, report: &impl Report, out: &mut dyn Write) -> Result<()> {
        let mut text = String::new();
        if self.json {
            text = shown_json(&serde_json::to_string_pretty(report)?);
            text.push('\n');
        } else if !self.quiet {
            report.lines().iter().for_each(|line| {
                text.push_str(&shown_styled(line.trim_end()));
                text.push('\n');
            });
        }
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(closed)
    }

    /// Prints a line on the way, for people.
    pub(crate) fn note(self, line: &str) -> Result<()> {
        if self.json || self.quiet {
            return Ok(());
        }
        print_line(&shown_styled(line.trim_end()))
    }

    /// Prints a JSON document on the way, on one line.
    pub(crate) fn json_line(self, document: &impl Serialize) -> Result<()> {
        print_line(&shown_json(&serde_json::to_string(document)?))
    }
}

fn print_line(line: &str) -> Result<()> {
    let mut out = anstream::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(closed)
}

/// Tells a closed standard output from other failures.
pub(crate) fn closed(error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return OutputClosed.into();
    }
    anyhow::Error::new(error).context("cannot write to standard output")
}

/// Lines of a label and a value, the values below each other.
pub(crate) fn fields(pairs: &[(&str, String)]) -> Vec<String> {
    let width = pairs.iter().map(|(label, _)| label.len()).max().unwrap_or_default();
    pairs.iter().map(|(label, value)| format!("{label:width$}  {value}")).collect()
}

/// A table: the first row is the heading. Columns that `left` names are aligned to the left, the others to
/// the right.
pub(crate) fn table(rows: &[Vec<String>], left: &[usize]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if left.contains(&column) { format!("{cell:width$}") } else { format!("{cell:>width$}") }
        });
        cells.collect::<Vec<_>>().join("  ")
    };
    rows.iter().map(line).collect()
}

/// `22,713,216`
pub(crate) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 chunk`, `2 chunks`
pub(crate) fn counted(value: u64, what: &str) -> String {
    format!("{} {what}{}", count(value), if value == 1 { "" } else { "s" })
}

/// `9 requests`, and how many attempts at them failed if any did.
pub(crate) fn made(counts: &RequestCounts) -> String {
    let requests = counted(counts.requests, "request");
    match counts.failed_attempts {
        0 => requests,
        failed => format!("{requests}, {} failed", counted(failed, "attempt")),
    }
}

/// `45,437,832 bytes`
pub(crate) fn bytes(value: u64) -> String {
    counted(value, "byte")
}

/// `0.70 %`: three significant digits, so that small shares stay readable.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "0 %".into();
    }
    format!("{} %", significant(part as f64 * 100.0 / whole as f64))
}

/// A quotient with three significant digits, or a dash if there is nothing to divide by.
pub(crate) fn ratio(part: u64, whole: u64) -> String {
    if whole == 0 { "-".into() } else { significant(part as f64 / whole as f64) }
}

/// `1.23 s`, `45 ms`
pub(crate) fn seconds(time: Duration) -> String {
    let value = time.as_secs_f64();
    if value < 0.0995 {
        format!("{} ms", significant(value * 1e3))
    } else {
        format!("{} s", significant(value))
    }
}

/// `1.23 GB/s`: bytes of model for each second, in powers of ten.
pub(crate) fn rate(bytes: u64, time: Duration) -> String {
    let value = bytes as f64 / time.as_secs_f64().max(1e-9);
    if value < 1e9 {
        format!("{} MB/s", significant(value / 1e6))
    } else {
        format!("{} GB/s", significant(value / 1e9))
    }
}

/// A size in the unit that suits it: `43.3 MiB`.
pub(crate) fn size(value: u64) -> String {
    const UNITS: [&str; 6] = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    let mut scaled = value as f64;
    while scaled >= 1023.5 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{value} bytes") } else { format!("{} {}", significant(scaled), UNITS[unit]) }
}

/// Three significant digits, without an exponent.
fn significant(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return "0".into();
    }
    let magnitude = value.abs().log10().floor();
    let decimals = (2.0 - magnitude).clamp(0.0, 9.0);
    // Clamped to 0..=9, so nothing is lost.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 9")]
    let decimals = decimals as usize;
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (value, shown) in [(0, "0"), (999, "999"), (1_000, "1,000"), (22_713_216, "22,713,216")] {
            assert_eq!(count(value), shown);
        }
        assert_eq!(bytes(1), "1 byte");
        assert_eq!(bytes(1024), "1,024 bytes");
    }

    #[test]
    fn shares_and_sizes_have_three_significant_digits() {
        assert_eq!(percent(158_717, 22_713_216), "0.699 %");
        assert_eq!(percent(1, 3_000_000), "0.0000333 %");
        assert_eq!(percent(1, 0), "0 %");
        assert_eq!(ratio(138_901, 158_717), "0.875");
        assert_eq!(ratio(1, 0), "-");
        assert_eq!(size(45_437_832), "43.3 MiB");
        assert_eq!(size(1023), "1023 bytes");
        assert_eq!(size(u64::MAX), "16384 PiB");
    }

    #[test]
    fn times_have_a_unit_that_suits_them() {
        assert_eq!(seconds(Duration::from_micros(1_234)), "1.23 ms");
        assert_eq!(seconds(Duration::from_millis(345)), "0.345 s");
        assert_eq!(seconds(Duration::from_secs(12)), "12.0 s");
        assert_eq!(rate(1_500_000_000, Duration::from_secs(1)), "1.50 GB/s");
    }

    #[test]
    fn columns_line_up() {
        let rows =
            [vec!["step".to_owned(), "bytes".to_owned()], vec!["1".to_owned(), "1,234,567".to_owned()]];
        assert_eq!(table(&rows, &[0]), ["step      bytes", "1     1,234,567"]);
        assert_eq!(fields(&[("a", "1".into()), ("long", "2".into())]), ["a     1", "long  2"]);
    }
}
