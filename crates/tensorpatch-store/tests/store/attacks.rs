//! Somebody who can write to the bucket, or to the directories of others, with a plan: what they would gain
//! by old keys, by records that other commands read, and by what a reader looks for without end.

use std::path::PathBuf;

use crate::support::{World, assert_same, v};
use tensorpatch_store::upkeep::{self, CollectOptions, MirrorOptions};
use tensorpatch_store::{
    Anchor, AnchorPolicy, CommitRecord, EdgeRecord, JsonRecord, Link, NamedObject, ObjectDigest, ObjectRef,
    OldKey, Policy, PublishOptions, Publisher, Replica, ReplicaOptions, SignKey, StoreError, Stream,
};
use tensorpatch_stream::names;
use tensorpatch_stream::trust::HandoverRecord;

pub(crate) fn url(world: &World) -> String {
    world.path("bucket").to_str().unwrap().to_owned()
}

/// A world whose stream `key` has signed.
pub(crate) async fn signed(key: &SignKey) -> World {
    let mut world = World::new().await;
    std::fs::remove_dir_all(world.path("bucket")).unwrap();
    world.stream = Stream::builder(url(&world)).sign_key(key.clone()).open_or_create().await.unwrap();
    world
}

pub(crate) async fn trusting(url: &str, key: &SignKey) -> Stream {
    Stream::builder(url).trust_keys([key.public()]).open().await.unwrap()
}

pub(crate) async fn hand_over(world: &World, old: &SignKey, new: &SignKey) {
    let stream = trusting(&url(world), old).await;
    stream.hand_over(&OldKey::Agrees(old.clone()), new, None).await.unwrap();
}

pub(crate) async fn publish(world: &World, key: &SignKey, step: u64) {
    let options = PublishOptions::default().with_anchors(AnchorPolicy::NEVER);
    let builder = Publisher::builder(url(world)).sign_key(key.clone()).options(options);
    builder.baseline(world.path("baseline")).open().await.unwrap().publish(&world.step(step)).await.unwrap();
}

async fn assert_pulled(world: &World, stream: &Stream, dir: &str, version: u64) {
    let replica = Replica::of(stream.clone(), world.path(dir), ReplicaOptions::default());
    replica.pull_version(v(version)).await.unwrap();
    assert_same(replica.dir(), &world.step(version));
}

