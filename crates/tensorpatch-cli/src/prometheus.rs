//! The text format of Prometheus, as far as it is needed here: single values of one subject.

use std::fmt::Write as _;

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

    fn put(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        let (name, stream) = (format!("tensorpatch_{}_{name}", self.subject), self.stream);
        let _ = write!(
            self.text,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{{stream=\"{stream}\"}} {value}\n"
        );
    }

    pub(crate) fn into_text(self) -> String {
        self.text
    }
}

/// Says that each metric that the pages write about, in the name of `subject`, is one of those in `text`.
#[cfg(test)]
pub(crate) fn assert_documented(subject: &str, text: &str, pages: &[&str]) {
    let served: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let prefix = format!("tensorpatch_{subject}_");
    let mut documented = Vec::new();
    for page in pages {
        let path = format!("{}/../../{page}", env!("CARGO_MANIFEST_DIR"));
        let page = std::fs::read_to_string(path).unwrap();
        let mut named = 0;
        for line in page.lines() {
            // `…_total` goes on from the name before it in the line.
            let mut before = "";
            for word in line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '…') {
                let name = match word.strip_prefix("…_") {
                    Some(rest) if before.starts_with(&prefix) => format!("{prefix}{rest}"),
                    Some(_) => continue,
                    None if word.starts_with("tensorpatch_") => {
                        before = word;
                        word.to_owned()
                    }
                    None => continue,
                };
                if name.starts_with(&prefix) {
                    assert!(served.contains(&name.as_str()), "{name} is none of {served:?}");
                    documented.push(name);
                    named += 1;
                }
            }
        }
        assert!(named > 0, "nothing of {prefix}…");
    }
    for name in &served {
        assert!(documented.iter().any(|known| known == name), "{name} is on no page");
    }
}
