//! Whose signatures count, and for which versions (spec/stream.md sections 4.4 and 4.5).

use serde::{Deserialize, Serialize};
use tensorpatch_format::{ErrorKind, LeafHash};

use crate::digest::{ObjectDigest, optional_text, text};
use crate::names::{StreamId, Version};
use crate::record::{JsonRecord, Link, RecordError, Subject};
use crate::sign::{Consent, KeyTextError, SignKey, TrustKey, signer};

/// The most bytes of a handover.
pub const MAX_HANDOVER_BYTES: u64 = 4096;
/// The most handovers of a stream that are read. A key lives for months.
pub const MAX_HANDOVERS: usize = 64;

/// `handovers/V-NONCE.json` (section 4.5): from a version on another key signs. The record is signed by the
/// new key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandoverRecord {
    /// The identity of the stream.
    pub stream: StreamId,
    /// Seconds since 1970, for people.
    pub created: u64,
    /// The key that signed until then.
    #[serde(serialize_with = "text::serialize", deserialize_with = "lower_case")]
    pub from: TrustKey,
    /// The key that signs from then on, and this record.
    #[serde(serialize_with = "text::serialize", deserialize_with = "lower_case")]
    pub to: TrustKey,
    /// The last version for which the old key counts.
    pub last: Link,
    /// A signature of the old key over the above: readers that trust it then trust the new one.
    #[serde(default, with = "optional_text", skip_serializing_if = "Option::is_none")]
    pub consent: Option<Consent>,
}

/// A key in a record is written in one way; people may type it in another.
fn lower_case<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<TrustKey, D::Error> {
    let text = String::deserialize(deserializer)?;
    let key: TrustKey = text.parse().map_err(serde::de::Error::custom)?;
    if key.to_string() == text { Ok(key) } else { Err(serde::de::Error::custom(KeyTextError)) }
}

impl HandoverRecord {
    /// The bytes to store: signed by the new key, and with the consent of the old one if it is given. Without
    /// it, only readers that are told the new key go on.
    ///
    /// # Errors
    /// If the two keys are the same, or not those of the record.
    pub fn to_signed_bytes(mut self, new: &SignKey, old: Option<&SignKey>) -> Result<Vec<u8>, RecordError> {
        let same = |key: &SignKey, named: TrustKey| key.public() == named;
        if !same(new, self.to) || old.is_some_and(|old| !same(old, self.from)) {
            return Err(RecordError::Rule("the keys are not those that it names".into()));
        }
        self.consent = old.map(|old| old.consent(&self.statement()));
        Ok(new.sign(Self::FORMAT, self.to_bytes()?))
    }

    /// Reads a stored handover of `stream`.
    ///
    /// # Errors
    /// If it is none of this stream, or not signed by the new key.
    pub fn read(bytes: &[u8], stream: StreamId) -> Result<Self, TrustError> {
        if bytes.len() as u64 > MAX_HANDOVER_BYTES {
            let what = format!("it has {} bytes: at most {MAX_HANDOVER_BYTES} are allowed", bytes.len());
            return Err(RecordError::Rule(what).into());
        }
        let record = Self::parse(bytes)?;
        if record.stream != stream {
            return Err(TrustError::Untrusted(format!("it belongs to the stream {}", record.stream)));
        }
        signer(Self::FORMAT, bytes, &[record.to]).map_err(TrustError::Untrusted)?;
        Ok(record)
    }

    /// Whether the old key has agreed, so that readers that trust it go on with the new one.
    pub fn has_consent(&self) -> bool {
        self.consent.is_some_and(|consent| self.from.agreed(&self.statement(), &consent))
    }

    /// What the old key signs.
    fn statement(&self) -> String {
        let Link { version, commit } = self.last;
        format!("{} {} {} {version} {commit}", self.stream, self.from, self.to)
    }
}

/// The keys whose signatures count. Without any, signatures do not matter.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    keys: Vec<Trusted>,
}

#[derive(Debug, Clone, Copy)]
struct Trusted {
    key: TrustKey,
    /// The last version for which it counts, if it was handed over.
    last: Option<Link>,
}

/// Why a record does not count, although it may be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// No key that counts for it has signed it.
    #[error("{0}")]
    Untrusted(String),
    /// Its digests do not withstand somebody who makes other weights to fit them.
    #[error("its leaf hash is {0}, which does not withstand forgery")]
    WeakLeafHash(LeafHash),
    /// It is not a record of this kind.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// The handovers of a stream contradict one another: somebody who should not has one of the keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HandoverError(String);

