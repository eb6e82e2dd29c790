//! What a publisher remembers from one version to the next.

use tensorpatch_stream::{Commit, Nonce};
use tokio::task::JoinHandle;

use super::anchor_policy::Chain;

/// The newest version that a publisher knows of, and what it has found out about the stream up to there.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) tip: Option<Commit>,
    pub(super) attempt: Option<Nonce>,
    /// The deltas to the tip since the newest anchor, once they have been looked at.
    pub(super) chain: Option<Chain>,
    /// What brings the baseline to the tip, in the background.
    pub(super) advancing: Option<JoinHandle<()>>,
}

impl Known {
    pub(super) fn of(tip: Option<Commit>) -> Self {
        Self { tip, ..Self::default() }
    }

    /// Waits until the baseline has come to where it was on its way to.
    pub(super) async fn settle(&mut self) {
        if let Some(advancing) = self.advancing.take()
            && let Err(error) = advancing.await
        {
            tracing::warn!(%error, "the baseline was not advanced");
        }
    }
}
