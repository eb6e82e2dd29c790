//! Who signs a stream, whose signatures count, and what is refused without a key (spec/stream.md sections 4.4
//! and 4.5).

use std::time::{Duration, Instant};

use tensorpatch_stream::{SignKey, Trust, TrustKey};

use super::Stream;
use crate::error::StoreError;

/// How long after the handovers were read a version may be signed without reading them again.
const SIGNED_UNASKED: Duration = Duration::from_secs(2);

/// Who signs and who is trusted.
#[derive(Debug, Clone, Default)]
pub(super) struct Keys {
    pub(super) sign: Option<SignKey>,
    /// Those that the caller trusts.
    given: Vec<TrustKey>,
    /// Those that count, with the handovers that were found.
    trust: Trust,
    /// When these were read.
    read: Option<Instant>,
}

impl Keys {
    /// Signs with `key`, if there is one, and trusts nobody in particular.
    pub(super) fn signing(key: Option<SignKey>) -> Self {
        Self { sign: key, ..Self::default() }
    }
}

impl Stream {
    /// The same stream, with every record that is written through this handle signed.
    #[must_use]
    pub fn signing(mut self, key: SignKey) -> Self {
        self.keys.sign = Some(key);
        self
    }

    /// The same stream, with every record refused that is not signed by one of `keys`, or by a key that one
    /// of them was handed over to or has taken over from; the stream record is read again.
    ///
    /// # Errors
    /// [`StoreError::NotSigned`] if the stream record is not signed at all; [`StoreError::Untrusted`] if it
    /// is by another key; [`StoreError::WeakLeafHash`] if its states are hashed with XXH3, so that weights
    /// could be exchanged under a signature; [`StoreError::RetiredKey`] if the key to sign with was handed
    /// over; or if the store fails.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time; it only reads.
    pub async fn trusting(mut self, keys: Vec<TrustKey>) -> Result<Self, StoreError> {
        self.keys.given = keys;
        self.renew_trust().await?;
        if self.trusts_keys() && !self.signed {
            return Err(StoreError::NotSigned { place: self.place() });
        }
        let stream = self.id();
        self.record = self.record_now().await?;
        if self.id() != stream {
            let (expected, found) = (stream, self.id());
            return Err(StoreError::WrongStream { place: self.place(), expected, found });
        }
        if let Some(key) = &self.keys.sign {
            self.check_not_retired(self.trust(), key)?;
        }
        Ok(self)
    }

    /// Whose signatures count by the handovers that there are now.
    async fn trust_now(&self) -> Result<Trust, StoreError> {
        match self.keys.given.as_slice() {
            [] => Ok(Trust::default()),
            given => Ok(Trust::of(given.iter().copied()).after(&self.valid_handovers().await?)?),
        }
    }

    /// Reads the handovers again: a key may have been handed over since the stream was opened.
    pub(crate) async fn renew_trust(&mut self) -> Result<(), StoreError> {
        self.keys.read = Some(Instant::now());
        self.keys.trust = self.trust_now().await?;
        Ok(())
    }

    /// Refuses to sign with a key that was handed over since the stream was opened, if that is a while ago:
    /// what is signed within [`SIGNED_UNASKED`] is seen by who hands it over.
    pub(super) async fn check_key(&self) -> Result<(), StoreError> {
        let (Some(key), Some(read)) = (&self.keys.sign, self.keys.read) else { return Ok(()) };
        if read.elapsed() < SIGNED_UNASKED {
            return Ok(());
        }
        self.check_not_retired(&self.trust_now().await?, key)
    }

    fn check_not_retired(&self, trust: &Trust, key: &SignKey) -> Result<(), StoreError> {
        match trust.handed_over(key.public()) {
            Some(last) => Err(StoreError::RetiredKey { place: self.place(), last: last.version }),
            None => Ok(()),
        }
    }

    /// Whose signatures count.
    pub(crate) fn trust(&self) -> &Trust {
        &self.keys.trust
    }

    /// Whether records count only if a trusted key has signed them.
    pub(crate) fn trusts_keys(&self) -> bool {
        !self.keys.trust.is_empty()
    }

    /// Refuses to go on with a stream that is signed without knowing whose signatures count: `what` would
    /// believe whoever can write to the bucket.
    pub(crate) fn require_keys(&self, what: &'static str) -> Result<(), StoreError> {
        if self.signed && !self.trusts_keys() {
            return Err(StoreError::NeedsKey { place: self.place(), what });
        }
        Ok(())
    }

    /// Refuses to add an unsigned record to a stream that is signed: replicas that trust its key could not
    /// follow, and its owner could not build on it.
    pub(crate) fn check_signing(&self) -> Result<(), StoreError> {
        if self.signed && self.keys.sign.is_none() {
            return Err(StoreError::Unsigned { place: self.place() });
        }
        Ok(())
    }

    /// Refuses what only the owner of the stream's key may do.
    pub(crate) fn check_owned(&self) -> Result<(), StoreError> {
        if !self.signed {
            return Err(StoreError::NotSigned { place: self.place() });
        }
        if self.keys.sign.is_none() || self.keys.trust.is_empty() {
            return Err(StoreError::Unsigned { place: self.place() });
        }
        Ok(())
    }
}