impl HandoverError {
    /// Who must act on it.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Untrusted
    }
}

impl Trust {
    /// These keys, for all versions.
    pub fn of(keys: impl IntoIterator<Item = TrustKey>) -> Self {
        Self { keys: keys.into_iter().map(|key| Trusted { key, last: None }).collect() }
    }

    /// Whether signatures do not matter.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The last version for which `key` counts, if it was handed over.
    pub fn handed_over(&self, key: TrustKey) -> Option<Link> {
        self.find(key).and_then(|trusted| trusted.last)
    }

    /// The keys that count, each with the last version for which it does, if it was handed over.
    pub fn keys(&self) -> impl Iterator<Item = (TrustKey, Option<Link>)> {
        self.keys.iter().map(|trusted| (trusted.key, trusted.last))
    }

    /// The last versions of the keys that were handed over.
    pub fn lasts(&self) -> impl Iterator<Item = Link> {
        self.keys.iter().filter_map(|trusted| trusted.last)
    }

    /// The keys that count once these handovers are known.
    ///
    /// What the keys say that were trusted from the start goes first. A key that was handed over binds none
    /// that counts beside it, so whoever has found an old key can hand over nothing.
    ///
    /// # Errors
    /// If the trusted keys contradict one another, or one was handed over to two.
    pub fn after(mut self, handovers: &[HandoverRecord]) -> Result<Self, HandoverError> {
        let mut handovers: Vec<&HandoverRecord> = handovers.iter().collect();
        // Where one key speaks twice, the lower version counts.
        handovers.sort_by_key(|handover| (handover.last.version, handover.last.commit));
        let given = self.clone();
        for trusted in &mut self.keys {
            let by_given = |handover: &&&HandoverRecord| {
                handover.from == trusted.key && given.find(handover.to).is_some()
            };
            trusted.last = handovers.iter().find(by_given).map(|handover| handover.last);
        }
        if !self.keys.is_empty() && self.keys.iter().all(|trusted| trusted.last.is_some()) {
            return Err(HandoverError(
                "each of the trusted keys was handed over to another of them: trust the newest alone".into(),
            ));
        }
        loop {
            let before = self.keys.len();
            self.add_predecessors(&handovers);
            self.follow_consent(&handovers)?;
            if self.keys.len() == before {
                return Ok(self);
            }
        }
    }

    /// Adds the keys that those which count have taken over from, up to where they did.
    fn add_predecessors(&mut self, handovers: &[&HandoverRecord]) {
        let leads_back = |trust: &Self, handover: &HandoverRecord| {
            trust.find(handover.to).is_some_and(|to| to.counts_for(handover.last.version))
                && trust.find(handover.from).is_none()
        };
        // From the beginning after each: a key that is new may lead back by a handover that comes before.
        while let Some(handover) = handovers.iter().find(|handover| leads_back(self, handover)) {
            self.keys.push(Trusted { key: handover.from, last: Some(handover.last) });
        }
    }

    /// Adds the keys that those which count have handed over to.
    fn follow_consent(&mut self, handovers: &[&HandoverRecord]) -> Result<(), HandoverError> {
        for at in 0..self.keys.len() {
            let Some(Trusted { key, last: None }) = self.keys.get(at).copied() else { continue };
            let mut onward =
                handovers.iter().filter(|handover| handover.from == key && handover.has_consent());
            let Some(first) = onward.next() else { continue };
            if onward.any(|other| other.to != first.to) {
                return Err(HandoverError(format!(
                    "{key} was handed over to two keys: trust the one that its owner names"
                )));
            }
            if self.find(first.to).is_none() {
                self.keys.push(Trusted { key: first.to, last: None });
                if let Some(trusted) = self.keys.get_mut(at) {
                    trusted.last = Some(first.last);
                }
            }
        }
        Ok(())
    }

    fn find(&self, key: TrustKey) -> Option<&Trusted> {
        self.keys.iter().find(|trusted| trusted.key == key)
    }

