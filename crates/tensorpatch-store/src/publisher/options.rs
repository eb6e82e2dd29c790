//! What a caller chooses about publishing.

use std::path::PathBuf;

use super::anchor_policy::AnchorPolicy;
use crate::observe::Observer;
use tensorpatch_delta as delta;

/// Choices for publishing.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PublishOptions {
    /// The name that the commit records give for the publisher [default: user and machine]. It is for
    /// people: two publishers of one name are told apart all the same.
    pub publisher: String,
    /// Profile, threads and limits of the patches. The leaf hash is the stream's.
    pub diff: delta::Options,
    /// When [`Publisher::publish`](crate::Publisher::publish) and [`ranks::commit`](crate::ranks::commit) add
    /// an anchor to the version, so that newcomers need no long chain of patches.
    pub anchors: AnchorPolicy,
    /// The newest version as a checkpoint of the caller's, which
    /// [`Publisher::publish`](crate::Publisher::publish) makes the patch from: then no baseline is kept.
    ///
    /// It is hashed while it is read, and refused if it is not the newest version of the stream, down to a
    /// bit. Anchors are not added, as they are made of the baseline.
    pub base: Option<PathBuf>,
    /// Whether a checkpoint that is the newest version already becomes a version of its own all the same
    /// [default: only with a label of its own].
    pub allow_unchanged: bool,
    /// Files beside the weights that are published although their names say weights of another format, a
    /// leftover or a log; below the directory of the checkpoint, such as `onnx/model.onnx`.
    pub carried: Vec<String>,
    /// Who is told of progress.
    pub observer: Observer,
}

impl Default for PublishOptions {
    fn default() -> Self {
        Self {
            publisher: this_publisher(),
            diff: delta::Options::default(),
            anchors: AnchorPolicy::default(),
            base: None,
            allow_unchanged: false,
            carried: Vec::new(),
            observer: Observer::default(),
        }
    }
}

/// The user and the machine of this process, as far as they are known.
fn this_publisher() -> String {
    let variable = |name: &str| std::env::var(name).ok();
    let user = variable("USER").or_else(|| variable("LOGNAME"));
    let kernel = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let host = kernel().or_else(|| variable("HOSTNAME"));
    let known = [user, host].into_iter().flatten().map(|name| plain(&name)).filter(|name| !name.is_empty());
    match known.collect::<Vec<_>>().join("@") {
        none if none.is_empty() => "publisher".into(),
        name => name,
    }
}

/// A short name of characters that no terminal and no table makes anything of.
fn plain(name: &str) -> String {
    const MOST: usize = 32;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    name.trim().chars().take(MOST).map(|c| if is_plain(c) { c } else { '-' }).collect()
}

impl PublishOptions {
    /// The same under this name, of 1 to 256 bytes.
    #[must_use]
    pub fn with_publisher(mut self, name: impl Into<String>) -> Self {
        self.publisher = name.into();
        self
    }

    /// The same with these choices for patches.
    #[must_use]
    pub fn with_diff(mut self, diff: delta::Options) -> Self {
        self.diff = diff;
        self
    }

    /// Sets when a version gets an anchor.
    #[must_use]
    pub fn with_anchors(mut self, anchors: AnchorPolicy) -> Self {
        self.anchors = anchors;
        self
    }

    /// The same with patches from the checkpoint at `base`, which is the newest version.
    ///
    /// For trainers that keep the checkpoint before unaltered: no copy of the model is kept or written.
    #[must_use]
    pub fn with_base(mut self, base: impl Into<PathBuf>) -> Self {
        self.base = Some(base.into());
        self
    }

    /// Publishes a checkpoint that is the newest version already all the same.
    #[must_use]
    pub fn allowing_unchanged(mut self) -> Self {
        self.allow_unchanged = true;
        self
    }

    /// The same, but files of these names are published although they would be left out.
    #[must_use]
    pub fn carrying(mut self, names: impl IntoIterator<Item = String>) -> Self {
        self.carried = names.into_iter().collect();
        self
    }

    /// The same with `observer` told of progress.
    #[must_use]
    pub fn with_observer(mut self, observer: Observer) -> Self {
        self.observer = observer;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::{plain, this_publisher};

    #[test]
    fn a_publisher_has_a_short_name_of_plain_characters() {
        assert_eq!(plain(" node-7.example\n"), "node-7.example");
        assert_eq!(plain("a b\u{202e}c\u{1b}"), "a-b-c-");
        assert_eq!(plain(&"x".repeat(300)).len(), 32);
        let name = this_publisher();
        assert!((1..=65).contains(&name.len()) && name.is_ascii(), "{name}");
    }
}