fn commit_path(world: &World, version: u64) -> PathBuf {
    world.path(&format!("bucket/commits/{version:020}.json"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_stream_that_was_handed_over_is_read_with_either_key() {
    let (old, new) = (SignKey::generate(), SignKey::generate());
    let world = signed(&old).await;
    world.publish_steps(2).await;
    let (copy, options) = (world.path("copy"), MirrorOptions::new(world.path("work")));
    let mirror = async |key: &SignKey| {
        upkeep::mirror_to(&trusting(&url(&world), key).await, copy.to_str().unwrap(), &options).await.unwrap()
    };
    mirror(&old).await;
    hand_over(&world, &old, &new).await;
    publish(&world, &new, 3).await;
    // What is none is not copied.
    std::fs::write(world.path("bucket/handovers/x.json"), "{}").unwrap();
    assert_eq!(mirror(&new).await.to, Some(v(3)));
    assert!(!copy.join("handovers/x.json").exists());
    for (dir, key) in [("old", &old), ("new", &new)] {
        assert_pulled(&world, &trusting(copy.to_str().unwrap(), key).await, dir, 3).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_between_two_others_has_no_good_versions_taken_back() {
    let [first, second, third] = [(); 3].map(|()| SignKey::generate());
    let world = signed(&first).await;
    world.publish_steps(3).await;
    hand_over(&world, &first, &second).await;
    hand_over(&world, &second, &third).await;
    // Whoever has found the second key says that the first one counted up to version 1 only.
    let stream = trusting(&url(&world), &third).await;
    let link =
        Link { version: v(1), commit: ObjectDigest::of(&std::fs::read(commit_path(&world, 1)).unwrap()) };
    let forged = HandoverRecord {
        stream: stream.id(),
        created: 0,
        from: first.public(),
        to: second.public(),
        last: link,
        consent: None,
    };
    let bytes = forged.to_signed_bytes(&second, None).unwrap();
    std::fs::write(world.path(&format!("bucket/handovers/{:020}-{}.json", 1, "ab".repeat(16))), bytes)
        .unwrap();
    let stream = trusting(&url(&world), &third).await.signing(third.clone());
    let error = upkeep::roll_back_unsigned(&stream, &Default::default()).await.unwrap_err();
    assert!(matches!(error, StoreError::Untrusted { .. }), "{error}");
    assert!((1..=3).all(|version| commit_path(&world, version).exists()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_anchor_that_an_old_key_has_signed_is_read_as_a_checkpoint_before_others_go() {
    let (old, new) = (SignKey::generate(), SignKey::generate());
    let world = signed(&old).await;
    world.publish_steps(2).await;
    hand_over(&world, &old, &new).await;
    publish(&world, &new, 3).await;
    let stream = trusting(&url(&world), &new).await;
    let target = stream.commit(v(2)).await.unwrap().unwrap();
    // Its objects are what the record says, and no checkpoint.
    let nonce = "cd".repeat(16).parse().unwrap();
    let put = |name: &str| {
        let key = names::anchor(v(2), nonce, name).unwrap();
        let path = world.path("bucket").join(key.as_str());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"x").unwrap();
        ObjectRef { key, bytes: 1, blake3: ObjectDigest::of(b"x") }
    };
    let files = vec![NamedObject { name: "model.safetensors".into(), object: put("model.safetensors") }];
    let record = EdgeRecord {
        stream: stream.id(),
        target: target.id(),
        publisher: "mallory".into(),
        nonce,
        created: 0,
        delta: None,
        anchor: Some(Anchor { files, leaves: put("leaves") }),
    };
    let path = world.path("bucket").join(names::edge(v(2), None, nonce));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, old.sign(EdgeRecord::FORMAT, record.to_bytes().unwrap())).unwrap();
    let collecting = CollectOptions::default().keeping(2).deleting();
    assert!(upkeep::collect(&stream, &collecting).await.is_err());
    for version in [1, 2, 3] {
        assert_pulled(&world, &stream, &format!("r-{version}"), version).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_versions_without_end_are_read_up_to_a_limit() {
    let world = World::new().await;
    world.publish_steps(1).await;
    let bytes = std::fs::read(commit_path(&world, 1)).unwrap();
    let first = CommitRecord::parse(&bytes).unwrap();
    for number in 2..=200_u64 {
        let mut record = first.clone();
        record.version = v(number);
        record.previous = Some(Link { version: v(number - 1), commit: ObjectDigest::of(b"") });
        std::fs::write(commit_path(&world, number), record.to_bytes().unwrap()).unwrap();
    }
    std::fs::remove_file(world.path("bucket/latest.json")).unwrap();
    // A list that ends early, as one may.
    std::fs::write(world.path("bucket/latest.json"), br#"{"version":1}"#).unwrap();
    let mut policy = Policy::default();
    policy.plans.max_history_bytes = 4 * bytes.len() as u64;
    let stream = world.stream.clone().with_policy(policy);
    let error = stream.tip().await.unwrap_err();
    assert!(matches!(error, StoreError::HistoryBytes { .. }), "{error}");
    assert_eq!(world.stream.tip().await.unwrap().unwrap().record.version, v(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_records_are_read_up_to_the_same_limit_as_versions() {
    let world = World::new().await;
    world.publish_steps(2).await;
    let second = world.stream.commit(v(2)).await.unwrap().unwrap();
    let (mut bytes, edges) = (0, world.path("bucket/edges"));
    std::fs::create_dir_all(&edges).unwrap();
    for number in 0..100_u64 {
        let record = EdgeRecord {
            stream: second.record.stream,
            target: second.id(),
            publisher: "mallory".into(),
            nonce: format!("{number:032x}").parse().unwrap(),
            created: 0,
            delta: second.record.delta.clone(),
            anchor: None,
        };
        let record_bytes = record.to_bytes().unwrap();
        bytes += record_bytes.len() as u64;
        let name = names::edge(v(2), Some(v(1)), record.nonce);
        std::fs::write(world.path("bucket").join(name), record_bytes).unwrap();
    }
    let commits = [1, 2].map(|version| std::fs::metadata(commit_path(&world, version)).unwrap().len());
    bytes += commits.iter().sum::<u64>();
    for (most, fits) in [(bytes, true), (bytes - 1, false)] {
        let mut policy = Policy::default();
        policy.plans.max_history_bytes = most;
        let stream = world.stream.clone().with_policy(policy);
        let replica = Replica::of(stream, world.path(&format!("r-{fits}")), ReplicaOptions::default());
        let refused = replica.pull().await.err();
        assert!(refused.is_none() == fits, "{refused:?}");
        assert!(refused.is_none_or(|error| matches!(error, StoreError::HistoryBytes { .. })));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_trusts_both_keys_takes_the_old_one_where_the_handover_is_hidden() {
    let (old, new) = (SignKey::generate(), SignKey::generate());
    let world = signed(&old).await;
    world.publish_steps(2).await;
    hand_over(&world, &old, &new).await;
    let stolen = Stream::builder(url(&world)).open().await.unwrap().signing(old.clone());
    let options = PublishOptions::default().with_anchors(AnchorPolicy::NEVER);
    let thief = Publisher::on(stolen, world.path("thief"), options).await.unwrap();
    thief.publish(&world.step(30)).await.unwrap();
    let open = async |keys: &[&SignKey]| {
        Stream::builder(url(&world)).trust_keys(keys.iter().map(|key| key.public())).open().await
    };
    let tip = async |keys: &[&SignKey]| open(keys).await?.tip().await;
    let is_untrusted = |found: Result<_, StoreError>| matches!(found, Err(StoreError::Untrusted { .. }));
    assert!(is_untrusted(tip(&[&old, &new]).await) && is_untrusted(tip(&[&new]).await));
    std::fs::remove_dir_all(world.path("bucket/handovers")).unwrap();
    // Nothing tells, so SECURITY.md says to trust the new one in the place of the old one.
    assert_eq!(tip(&[&old, &new]).await.unwrap().unwrap().record.version, v(3));
    assert!(is_untrusted(tip(&[&new]).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_somebody_overwrites_holds_nothing_back() {
    let world = World::new().await;
    world.publish_steps(2).await;
    world.publisher().await.add_anchor().await.unwrap();
    let options = ReplicaOptions::default().with_lease("engine");
    Replica::of(world.stream.clone(), world.path("r"), options).pull_version(v(1)).await.unwrap();
    let collecting = CollectOptions::default().keeping(1);
    let floor = async || upkeep::collect(&world.stream, &collecting).await.unwrap().floor;
    assert_eq!(floor().await, v(1));
    let lease = std::fs::read_dir(world.path("bucket/leases")).unwrap().next().unwrap().unwrap();
    let forged = r#"{"holder":"engine","version":9,"target":9,"seconds":604800}"#;
    std::fs::write(lease.path(), forged).unwrap();
    assert_eq!(floor().await, v(2));
}
