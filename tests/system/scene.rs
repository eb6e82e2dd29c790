//! A stream in a temporary directory, with what a test has beside it.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::support::{Outcome, arguments, fixture, run, temporary, tree};

/// The checkpoint that is published as a version, of which there are three.
pub(crate) fn snapshot(version: u32) -> PathBuf {
    fixture(4 + (version - 1) % 3)
}

/// A directory with a stream, its baseline, and whatever else a test puts there.
pub(crate) struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    /// With a stream of so many versions; without one if there are none.
    pub(crate) fn new(versions: u32) -> Self {
        let scene = Self { dir: temporary() };
        for version in 1..=versions {
            scene.publish(version, &[]).ok();
        }
        scene
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn stream(&self) -> PathBuf {
        self.path("stream")
    }

    pub(crate) fn baseline(&self) -> PathBuf {
        self.path("baseline")
    }

    /// Publishes the checkpoint of a version, whether or not it becomes that one.
    #[track_caller]
    pub(crate) fn publish(&self, version: u32, options: &[&str]) -> Outcome {
        let (stream, baseline) = (self.stream(), self.baseline());
        let publish =
            arguments!["publish", snapshot(version), "--to", stream, "--baseline", baseline, "--json"];
        run(&with(publish, options))
    }

    #[track_caller]
    pub(crate) fn pull(&self, replica: &str, options: &[&str]) -> Outcome {
        run(&with(arguments!["pull", self.stream(), self.path(replica)], options))
    }

    /// Runs a command on the stream.
    #[track_caller]
    pub(crate) fn run(&self, command: &str, options: &[&str]) -> Outcome {
        run(&with(arguments![command, self.stream()], options))
    }

    /// The file of a version's record.
    pub(crate) fn commit(&self, version: u32) -> PathBuf {
        self.stream().join(format!("commits/{version:020}.json"))
    }

    /// The first file of a version below `folder`.
    pub(crate) fn object(&self, folder: &str, version: u32) -> PathBuf {
        let folder = self.stream().join(folder);
        let of_version = format!("{version:020}");
        let files = tree(&folder);
        folder.join(files.keys().find(|file| file.to_string_lossy().starts_with(&of_version)).unwrap())
    }
}

fn with<const N: usize>(line: [OsString; N], options: &[&str]) -> Vec<OsString> {
    line.into_iter().chain(options.iter().map(OsString::from)).collect()
}
