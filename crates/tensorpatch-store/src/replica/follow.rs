//! Keeping a replica at the tip.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::stream::{BoxStream, try_unfold};
use futures::{StreamExt, TryStreamExt};
use tensorpatch_stream::{ObjectDigest, Version, names};

use super::Replica;
use super::pulled::Pulled;
use crate::cause::Cause;
use crate::error::StoreError;
use crate::local::blocking;
use crate::observe::Event;

/// The versions that a replica comes to hold, one after the other; made by [`Replica::follow`].
///
/// It is a [`futures_core::Stream`](futures::Stream) that ends with the first error.
pub struct Follow {
    versions: BoxStream<'static, Result<Pulled, StoreError>>,
}

impl Follow {
    /// The next version, once it is activated.
    ///
    /// # Errors
    /// Those of [`Replica::pull`] that waiting does not mend. There is no version after an error.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time, as in `select!`: no version is lost, and the next call goes on
    /// with what was under way.
    pub async fn next(&mut self) -> Result<Option<Pulled>, StoreError> {
        self.versions.try_next().await
    }
}

impl futures::Stream for Follow {
    type Item = Result<Pulled, StoreError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.versions.poll_next_unpin(context)
    }
}

impl fmt::Debug for Follow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follow").finish_non_exhaustive()
    }
}

impl Replica {
    /// Pulls the newest version, and each one that is published from then on.
    ///
    /// The first item is what is held at the start, activated just now or before, so that a process that died
    /// between an activation and its consequences makes up for it. Between two items the stream is asked
    /// every [`poll`](crate::settings::Following::poll); an ask costs one request while nothing is new, and
    /// two more each [`recheck`](crate::settings::Following::recheck), to see that the stream is still the
    /// same and has the version that is held. Where keys are trusted, what they were handed over to is looked
    /// up then, and before each new version. Failures of the store that may pass are waited out, and a stream
    /// that is gone, such as with its mount, for as long as between two such looks. Errors that waiting does
    /// not mend end it.
    ///
    /// Work is done only while an item is waited for: a lease is not renewed by somebody who takes a day over
    /// one.
    ///
    /// ```no_run
    /// # async fn example(replica: tensorpatch_store::Replica) -> Result<(), tensorpatch_store::StoreError> {
    /// let mut versions = replica.follow();
    /// while let Some(pulled) = versions.next().await? {
    ///     println!("version {} is there", pulled.to);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// What is returned may be dropped at any time, as [`Replica::pull`]. The last version that was seen is
    /// then the first one of the next call.
    pub fn follow(&self) -> Follow {
        let following = Following {
            replica: self.clone(),
            told: None,
            pause: self.stream.policy().following.poll,
            renewed: Instant::now(),
            idle: 0,
            gone: 0,
        };
        let versions = try_unfold(following, |mut following| async move {
            let pulled = following.next().await?;
            Ok(Some((pulled, following)))
        });
        Follow { versions: versions.boxed() }
    }

    /// Checks that the stream is still the one that is followed, and has the version that is held.
    async fn check_stream(&self, held: Option<(Version, ObjectDigest)>) -> Result<(), StoreError> {
        let found = self.stream.record_now().await?.stream;
        if found != self.stream.id() {
            let path = self.dir.clone();
            return Err(StoreError::AnotherStream { path, expected: self.stream.id(), found });
        }
        match held {
            Some((version, commit)) => self.check_held(version, commit).await,
            None => Ok(()),
        }
    }

    /// Whether the stream is in a local directory that shows no stream just now, which costs no request to
    /// find out.
    async fn has_lost_directory(&self) -> Result<bool, StoreError> {
        let Some(directory) = self.stream.bucket().directory() else { return Ok(false) };
        blocking(move || Ok(!directory.join(names::STREAM).exists())).await
    }

    /// Whether there is a version after the one that was told of.
    async fn has_newer(&self, told: Option<(Version, ObjectDigest)>) -> Result<bool, StoreError> {
        let Some((version, _)) = told else { return Ok(true) };
        match version.next() {
            None => Ok(false),
            Some(next) => Ok(self.stream.commit(next).await?.is_some()),
        }
    }
}

/// Where a follower is.
struct Following {
    replica: Replica,
    /// The version that was told of last.
    told: Option<(Version, ObjectDigest)>,
    pause: Duration,
    /// When the lease was renewed last.
    renewed: Instant,
    /// Polls without anything new since the stream was looked at as a whole.
    idle: u32,
    /// Polls in a row that have found no stream.
    gone: u32,
}

