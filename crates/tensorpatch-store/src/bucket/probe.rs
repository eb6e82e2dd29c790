//! Finding out whether a store keeps create-if-absent before anything depends on it (spec/stream.md section
//! 7).

use bytes::Bytes;
use futures::future::join_all;
use tensorpatch_stream::Nonce;

use crate::bucket::{Bucket, object_error};
use crate::cause::{Cause, Told};
use crate::error::StoreError;

/// Creators that try at once.
const RACERS: usize = 8;

/// Says how the store breaks create-if-absent, or `None` if it was found to keep it.
///
/// # Errors
/// If the store cannot be used at all.
pub(crate) async fn probe(bucket: &Bucket) -> Result<Option<String>, StoreError> {
    let nonce = Nonce::random();
    let (twice, race) = (format!("probe/{nonce}-twice"), format!("probe/{nonce}-race"));
    let result = match create_twice(bucket, &twice).await {
        Ok(None) => create_at_once(bucket, &race).await,
        other => other,
    };
    for name in [&twice, &race] {
        // Left-over probes are harmless, and the result is known.
        if let Err(error) = bucket.delete(name).await {
            tracing::debug!(name, %error, "could not delete a probe");
        }
    }
    result
}

async fn create_twice(bucket: &Bucket, name: &str) -> Result<Option<String>, StoreError> {
    match bucket.create(name, Bytes::from_static(b"first")).await {
        Ok(()) => {}
        Err(error) if Cause::of(&error) == Cause::NotSupported || is_about_condition(&error) => {
            return Ok(Some(format!("it does not know create-if-absent ({})", Told(&error))));
        }
        Err(source) => return Err(object_error(name, source)),
    }
    let second = bucket.create(name, Bytes::from_static(b"second")).await;
    let found = read(bucket, name).await?;
    Ok(match second {
        Ok(()) => Some("a second create under the same name succeeded".into()),
        Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
            (found != "first").then(|| "a second create was refused but replaced the first".into())
        }
        Err(source) => return Err(object_error(name, source)),
    })
}

/// Whether a store says that it cannot make anything of the header with the condition.
fn is_about_condition(error: &object_store::Error) -> bool {
    Cause::of(error) == Cause::Other && Told(error).to_string().to_ascii_lowercase().contains("if-none-match")
}

async fn create_at_once(bucket: &Bucket, name: &str) -> Result<Option<String>, StoreError> {
    let names: Vec<String> = (0..RACERS).map(|i| format!("racer {i}")).collect();
    let results = join_all(names.iter().map(|racer| bucket.create(name, Bytes::from(racer.clone())))).await;
    let found = read(bucket, name).await?;
    let winners: Vec<&String> =
        names.iter().zip(&results).filter(|(_, result)| result.is_ok()).map(|(racer, _)| racer).collect();
    Ok(match winners.as_slice() {
        [winner] => (**winner != found).then(|| "the object of the one that won a race is not there".into()),
        // A lost reply and a lost race look the same from here, so this is for the caller to repeat.
        [] => match results.into_iter().find_map(Result::err) {
            Some(source) => return Err(object_error(name, source)),
            None => Some("nobody won a race".into()),
        },
        many => Some(format!("{} of {RACERS} creators were told that they won the same name", many.len())),
    })
}

async fn read(bucket: &Bucket, name: &str) -> Result<String, StoreError> {
    let bytes = bucket.get_small(name, 1024).await?;
    let bytes = bytes.ok_or_else(|| StoreError::Missing { name: name.into() })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faulty_store::{Fault, FaultyStore};
    use object_store::memory::InMemory;
    use std::sync::Arc;

    #[tokio::test]
    async fn an_honest_store_passes_and_nothing_of_the_probe_is_left() {
        let bucket = Bucket::new(Arc::new(InMemory::new()), "a".into());
        assert_eq!(probe(&bucket).await.unwrap(), None);
        assert!(bucket.list("probe", None).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_store_that_ignores_conditions_is_found_out() {
        let store = Arc::new(FaultyStore::new(Arc::new(InMemory::new()), |_| Fault::None));
        store.ignore_conditions();
        let bucket = Bucket::new(store, "a".into());
        assert!(probe(&bucket).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_store_that_overwrites_is_found_out_by_two_creates_in_turn() {
        let store = Arc::new(FaultyStore::new(Arc::new(InMemory::new()), |_| Fault::None));
        store.ignore_conditions();
        let bucket = Bucket::new(store, "a".into());
        assert!(create_twice(&bucket, "probe/x").await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_store_that_lets_several_racers_win_is_found_out() {
        let store = Arc::new(FaultyStore::new(Arc::new(InMemory::new()), |_| Fault::None));
        store.ignore_conditions();
        let bucket = Bucket::new(store, "a".into());
        assert!(create_at_once(&bucket, "probe/x").await.unwrap().is_some());
    }
}
