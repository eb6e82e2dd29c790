//! Keeping a replica at the tip.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use tensorpatch_stream::{ObjectDigest, Version};

use super::options::Target;
use super::{Pulled, Replica};
use crate::error::StoreError;

/// The shortest and the longest pause after errors.
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// How long, and how often, nothing new is believed before the stream is looked at as a whole.
const IDLE: Duration = Duration::from_secs(60);
const IDLE_POLLS: u128 = 64;

impl Replica {
    /// Pulls the newest version, calls `on_version` once, and again after each version that is activated, until that says
    /// [`ControlFlow::Break`].
    ///
    /// The stream is asked every `poll`; an ask costs one request while nothing is new, and two more each minute (or each poll, if
    /// they are rarer), to see that the stream is still the same and has the version that is held. The first call tells what is held at the start,
    /// activated just now or before, so that a process that died between an activation and its consequences makes up for it.
    /// Failures of the store that may pass are waited out.
    ///
    /// # Errors
    /// Those of [`Replica::pull`] that waiting does not mend.
    ///
    /// # Cancel safety
    /// As [`Replica::pull`]. A version whose call of `on_version` was not seen to its end is the first one of the next call.
    pub async fn follow<F>(
        &self,
        poll: Duration,
        mut on_version: impl FnMut(Pulled) -> F,
    ) -> Result<(), StoreError>
    where
        F: Future<Output = ControlFlow<()>>,
    {
        let mut told = None;
        let mut pause = poll;
        let mut renewed = Instant::now();
        let patience =
            IDLE.as_millis().checked_div(poll.as_millis()).unwrap_or(IDLE_POLLS).clamp(1, IDLE_POLLS);
        let mut idle: u128 = 0;
        loop {
            let mut step = self.step(told).await;
            idle = if matches!(step, Ok(None)) { idle.saturating_add(1) } else { 0 };
            if let Some((version, commit)) = told
                && (idle >= patience || step.as_ref().is_err_and(|error| !error.is_transient()))
            {
                idle = 0;
                // A stream that was made anew has no next version for a long time.
                if let Err(error) = self.check_stream(version, commit).await {
                    step = Err(error);
                }
            }
            match step {
                Ok(Some(pulled)) => {
                    told = Some((pulled.to, pulled.commit));
                    if on_version(pulled).await.is_break() {
                        return Ok(());
                    }
                    pause = poll;
                    // There may be a newer one by now.
                    continue;
                }
                Ok(None) => {
                    pause = poll;
                    let length = self.options.lease.as_ref().map(|lease| lease.length);
                    if let (Some((held, _)), Some(length)) = (told, length)
                        && renewed.elapsed().saturating_mul(3) >= length
                    {
                        self.renew(held).await;
                        renewed = Instant::now();
                    }
                }
                Err(StoreError::Empty) => {}
                Err(error) if error.is_transient() => {
                    tracing::warn!(%error, ?pause, "the store fails, waiting");
                    pause = pause.saturating_mul(2).clamp(poll.max(MIN_PAUSE), MAX_PAUSE.max(poll));
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Checks that the stream is still the one that is followed, and has the version that is held.
    async fn check_stream(&self, held: Version, commit: ObjectDigest) -> Result<(), StoreError> {
        let found = self.stream.record_now().await?.stream;
        if found != self.stream.id() {
            let path = self.dir.clone();
            return Err(StoreError::AnotherStream { path, expected: self.stream.id(), found });
        }
        self.check_held(held, commit).await
    }

    /// The next version to tell of, if there is one.
    async fn step(&self, told: Option<(Version, ObjectDigest)>) -> Result<Option<Pulled>, StoreError> {
        if let Some((version, _)) = told {
            let next = version.next();
            let newer = match next {
                None => false,
                Some(next) => self.stream.commit(next).await?.is_some(),
            };
            if !newer {
                return Ok(None);
            }
        }
        let pulled = self.pull(Target::Latest).await?;
        Ok((told != Some((pulled.to, pulled.commit))).then_some(pulled))
    }
}
