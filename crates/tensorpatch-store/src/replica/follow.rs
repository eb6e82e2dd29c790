//! Keeping a replica at the tip.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::{Pulled, Replica, Target};
use crate::error::StoreError;

/// The longest pause after errors.
const MAX_PAUSE: Duration = Duration::from_secs(60);

impl Replica {
    /// Pulls the newest version, calls `on_version` once, and again after each version that is activated, until that says
    /// [`ControlFlow::Break`].
    ///
    /// The stream is asked every `poll`; an ask costs one request while nothing is new. The first call tells what is held at the start,
    /// activated just now or before, so that a process that died between an activation and its consequences makes up for it.
    /// Failures of the store that may pass are waited out.
    ///
    /// # Errors
    /// Those of [`Replica::pull`] that waiting does not mend.
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
        loop {
            match self.step(told).await {
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
                    pause = pause.saturating_mul(2).clamp(poll, MAX_PAUSE.max(poll));
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// The next version to tell of, if there is one.
    async fn step(
        &self,
        told: Option<(crate::Version, crate::ObjectDigest)>,
    ) -> Result<Option<Pulled>, StoreError> {
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