    /// Reads a stored record, which counts only if a key has signed it that counts for its version.
    ///
    /// # Errors
    /// If it is none, or does not count.
    pub fn read<T: JsonRecord>(&self, bytes: &[u8]) -> Result<T, TrustError> {
        if self.is_empty() {
            return Ok(T::parse(bytes)?);
        }
        let keys: Vec<TrustKey> = self.keys.iter().map(|trusted| trusted.key).collect();
        let key = signer(T::FORMAT, bytes, &keys).map_err(|why| match T::parse(bytes) {
            // Nobody has signed it, and nobody has written it: that it is damaged says more.
            Err(error @ RecordError::NotJson(_)) => TrustError::Record(error),
            _ => TrustError::Untrusted(why),
        })?;
        let record = T::parse(bytes)?;
        let subject = record.subject();
        if let Some(hash) = subject.leaf_hash().filter(|hash| !hash.is_cryptographic()) {
            return Err(TrustError::WeakLeafHash(hash));
        }
        let version = subject.version();
        if let (Some(version), Some(last)) = (version, self.handed_over(key))
            && version > last.version
        {
            return Err(TrustError::Untrusted(format!(
                "it is signed by {key}, which was handed over after version {}",
                last.version
            )));
        }
        if let Subject::Commit(version, _) = subject {
            let digest = ObjectDigest::of(bytes);
            let mut ends = self.lasts().filter(|last| last.version == version);
            if ends.any(|last| last.commit != digest) {
                return Err(TrustError::Untrusted(format!(
                    "version {version} is not the one after which a key was handed over"
                )));
            }
        }
        Ok(record)
    }
}

impl Trusted {
    fn counts_for(&self, version: Version) -> bool {
        self.last.is_none_or(|last| version <= last.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::sample_with;
    use crate::record::{CommitRecord, StreamRecord, Writers};

    fn stream() -> StreamId {
        "00112233445566778899aabbccddeeff".parse().unwrap()
    }

    /// The version, as `key` has signed it.
    fn link(version: u64, key: &SignKey) -> Link {
        let commit = ObjectDigest::of(&commit(version, key));
        Link { version: Version::new(version).unwrap(), commit }
    }

    fn key(number: u8) -> SignKey {
        hex::encode([number; 32]).parse().unwrap()
    }

    /// The bytes of a commit, signed.
    fn commit(version: u64, key: &SignKey) -> Vec<u8> {
        let record = sample_with(version, ObjectDigest::of(b"before"), LeafHash::Blake3);
        key.sign(CommitRecord::FORMAT, record.to_bytes().unwrap())
    }

    fn handover(from: &SignKey, to: &SignKey, last: u64, consent: bool) -> HandoverRecord {
        let record = HandoverRecord {
            stream: stream(),
            created: 0,
            from: from.public(),
            to: to.public(),
            last: link(last, from),
            consent: None,
        };
        let bytes = record.to_signed_bytes(to, consent.then_some(from)).unwrap();
        HandoverRecord::read(&bytes, stream()).unwrap()
    }

    fn trust(keys: &[&SignKey], handovers: &[HandoverRecord]) -> Trust {
        Trust::of(keys.iter().map(|key| key.public())).after(handovers).unwrap()
    }

    fn counts(trust: &Trust, version: u64, key: &SignKey) -> bool {
        trust.read::<CommitRecord>(&commit(version, key)).is_ok()
    }

    #[test]
    fn a_key_that_was_handed_over_counts_up_to_its_last_version_and_the_new_one_after_it() {
        let (old, new) = (key(0), key(1));
        for consent in [true, false] {
            let handovers = [handover(&old, &new, 5, consent)];
            let told = trust(&[&new], &handovers);
            assert!(counts(&told, 5, &old) && counts(&told, 6, &new), "{consent}");
            assert!(!counts(&told, 6, &old), "{consent}");
            // Who knows the old key alone goes on only if that has agreed.
            let untold = trust(&[&old], &handovers);
            assert_eq!((counts(&untold, 6, &new), counts(&untold, 6, &old)), (consent, !consent));
            // Both keys are trusted while replicas are told of the new one.
            let both = trust(&[&old, &new], &handovers);
            assert!(counts(&both, 5, &old) && counts(&both, 6, &new) && !counts(&both, 6, &old));
        }
    }

    #[test]
    fn the_version_at_which_a_key_ends_is_known_by_its_digest() {
        let (old, new) = (key(0), key(1));
        let mut handover = handover(&old, &new, 5, true);
        handover.last.commit = ObjectDigest::of(b"another version 5");
        assert!(!counts(&trust(&[&new], &[handover]), 5, &old));
    }

    #[test]
    fn handovers_lead_from_key_to_key_both_ways() {
        let keys = [key(0), key(1), key(2)];
        let handovers = [handover(&keys[1], &keys[2], 9, true), handover(&keys[0], &keys[1], 5, true)];
        for known in &keys {
            let trust = trust(&[known], &handovers);
            assert!(
                counts(&trust, 4, &keys[0]) && counts(&trust, 9, &keys[1]) && counts(&trust, 10, &keys[2])
            );
            assert!(!counts(&trust, 6, &keys[0]) && !counts(&trust, 10, &keys[1]));
        }
    }

    #[test]
    fn of_two_handovers_by_one_key_the_lower_counts_in_whatever_order_they_are_listed() {
        let keys = [key(0), key(1), key(2)];
        let last = handover(&keys[1], &keys[2], 5, true);
        let handovers = [handover(&keys[0], &keys[1], 5, true), handover(&keys[0], &keys[1], 2, true)];
        for listed in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]] {
            let all = [last.clone(), handovers[0].clone(), handovers[1].clone()];
            let trust = trust(&[&keys[2]], &listed.map(|number: usize| all[number].clone()));
            assert!(counts(&trust, 2, &keys[0]) && !counts(&trust, 3, &keys[0]), "{listed:?}");
        }
    }

