//! Handing a stream over while others are at work, to keys that were used before, and with a bucket that
//! hides what is new.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::attacks::{hand_over, publish, signed, trusting, url};
use crate::support::{World, assert_same, v};
use tensorpatch_store::{
    AnchorPolicy, Follow, NewKey, OldKey, PublishOptions, Publisher, Replica, ReplicaOptions, SignKey,
    SignedTip, StoreError, Stream, signed_tips_in,
};

fn keys<const N: usize>() -> [SignKey; N] {
    [(); N].map(|()| SignKey::generate())
}

async fn handed_over(
    world: &World,
    (old, new): (OldKey, NewKey),
    last: Option<u64>,
) -> Result<u64, StoreError> {
    let stream = Stream::builder(url(world)).trust_keys([old.public()]).open().await?;
    Ok(stream.hand_over(&old, new, last.map(v)).await?.last.get())
}

fn commit_path(world: &World, version: u64) -> PathBuf {
    world.path(&format!("bucket/commits/{version:020}.json"))
}

async fn publisher(world: &World, key: &SignKey, tips: &Path) -> Result<Publisher, StoreError> {
    let options = PublishOptions::default().with_anchors(AnchorPolicy::NEVER);
    let builder = Publisher::builder(url(world)).sign_key(key.clone()).signed_tips(tips).options(options);
    builder.baseline(world.path("baseline")).open().await
}

async fn follow(world: &World, key: &SignKey) -> Follow {
    let stream = trusting(&url(world), key).await;
    Replica::of(stream, world.path("follower"), ReplicaOptions::default()).follow()
}

