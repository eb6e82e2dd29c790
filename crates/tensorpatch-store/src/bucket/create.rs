//! Creating a record so that it is known afterwards whose it is (spec/stream.md section 5, step P5).

use std::time::Instant;

use bytes::Bytes;
use tensorpatch_stream::record::MAX_RECORD_BYTES;
use tensorpatch_stream::{Version, Writers};

use super::Bucket;
use crate::cause::{Cause, Told};
use crate::error::StoreError;

/// Whose record now stands under the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Created {
    /// The one that was put.
    Mine,
    /// Another one, with these bytes.
    Theirs(Bytes),
}

/// Why it is not known, or not certain, whose record stands under the name.
#[derive(Debug)]
pub(crate) enum CreateError {
    /// The store gave an error each time, and the record was not there each time. It may still arrive.
    Unknown(object_store::Error),
    /// Nothing was written.
    Refused(StoreError),
}

impl CreateError {
    pub(crate) fn for_version(self, version: Version) -> StoreError {
        match self {
            Self::Unknown(source) => StoreError::OutcomeUnknown { version, source },
            Self::Refused(error) => error,
        }
    }

    pub(crate) fn for_name(self, name: &str) -> StoreError {
        match self {
            Self::Unknown(source) => StoreError::Object { name: name.into(), source },
            Self::Refused(error) => error,
        }
    }
}

/// Puts `bytes`, which hold a nonce, under `name` unless something is there, and reads back what is.
///
/// The answer of the store alone decides nothing: a client repeats a create after a lost reply and is then
/// told that its own record exists, and a store that ignores the condition says that all creators won.
pub(crate) async fn create(
    bucket: &Bucket,
    name: &str,
    bytes: Bytes,
    writers: Writers,
) -> Result<Created, CreateError> {
    if writers == Writers::Single
        && let Some(found) = get(bucket, name).await?
    {
        return Ok(if found == bytes { Created::Mine } else { Created::Theirs(found) });
    }
    let (begun, mut attempt) = (Instant::now(), 1);
    loop {
        let result = match writers {
            Writers::Many => bucket.create(name, bytes.clone()).await,
            // There is nobody else, as the user has promised, and nothing was there.
            Writers::Single => bucket.put_once(name, bytes.clone()).await,
        };
        // No bytes were accepted, and none of these becomes right by waiting.
        let result = match result {
            Err(source) if !may_have_arrived(&source) => {
                return Err(CreateError::Refused(match Cause::of(&source) {
                    Cause::NotSupported if writers == Writers::Many => {
                        StoreError::NoConditionalCreate(Told(&source).to_string())
                    }
                    _ => StoreError::Object { name: name.into(), source },
                }));
            }
            result => result,
        };
        match (get(bucket, name).await?, result) {
            (Some(found), _) if found == bytes => return Ok(Created::Mine),
            (Some(_), Ok(())) if writers == Writers::Many => {
                return Err(CreateError::Refused(StoreError::NoConditionalCreate(format!(
                    "it said that {name} was created, but holds another record under that name"
                ))));
            }
            (Some(found), _) => return Ok(Created::Theirs(found)),
            (None, Ok(())) => {
                return Err(CreateError::Refused(StoreError::NoConditionalCreate(format!(
                    "it said that {name} was created, but has no such object"
                ))));
            }
            (None, Err(source)) if !bucket.may_try_again(begun, attempt, &source) => {
                return Err(CreateError::Unknown(source));
            }
            (None, Err(error)) => {
                bucket.tell_failure(name, attempt, &error);
                bucket.pause(attempt).await;
                attempt = attempt.saturating_add(1);
            }
        }
    }
}

/// Whether a put that failed may have left its object all the same, or leave it yet.
fn may_have_arrived(error: &object_store::Error) -> bool {
    match error {
        // What these mean is for the read that follows to say.
        object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => true,
        object_store::Error::InvalidPath { .. } => false,
        error => Cause::of(error).may_pass() || Cause::of(error) == Cause::Other,
    }
}

