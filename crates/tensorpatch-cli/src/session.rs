//! What every command works with: where output goes, how many threads there are, what progress looks like.

use std::num::NonZeroUsize;

use anyhow::Result;
use tensorpatch::delta::Options;

use crate::arguments::Global;
use crate::interrupt::Interrupts;
use crate::output::Output;
use crate::progress::{Bar, Screen};

/// The settings of one run of the program.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) output: Output,
    /// What a signal ends.
    pub(crate) interrupts: Interrupts,
    /// What is seen of work under way.
    pub(crate) screen: Screen,
    threads: NonZeroUsize,
}

impl Session {
    pub(crate) fn new(global: &Global) -> Result<Self> {
        let threads = global.threads.or_else(|| std::thread::available_parallelism().ok());
        Ok(Self {
            output: Output::new(global.json, global.quiet),
            interrupts: Interrupts::listen(global.json)?,
            screen: Screen::new(global.quiet),
            threads: threads.unwrap_or(NonZeroUsize::MIN),
        })
    }

    /// How many threads encode, decode and hash.
    pub(crate) fn threads(&self) -> NonZeroUsize {
        self.threads
    }

    /// Options for diff and apply.
    pub(crate) fn options(&self) -> Options {
        Options::default().with_threads(self.threads)
    }

    /// A bar for `total` bytes of model.
    pub(crate) fn bar(&self, what: &'static str, total: u64) -> Bar {
        self.screen.bar(what, total)
    }
}