/// Hides a version.
fn hide(world: &World, version: u64) {
    std::fs::remove_file(commit_path(world, version)).unwrap();
    let _ = std::fs::remove_file(world.path("bucket/latest.json"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_handed_over_once_and_to_a_key_that_it_did_not_have() {
    let [first, second, third] = keys();
    let world = signed(&first).await;
    world.publish_steps(2).await;
    hand_over(&world, &first, &second).await;
    let agrees = |key: &SignKey| OldKey::Agrees(key.clone());
    // The first key has handed it over; another handover would stop all who trust it.
    let error = handed_over(&world, (agrees(&first), (&third).into()), None).await.unwrap_err();
    assert!(matches!(error, StoreError::RetiredKey { .. }), "{error}");
    // Who knows the second could hide that the first took over from it again.
    for used in [&first, &second] {
        let error = handed_over(&world, (agrees(&second), used.into()), None).await.unwrap_err();
        assert!(matches!(error, StoreError::UsedKey { .. }), "{error}");
    }
    // The same once more, because others have signed with the first key before, is none of that.
    let again = handed_over(&world, (agrees(&first), (&second).into()), Some(2)).await;
    assert_eq!(again.unwrap(), 2);
    let gone = OldKey::Gone(second.public());
    assert_eq!(handed_over(&world, (gone, (&third).into()), None).await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_hides_its_newest_version_is_not_handed_over_and_the_new_key_knows_where_it_begins() {
    let [old, new] = keys();
    let world = signed(&old).await;
    let (old_tips, new_tips) = (world.path("old.tips"), world.path("new.tips"));
    for step in 1..=3 {
        publisher(&world, &old, &old_tips).await.unwrap().publish(&world.step(step)).await.unwrap();
    }
    let kept = std::fs::read(commit_path(&world, 3)).unwrap();
    hide(&world, 3);
    let builder = Stream::builder(url(&world)).trust_keys([old.public()]).signed_tips(&old_tips);
    let stream = builder.open().await.unwrap();
    let (from, to) = (OldKey::Agrees(old.clone()), NewKey::from(&new).with_signed_tips(&new_tips));
    for last in [None, Some(v(2))] {
        let error = stream.hand_over(&from, to.clone(), last).await.unwrap_err();
        assert!(matches!(error, StoreError::HiddenTip { .. }), "{error}");
    }
    std::fs::write(commit_path(&world, 3), kept).unwrap();
    assert_eq!(stream.hand_over(&from, to, None).await.unwrap().last, v(3));
    let noted: Vec<SignedTip> = signed_tips_in(&new_tips).unwrap().into_values().collect();
    assert_eq!(noted.iter().map(|tip| tip.version).collect::<Vec<_>>(), [v(3)]);
    hide(&world, 3);
    std::fs::remove_dir_all(world.path("baseline")).unwrap();
    let error = publisher(&world, &new, &new_tips).await.unwrap_err();
    assert!(matches!(error, StoreError::HiddenTip { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_while_a_stream_is_handed_over_still_counts() {
    let [old, new] = keys();
    let world = signed(&old).await;
    world.publish_steps(1).await;
    let unknowing = publisher(&world, &old, &world.path("tips")).await.unwrap();
    let handing = handed_over(&world, (OldKey::Agrees(old.clone()), (&new).into()), None);
    let publishing = async {
        // Until the handover is there.
        while std::fs::read_dir(world.path("bucket/handovers")).map_or(0, Iterator::count) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        unknowing.publish(&world.step(2)).await.unwrap();
    };
    let (last, ()) = tokio::join!(handing, publishing);
    assert_eq!(last.unwrap(), 2);
    publish(&world, &new, 3).await;
    for (dir, key) in [("old", &old), ("new", &new)] {
        let replica =
            Replica::of(trusting(&url(&world), key).await, world.path(dir), ReplicaOptions::default());
        assert_eq!(replica.pull().await.unwrap().to, v(3));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_is_at_work_for_long_looks_whether_its_key_still_counts() {
    let [old, new] = keys();
    let world = signed(&old).await;
    world.publish_steps(1).await;
    let unknowing = publisher(&world, &old, &world.path("tips")).await.unwrap();
    // Longer than it signs without looking.
    hand_over(&world, &old, &new).await;
    let error = unknowing.publish(&world.step(2)).await.unwrap_err();
    assert!(matches!(error, StoreError::RetiredKey { .. }), "{error}");
    assert!(!commit_path(&world, 2).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_goes_on_with_the_key_that_took_over_and_takes_nothing_from_the_old_one() {
    let [old, new] = keys();
    let world = signed(&old).await;
    world.publish_steps(1).await;
    let mut versions = follow(&world, &old).await;
    assert_eq!(versions.next().await.unwrap().unwrap().to, v(1));
    hand_over(&world, &old, &new).await;
    publish(&world, &new, 2).await;
    assert_eq!(versions.next().await.unwrap().unwrap().to, v(2));
    steal(&world, &old).await;
    let error = versions.next().await.unwrap_err();
    assert!(matches!(error, StoreError::Untrusted { .. }), "{error}");
    assert_same(&world.path("follower"), &world.step(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_takes_nothing_from_a_key_that_was_handed_over_since_it_began() {
    let [old, new] = keys();
    let world = signed(&old).await;
    world.publish_steps(1).await;
    let mut versions = follow(&world, &old).await;
    assert_eq!(versions.next().await.unwrap().unwrap().to, v(1));
    hand_over(&world, &old, &new).await;
    steal(&world, &old).await;
    let error = versions.next().await.unwrap_err();
    assert!(matches!(error, StoreError::Untrusted { .. }), "{error}");
    assert_same(&world.path("follower"), &world.step(1));
}

/// Who has found an old key writes the next version to the bucket.
async fn steal(world: &World, old: &SignKey) {
    let stolen = Stream::builder(url(world)).open().await.unwrap().signing(old.clone());
    let options = PublishOptions::default().with_anchors(AnchorPolicy::NEVER);
    let thief = Publisher::on(stolen, world.path("thief"), options).await.unwrap();
    thief.publish(&world.step(30)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_the_same_key_in_the_place_of_another_is_not_published_to() {
    let [key] = keys();
    let (ours, theirs) = (signed(&key).await, signed(&key).await);
    let (tips, bucket) = (ours.path("key.tips"), ours.path("bucket"));
    for world in [&ours, &theirs] {
        publisher(world, &key, &tips).await.unwrap().publish(&world.step(1)).await.unwrap();
    }
    let copy = |from: &Path| {
        let _ = std::fs::remove_dir_all(&bucket);
        let copied = std::process::Command::new("cp").arg("-r").args([from, &bucket]).status().unwrap();
        assert!(copied.success());
    };
    let kept = ours.path("kept");
    std::fs::rename(&bucket, &kept).unwrap();
    // Nothing is there any more: none is created in its place.
    let error = publisher(&ours, &key, &tips).await.unwrap_err();
    assert!(matches!(error, StoreError::Removed { .. }), "{error}");
    assert!(!bucket.join("stream.json").exists());
    // The other one is.
    copy(&theirs.path("bucket"));
    let error = publisher(&ours, &key, &tips).await.unwrap_err();
    assert!(matches!(error, StoreError::WrongStream { .. }), "{error}");
    // In a place that the key does not know, a stream that it knows from elsewhere.
    let fresh = signed(&SignKey::generate()).await;
    std::fs::remove_dir_all(fresh.path("bucket")).unwrap();
    std::fs::rename(&bucket, fresh.path("bucket")).unwrap();
    let error = publisher(&fresh, &key, &tips).await.unwrap_err();
    assert!(matches!(error, StoreError::Moved { .. }), "{error}");
    // Who says which stream is meant has moved it.
    let id = theirs.stream.id();
    let moved = Publisher::builder(url(&fresh)).sign_key(key.clone()).signed_tips(&tips).stream(id);
    let moved = moved.baseline(fresh.path("baseline")).open().await.unwrap();
    moved.publish(&fresh.step(2)).await.unwrap();
    publisher(&fresh, &key, &tips).await.unwrap();
    copy(&kept);
    publisher(&ours, &key, &tips).await.unwrap();
}