async fn get(bucket: &Bucket, name: &str) -> Result<Option<Bytes>, CreateError> {
    match bucket.get_small(name, MAX_RECORD_BYTES).await {
        Ok(found) => Ok(found),
        // After a put whose fate is not known, a store that cannot be read leaves it unknown.
        Err(StoreError::Object { source, .. }) => Err(CreateError::Unknown(source)),
        Err(error) => Err(CreateError::Refused(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faulty_store::{Call, Fault, FaultyStore};
    use object_store::memory::InMemory;
    use std::sync::Arc;

    const NAME: &str = "commits/00000000000000000001.json";

    fn bucket(fault: impl FnMut(&Call) -> Fault + Send + 'static) -> Bucket {
        Bucket::new(Arc::new(FaultyStore::new(Arc::new(InMemory::new()), fault)), "a/b".into())
    }

    async fn try_create(bucket: &Bucket, bytes: &'static str) -> Result<Created, CreateError> {
        create(bucket, NAME, Bytes::from_static(bytes.as_bytes()), Writers::Many).await
    }

    #[tokio::test]
    async fn one_of_two_creators_wins_and_the_other_sees_the_winner() {
        let bucket = bucket(|_| Fault::None);
        assert_eq!(try_create(&bucket, "mine").await.unwrap(), Created::Mine);
        assert_eq!(try_create(&bucket, "other").await.unwrap(), Created::Theirs("mine".into()));
        assert_eq!(try_create(&bucket, "mine").await.unwrap(), Created::Mine);
    }

    #[tokio::test(start_paused = true)]
    async fn a_create_whose_reply_is_lost_is_known_to_be_ones_own() {
        let mut first = true;
        let bucket = bucket(move |call| {
            if call.is_create() && std::mem::take(&mut first) { Fault::AfterEffect } else { Fault::None }
        });
        assert_eq!(try_create(&bucket, "mine").await.unwrap(), Created::Mine);
    }

    #[tokio::test(start_paused = true)]
    async fn a_create_that_never_arrives_is_made_again() {
        let mut failures = 3;
        let bucket = bucket(move |call| {
            if call.is_create() && failures > 0 {
                failures -= 1;
                return Fault::BeforeEffect;
            }
            Fault::None
        });
        assert_eq!(try_create(&bucket, "mine").await.unwrap(), Created::Mine);
    }

    #[tokio::test(start_paused = true)]
    async fn when_the_store_keeps_failing_the_outcome_is_said_to_be_unknown() {
        let bucket = bucket(|call| if call.is_create() { Fault::BeforeEffect } else { Fault::None });
        assert!(matches!(try_create(&bucket, "mine").await, Err(CreateError::Unknown(_))));
    }

    #[tokio::test]
    async fn a_store_that_overwrites_is_caught() {
        let store = Arc::new(FaultyStore::new(Arc::new(InMemory::new()), |_| Fault::None));
        store.ignore_conditions();
        let bucket = Bucket::new(store.clone(), "a".into());
        let result = create(&bucket, NAME, "mine".into(), Writers::Many).await;
        assert_eq!(result.unwrap(), Created::Mine);
        // The other creator overwrites between the put and the read: what is read decides, not what was said.
        store.after_next_create(Bytes::from_static(b"theirs"));
        let result = create(&bucket, NAME, "again".into(), Writers::Many).await;
        assert!(matches!(result, Err(CreateError::Refused(StoreError::NoConditionalCreate(_)))));
    }

    #[tokio::test]
    async fn a_single_writer_does_not_need_a_store_that_knows_conditions() {
        let store = Arc::new(FaultyStore::new(Arc::new(InMemory::new()), |_| Fault::None));
        store.refuse_conditions();
        let bucket = Bucket::new(store, "a".into());
        let refused = create(&bucket, NAME, "mine".into(), Writers::Many).await;
        assert!(matches!(refused, Err(CreateError::Refused(StoreError::NoConditionalCreate(_)))));
        assert_eq!(create(&bucket, NAME, "mine".into(), Writers::Single).await.unwrap(), Created::Mine);
        assert_eq!(
            create(&bucket, NAME, "other".into(), Writers::Single).await.unwrap(),
            Created::Theirs("mine".into())
        );
    }

    #[tokio::test]
    async fn a_single_writer_does_not_overwrite_on_a_store_without_conditions() {
        let store = Arc::new(FaultyStore::new(Arc::new(InMemory::new()), |_| Fault::None));
        store.ignore_conditions();
        let bucket = Bucket::new(store, "a".into());
        assert_eq!(create(&bucket, NAME, "mine".into(), Writers::Single).await.unwrap(), Created::Mine);
        assert_eq!(
            create(&bucket, NAME, "other".into(), Writers::Single).await.unwrap(),
            Created::Theirs("mine".into())
        );
    }
}