    #[test]
    fn who_has_an_old_key_hands_over_nothing_to_those_who_know_the_new_one() {
        let (old, new, thief) = (key(0), key(1), key(3));
        let honest = handover(&old, &new, 5, false);
        let stolen = handover(&old, &thief, 3, true);
        // It also claims that the new key was handed over to the old one.
        let back = handover(&new, &old, 2, false);
        let trusted = trust(&[&new], &[stolen.clone(), back.clone(), honest.clone()]);
        assert!(counts(&trusted, 6, &new) && counts(&trusted, 5, &old));
        assert!(!counts(&trusted, 6, &thief) && !counts(&trusted, 6, &old) && !counts(&trusted, 3, &thief));
        // Who trusts both is told that they contradict each other.
        let both = Trust::of([old.public(), new.public()]).after(&[honest, back]);
        assert!(both.is_err());
        // Who knows the old one alone cannot tell, and is told that.
        let agreed = handover(&old, &new, 5, true);
        assert!(Trust::of([old.public()]).after(&[agreed, stolen]).is_err());
    }

    #[test]
    fn a_key_that_was_handed_over_brings_no_other_that_counts_beyond_its_own_end() {
        let (old, new, thief) = (key(0), key(1), key(3));
        let honest = handover(&old, &new, 5, true);
        // Who has found the old key says that it has taken over from another, which signed for longer.
        let forged = handover(&thief, &old, 9, true);
        for listed in [[honest.clone(), forged.clone()], [forged, honest]] {
            let trusted = trust(&[&new], &listed);
            assert!(counts(&trusted, 5, &old) && counts(&trusted, 6, &new));
            assert!((1..=9).all(|version| !counts(&trusted, version, &thief)));
        }
    }

    #[test]
    fn a_handover_that_is_altered_or_of_another_stream_or_key_is_none() {
        let (old, new) = (key(0), key(1));
        let record = handover(&old, &new, 5, true);
        let bytes = record.clone().to_signed_bytes(&new, Some(&old)).unwrap();
        assert!(HandoverRecord::read(&bytes, StreamId::random()).is_err());
        assert!(record.clone().to_signed_bytes(&old, None).is_err());
        assert!(record.clone().to_signed_bytes(&new, Some(&new)).is_err());
        for at in (0..bytes.len()).step_by(7) {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            assert!(HandoverRecord::read(&altered, stream()).is_err(), "byte {at}");
        }
        // The consent is to one version and key.
        let mut moved = record;
        moved.last = link(7, &old);
        assert!(!moved.has_consent());
    }

    #[test]
    fn a_record_whose_digests_do_not_withstand_forgery_does_not_count() {
        let key = key(0);
        let trust = Trust::of([key.public()]);
        for (leaf_hash, counts) in [(LeafHash::Blake3, true), (LeafHash::Xxh3, false)] {
            let record = StreamRecord { stream: stream(), created: 0, leaf_hash, writers: Writers::Many };
            let bytes = key.sign(StreamRecord::FORMAT, record.to_bytes().unwrap());
            assert_eq!(trust.read::<StreamRecord>(&bytes).is_ok(), counts);
            let record = sample_with(1, ObjectDigest::of(b""), leaf_hash);
            let bytes = key.sign(CommitRecord::FORMAT, record.to_bytes().unwrap());
            assert_eq!(trust.read::<CommitRecord>(&bytes).is_ok(), counts);
            // Without keys it is what it is: a guard against accidents.
            assert!(Trust::default().read::<CommitRecord>(&bytes).is_ok());
        }
    }
}
