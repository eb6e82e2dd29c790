//! The text format of Prometheus, as far as it is needed here: single values of one subject.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use tensorpatch::store::StreamId;

/// What every text begins with, whatever its subject.
pub(crate) const START: &str = "# HELP tensorpatch_";

/// The metrics of one subject, such as a replica, as text. Each has the stream as its label, so that several
/// runs can be told apart.
#[derive(Debug)]
pub(crate) struct Metrics {
    subject: &'static str,
    stream: StreamId,
    text: String,
}

impl Metrics {
    /// Those of a subject that belongs to `stream`.
    pub(crate) fn of(subject: &'static str, stream: StreamId) -> Self {
        Self { subject, stream, text: String::new() }
    }

    /// With a value that may rise and fall, if it is known.
    pub(crate) fn gauge(&mut self, name: &str, help: &str, value: Option<f64>) {
        if let Some(value) = value {
            self.put(name, "gauge", help, value);
        }
    }

    /// With a value that only rises.
    pub(crate) fn counter(&mut self, name: &str, help: &str, count: u64) {
        self.put(name, "counter", help, count as f64);
    }

    /// With values that only rise, of several kinds that the label tells apart.
    pub(crate) fn counters(&mut self, name: &str, help: &str, label: &str, counts: &[(&str, f64)]) {
        let name = self.head(name, "counter", help);
        for (kind, value) in counts {
            let stream = self.stream;
            let _ = writeln!(self.text, "{name}{{stream=\"{stream}\",{label}=\"{kind}\"}} {value}");
        }
    }

    fn put(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        let name = self.head(name, kind, help);
        let _ = writeln!(self.text, "{name}{{stream=\"{}\"}} {value}", self.stream);
    }

    /// What is said of a metric before its values; returns its whole name.
    fn head(&mut self, name: &str, kind: &str, help: &str) -> String {
        let name = format!("tensorpatch_{}_{name}", self.subject);
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        name
    }

    pub(crate) fn into_text(self) -> String {
        self.text
    }
}

/// The time as metrics have it: seconds since 1970.
pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