impl Following {
    /// The next version to tell of, if there is one.
    async fn step(&mut self) -> Result<Option<Pulled>, StoreError> {
        match self.replica.has_newer(self.told).await {
            Ok(false) => return Ok(None),
            // What is signed with a key that was handed over counts no more, and what is signed with the one
            // after it counts once the handover is known.
            Ok(true) | Err(StoreError::Untrusted { .. }) => self.replica.stream.renew_trust().await?,
            // Perhaps an anchor leads past the record that is lost.
            Err(error) if error.is_of_record() => {}
            Err(error) => return Err(error),
        }
        self.pull().await
    }

    async fn pull(&self) -> Result<Option<Pulled>, StoreError> {
        let pulled = self.replica.pull().await?;
        Ok((self.told != Some((pulled.to, pulled.commit))).then_some(pulled))
    }

    /// Looks at the stream as a whole. Whether it has versions behind a record that is lost.
    async fn recheck(&mut self) -> Result<bool, StoreError> {
        self.replica.stream.renew_trust().await?;
        self.replica.check_stream(self.told).await?;
        match self.told {
            Some((told, _)) => Ok(self.replica.stream.beyond_gap(told).await?.is_some()),
            None => Ok(false),
        }
    }

    async fn next(&mut self) -> Result<Pulled, StoreError> {
        let policy = self.replica.stream.policy().clone();
        loop {
            let begun = Instant::now();
            let mut step = self.step().await;
            let nothing_new = matches!(step, Ok(None) | Err(StoreError::Empty));
            self.idle = if nothing_new { self.idle.saturating_add(1) } else { 0 };
            let most = policy.following.polls_between_rechecks();
            if self.idle >= most
                || step.as_ref().is_err_and(|error| !nothing_new && !error.is_transient())
                || nothing_new && (self.gone > 0 || self.replica.has_lost_directory().await?)
            {
                self.idle = 0;
                // A stream that was recreated has no next version for a long time.
                match self.recheck().await {
                    Ok(true) if nothing_new => step = self.pull().await,
                    Ok(_) => {}
                    Err(error) => step = Err(error),
                }
            }
            let replica = &self.replica;
            match &step {
                Ok(_) | Err(StoreError::Empty) => replica.options.observer.note(Event::Answered),
                Err(StoreError::NoStream { .. }) => replica.options.observer.note(Event::StreamGone),
                Err(error) if error.is_transient() => {
                    let cause = error.cause().unwrap_or(Cause::Fault);
                    replica.options.observer.note(Event::StoreFailed(cause));
                }
                Err(_) => {}
            }
            if self.gone > 0 && matches!(step, Ok(_) | Err(StoreError::Empty)) {
                tracing::warn!("the stream is there again");
            }
            self.gone = match &step {
                Err(StoreError::NoStream { .. }) => self.gone.saturating_add(1),
                // It is not known then.
                Err(error) if error.is_transient() => self.gone,
                _ => 0,
            };
            match step {
                Err(StoreError::NoStream { place }) if self.gone > most => {
                    return Err(StoreError::StreamGone { place });
                }
                Err(StoreError::NoStream { place }) => {
                    tracing::warn!("the stream at {place} is gone, and is looked for again");
                    self.pause = policy.following.poll;
                }
                Ok(Some(pulled)) => {
                    let from = pulled.from.map_or("nothing".to_owned(), |from| format!("version {from}"));
                    let behind = pulled.to.get().saturating_sub(pulled.from.map_or(0, Version::get));
                    tracing::info!(
                        "{} is at version {}, from {from}, {behind} behind, in {} ms",
                        replica.dir.display(),
                        pulled.to,
                        begun.elapsed().as_millis()
                    );
                    self.told = Some((pulled.to, pulled.commit));
                    self.pause = policy.following.poll;
                    return Ok(pulled);
                }
                Ok(None) => {
                    self.pause = policy.following.poll;
                    let since = self.renewed.elapsed().saturating_mul(policy.leases.lease_renewals);
                    if let Some((held, _)) = self.told
                        && since >= policy.leases.lease_lifetime
                    {
                        replica.lease(Some(held), held).await;
                        self.renewed = Instant::now();
                    }
                }
                Err(StoreError::Empty) => {
                    tracing::info!("the stream has no version yet: waiting for the first")
                }
                Err(error) if error.is_transient() => {
                    tracing::warn!("the store fails, following goes on once it answers: {error}");
                    let (least, most) = (
                        policy.following.poll.max(policy.retries.first_backoff),
                        policy.following.poll.max(policy.retries.max_backoff),
                    );
                    self.pause = self.pause.saturating_mul(2).clamp(least, most.max(least));
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(self.pause).await;
        }
    }
}
