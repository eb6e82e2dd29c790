//! Versions that are taken back, and versions of the owner's that are not.

use crate::support::{World, v};
use tensorpatch_store::upkeep::{RollbackOptions, roll_back_unsigned};
use tensorpatch_store::{CreateOptions, Policy, Publisher, SignKey, StoreError, Stream, open_store};

/// A signed stream of three versions, and the handle of its owner, who notes what is signed.
async fn owned(world: &World, key: &SignKey) -> Stream {
    let url = world.path("signed");
    let (store, prefix) = open_store(url.to_str().unwrap(), &Policy::default()).unwrap();
    let options = CreateOptions::default().with_sign_key(key.clone());
    Stream::create(store, prefix, options).await.unwrap();
    let url = url.to_str().unwrap();
    let builder = Publisher::builder(url).sign_key(key.clone()).signed_tips(world.path("key.tips"));
    let publisher = builder.baseline(world.path("owner's")).open().await.unwrap();
    for step in 1..=3 {
        publisher.publish(&world.step(step)).await.unwrap();
    }
    let builder = Stream::builder(url).sign_key(key.clone()).signed_tips(world.path("key.tips"));
    builder.open().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_of_the_owners_is_given_up_only_when_that_is_asked_for() {
    let (world, key) = (World::new().await, SignKey::generate());
    let stream = owned(&world, &key).await;
    let record = world.path(&format!("signed/commits/{:020}.json", 3));
    let whole = std::fs::read(&record).unwrap();
    let text = String::from_utf8(whole.clone()).unwrap();
    let unsigned = format!("{}}}", text.split_once(",\"signature\"").unwrap().0);
    let altered = text.replacen("\"nonce\":\"", "\"nonce\":\"0", 1);
    let options = RollbackOptions::default();
    for bytes in [b"junk".as_slice(), b"", &whole[..whole.len() / 2], unsigned.as_bytes(), altered.as_bytes()]
    {
        std::fs::write(&record, bytes).unwrap();
        let error = roll_back_unsigned(&stream, &options).await.unwrap_err();
        assert!(matches!(error, StoreError::NotTakenBack { .. }), "{error}");
        assert_eq!(std::fs::read(&record).unwrap(), bytes);
    }
    let rolled_back = roll_back_unsigned(&stream, &options.forced()).await.unwrap();
    assert_eq!((rolled_back.tip, rolled_back.removed), (Some(v(2)), vec![v(3)]));
    // What was noted is forgotten as well, or nothing could be published.
    assert_eq!(stream.tip().await.unwrap().unwrap().record.version, v(2));
    let noted = tensorpatch_store::signed_tips_in(&world.path("key.tips")).unwrap();
    assert_eq!(noted[&stream.id()].version, v(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_not_signed_has_no_owner() {
    let (world, key) = (World::new().await, SignKey::generate());
    world.publish_steps(1).await;
    let error = roll_back_unsigned(&world.stream.clone().signing(key.clone()), &Default::default()).await;
    assert!(matches!(error, Err(StoreError::OnlySigned { .. })));
    let error = world.stream.clone().trusting(vec![key.public()]).await;
    assert!(matches!(error, Err(StoreError::NotSigned { .. })));
}
