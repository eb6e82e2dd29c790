//! A publisher and replicas over a local directory.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::support::{World, assert_same, v, values, write_sharded, write_single};
use tensorpatch_delta::ChangedTensor;
use tensorpatch_store::{
    ApplyMode, PublishOptions, Publisher, Replica, ReplicaOptions, StoreError, Target, Version, VersionKind,
};

fn files_under(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_under(&path)) } else { files.push(path) }
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn every_version_is_pulled_bit_for_bit_into_fresh_and_older_directories() {
    let world = World::new().await;
    world.publish_steps(5).await;
    let log = world.stream.log().await.unwrap();
    let kinds: Vec<VersionKind> = log.iter().map(|entry| entry.kind).collect();
    assert_eq!(
        kinds,
        [VersionKind::Anchor, VersionKind::Delta, VersionKind::Delta, VersionKind::Delta, VersionKind::Delta]
    );
    assert!(log[1].bytes < log[0].bytes / 10, "{log:?}");
    for mode in [ApplyMode::InPlace, ApplyMode::Beside] {
        for from in 0..=5 {
            for to in 1..=5 {
                let replica = world.replica(&format!("r-{mode:?}-{from}-{to}"), mode);
                if from > 0 {
                    replica.pull_version(v(from)).await.unwrap();
                }
                let pulled = replica.pull_version(v(to)).await.unwrap();
                assert_eq!((pulled.from, pulled.to), (Version::new(from), v(to)));
                assert_same(replica.dir(), &world.step(to));
                assert_eq!(replica.held().await.unwrap().unwrap().version, v(to));
                if from == to {
                    assert_eq!((pulled.plan_bytes, pulled.downloaded_bytes), (0, 0));
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_anchor_is_an_ordinary_checkpoint_directory() {
    let world = World::new().await;
    world.publish_steps(1).await;
    let anchors = std::fs::read_dir(world.path("bucket/anchors")).unwrap().map(|entry| entry.unwrap().path());
    // Beside the directory lies the leaf table.
    let directories: Vec<PathBuf> = anchors.filter(|path| path.is_dir()).collect();
    assert_eq!(directories.len(), 1);
    assert_same(&directories[0], &world.step(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_file_is_published_as_model_safetensors() {
    let world = World::new().await;
    let file = world.step(1).join("model.safetensors");
    let renamed = world.path("weights-at-step-1.safetensors");
    std::fs::copy(&file, &renamed).unwrap();
    world.publisher().await.publish(&renamed).await.unwrap();
    let replica = world.replica("r", ApplyMode::InPlace);
    replica.pull().await.unwrap();
    assert_eq!(
        std::fs::read(replica.dir().join("model.safetensors")).unwrap(),
        std::fs::read(&file).unwrap()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_is_resharded_and_back_is_followed() {
    let world = World::new().await;
    let publisher = world.publisher().await;
    publisher.publish(&world.step(1)).await.unwrap();
    let sharded = world.path("sharded");
    write_sharded(&sharded, 2);
    publisher.publish(&sharded).await.unwrap();
    publisher.publish(&world.step(3)).await.unwrap();
    for mode in [ApplyMode::InPlace, ApplyMode::Beside] {
        let replica = world.replica(&format!("{mode:?}"), mode);
        replica.pull_version(v(1)).await.unwrap();
        replica.pull_version(v(2)).await.unwrap();
        assert_same(replica.dir(), &sharded);
        replica.pull().await.unwrap();
        assert_same(replica.dir(), &world.step(3));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn companions_that_change_come_and_go_with_their_version() {
    let world = World::new().await;
    let publisher = world.publisher().await;
    publisher.publish(&world.step(1)).await.unwrap();
    let second = world.step(2);
    std::fs::write(second.join("config.json"), b"{\"changed\":1}").unwrap();
    std::fs::remove_file(second.join("tokenizer.json")).unwrap();
    std::fs::write(second.join("new.txt"), b"new").unwrap();
    publisher.publish(&second).await.unwrap();
    let replica = world.replica("r", ApplyMode::InPlace);
    replica.pull_version(v(1)).await.unwrap();
    assert_same(replica.dir(), &world.step(1));
    replica.pull_version(v(2)).await.unwrap();
    assert_same(replica.dir(), &second);
    replica.pull_version(v(1)).await.unwrap();
    assert_same(replica.dir(), &world.step(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_checkpoint_is_published_as_empty_if_that_is_asked_for() {
    let world = World::new().await;
    let publisher = world.publisher().await;
    publisher.publish(&world.step(1)).await.unwrap();
    let unchanged = publisher.publish(&world.step(1)).await.unwrap();
    assert_eq!((unchanged.version, unchanged.unchanged, unchanged.resumed), (v(1), true, false));
    let options = PublishOptions::default().allowing_unchanged();
    let publisher = Publisher::on(world.stream.clone(), publisher.baseline(), options).await.unwrap();
    let published = publisher.publish(&world.step(1)).await.unwrap();
    assert_eq!((published.version, published.kind), (v(2), VersionKind::Empty));
    let replica = world.replica("r", ApplyMode::InPlace);
    replica.pull().await.unwrap();
    assert_same(replica.dir(), &world.step(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_label_that_the_tip_has_already_is_not_published_again() {
    let world = World::new().await;
    let publisher = world.publisher().await;
    publisher.publish_labelled(&world.step(1), Some("one")).await.unwrap();
    let again = publisher.publish_labelled(&world.step(1), Some("one")).await.unwrap();
    assert_eq!((again.version, again.resumed), (v(1), true));
    let next = publisher.publish_labelled(&world.step(1), Some("two")).await.unwrap();
    assert_eq!((next.version, next.resumed), (v(2), false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_label_or_name_that_no_record_may_have_is_refused_before_any_work() {
    let world = World::new().await;
    let publisher = world.publisher().await;
    for label in ["", "two\nlines", &"x".repeat(257)] {
        let error = publisher.publish_labelled(&world.step(1), Some(label)).await.unwrap_err();
        assert!(matches!(error, StoreError::Text(_)), "{error}");
        let options = PublishOptions::default().with_publisher(label);
        let opened = Publisher::on(world.stream.clone(), world.path("other"), options).await;
        assert!(matches!(opened, Err(StoreError::Text(_))));
    }
    assert!(!world.path("bucket/anchors").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_baseline_that_is_missing_or_damaged_is_made_anew() {
    let world = World::new().await;
    world.publish_steps(2).await;
    std::fs::remove_dir_all(world.path("baseline")).unwrap();
    world.forget(2);
    let publisher = world.publisher().await;
    publisher.publish(&world.step(3)).await.unwrap();
    publisher.settle().await;
    world.forget(3);
    let weights = world.path("baseline/model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    publisher.publish(&world.step(4)).await.unwrap();
    publisher.settle().await;
    world.forget(4);
    // In the header, and in everything.
    damage(&weights, 16_020);
    publisher.publish(&world.step(5)).await.unwrap();
    publisher.settle().await;
    world.forget(5);
    std::fs::remove_file(&weights).unwrap();
    publisher.publish(&world.step(6)).await.unwrap();
    let replica = world.replica("r", ApplyMode::InPlace);
    replica.pull().await.unwrap();
    assert_same(replica.dir(), &world.step(6));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_another_overtook_is_told_and_can_go_on_after_catching_up() {
    let world = World::new().await;
    let one = world.publisher().await;
    one.publish(&world.step(1)).await.unwrap();
    let options = PublishOptions::default().with_publisher("other");
    let two = Publisher::on(world.stream.clone(), world.path("baseline-2"), options).await.unwrap();
    two.publish(&world.step(2)).await.unwrap();
    let error = one.publish(&world.step(3)).await.unwrap_err();
    assert!(matches!(error, StoreError::NotAtTip { held: Some(held), tip } if held == v(1) && tip == v(2)));
    one.catch_up().await.unwrap();
    assert_eq!(one.publish(&world.step(3)).await.unwrap().version, v(3));
    let replica = world.replica("r", ApplyMode::InPlace);
    replica.pull().await.unwrap();
    assert_same(replica.dir(), &world.step(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_checkpoint_is_taken_for_the_version_that_it_is() {
    let world = World::new().await;
    world.publish_steps(3).await;
    let replica = world.replica("existing", ApplyMode::InPlace);
    write_single(replica.dir(), 2);
    let pulled = replica.pull().await.unwrap();
    assert_eq!(pulled.from, Some(v(2)));
    assert!(pulled.edges.iter().all(|step| !step.anchor), "{pulled:?}");
    assert_same(replica.dir(), &world.step(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_with_something_else_is_left_alone_unless_it_may_be_replaced() {
    let world = World::new().await;
    world.publish_steps(1).await;
    let replica = world.replica("foreign", ApplyMode::InPlace);
    write_single(replica.dir(), 99);
    assert!(matches!(replica.pull().await, Err(StoreError::ForeignDirectory { .. })));
    assert_same(replica.dir(), &{
        let path = world.path("step-99");
        write_single(&path, 99);
        path
    });
    let other = world.replica("other", ApplyMode::InPlace);
    std::fs::create_dir_all(other.dir()).unwrap();
    std::fs::write(other.dir().join("thesis.txt"), b"do not lose").unwrap();
    assert!(matches!(other.pull().await, Err(StoreError::ForeignDirectory { .. })));
    let options = ReplicaOptions::default().replacing();
    let replica = Replica::of(world.stream.clone(), replica.dir(), options);
    replica.pull().await.unwrap();
    assert_same(replica.dir(), &world.step(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_refuses_another_stream() {
    let (one, two) = (World::new().await, World::new().await);
    one.publish_steps(1).await;
    two.publish_steps(1).await;
    let replica = one.replica("r", ApplyMode::InPlace);
    replica.pull().await.unwrap();
    let stranger = Replica::of(two.stream.clone(), replica.dir(), ReplicaOptions::default());
    assert!(matches!(stranger.pull().await, Err(StoreError::AnotherStream { .. })));
    assert_same(replica.dir(), &one.step(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_went_back_or_was_rewritten_is_refused() {
    let world = World::new().await;
    world.publish_steps(3).await;
    let replica = world.replica("r", ApplyMode::InPlace);
    replica.pull().await.unwrap();
    let newest = world.path("bucket/commits/00000000000000000003.json");
    let record = std::fs::read(&newest).unwrap();
    std::fs::remove_file(&newest).unwrap();
    std::fs::remove_file(world.path("bucket/latest.json")).unwrap();
    let is_behind = |error| matches!(error, StoreError::PlaceBehind { held, found, .. } if held == v(3) && found == Some(v(2)));
    assert!(is_behind(replica.pull().await.unwrap_err()));
    let altered = String::from_utf8(record).unwrap().replace("trainer", "impostor");
    std::fs::write(&newest, altered).unwrap();
    assert!(matches!(replica.pull().await, Err(StoreError::HistoryRewritten(_))));
    assert_same(replica.dir(), &world.step(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_and_missing_objects_are_reported_and_nothing_is_altered() {
    let world = World::new().await;
    world.publish_steps(2).await;
    let replica = world.replica("r", ApplyMode::InPlace);
    replica.pull_version(v(1)).await.unwrap();
    let part = files_under(&world.path("bucket/patches"))
        .into_iter()
        .find(|path| path.ends_with("delta.tpatch"))
        .unwrap();
    let good = std::fs::read(&part).unwrap();
    for flip in [0, good.len() / 2, good.len() - 1] {
        let mut bad = good.clone();
        bad[flip] ^= 0x10;
        std::fs::write(&part, bad).unwrap();
        assert!(matches!(replica.pull().await, Err(StoreError::Damaged { .. })));
        assert_same(replica.dir(), &world.step(1));
    }
    std::fs::write(&part, &good[..good.len() - 1]).unwrap();
    let error = replica.pull().await.unwrap_err();
    assert!(error.to_string().contains("delta.tpatch"), "{error}");
    std::fs::remove_file(&part).unwrap();
    let error = replica.pull().await.unwrap_err();
    assert!(error.to_string().contains("delta.tpatch"), "{error}");
    assert_same(replica.dir(), &world.step(1));
    std::fs::write(&part, &good).unwrap();
    replica.pull().await.unwrap();
    assert_same(replica.dir(), &world.step(2));
}

/// Flips a bit, at a place counted from the end.
fn damage(path: &Path, from_end: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = bytes.len() - from_end;
    bytes[at] ^= 4;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_damaged_chunks_of_a_replica_are_fetched_anew() {
    for mode in [ApplyMode::InPlace, ApplyMode::Beside] {
        let world = World::new().await;
        world.publish_steps(3).await;
        let replica = world.replica("r", mode);
        replica.pull_version(v(2)).await.unwrap();
        damage(&replica.dir().join("model.safetensors"), 100);
        let pulled = replica.pull().await.unwrap();
        assert_eq!((pulled.from, pulled.edges.len()), (Some(v(2)), 1), "{pulled:?}");
        // The patch, which was fetched before the damage was found, and what the chunk was made of.
        assert!(pulled.downloaded_bytes > pulled.plan_bytes, "{pulled:?}");
        assert_same(replica.dir(), &world.step(3));
        assert_eq!(replica.held().await.unwrap().unwrap().version, v(3));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_with_much_damage_or_a_broken_header_is_made_anew_from_an_anchor() {
    for places in [vec![100, 12_000], vec![16_000 + 20]] {
        let world = World::new().await;
        world.publish_steps(3).await;
        let replica = world.replica("r", ApplyMode::InPlace);
        replica.pull_version(v(2)).await.unwrap();
        for place in places {
            damage(&replica.dir().join("model.safetensors"), place);
        }
        let pulled = replica.pull().await.unwrap();
        assert!(pulled.edges[0].anchor, "{pulled:?}");
        assert_same(replica.dir(), &world.step(3));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn preparing_alters_nothing_and_activating_is_all_that_is_left() {
    let world = World::new().await;
    world.publish_steps(2).await;
    for mode in [ApplyMode::InPlace, ApplyMode::Beside] {
        let replica = world.replica(&format!("{mode:?}"), mode);
        replica.pull_version(v(1)).await.unwrap();
        let prepared = replica.prepare(Target::Latest).await.unwrap();
        assert!(prepared.is_needed());
        assert_same(replica.dir(), &world.step(1));
        std::fs::rename(world.path("bucket"), world.path("away")).unwrap();
        replica.activate(prepared).await.unwrap();
        std::fs::rename(world.path("away"), world.path("bucket")).unwrap();
        assert_same(replica.dir(), &world.step(2));
        // One that is prepared and dropped leaves the old version, whatever comes next.
        replica.pull_version(v(1)).await.unwrap();
        drop(replica.prepare(Target::Latest).await.unwrap());
        assert_eq!(replica.held().await.unwrap().unwrap().version, v(1));
        assert!(!replica.dir().join(".tensorpatch/journal").exists());
        assert_same(replica.dir(), &world.step(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_share_a_directory_do_the_work_once() {
    let world = World::new().await;
    world.publish_steps(2).await;
    let replicas: Vec<Replica> = (0..4).map(|_| world.replica("shared", ApplyMode::InPlace)).collect();
    let pulls = replicas.iter().map(|replica| replica.pull());
    let pulled: Vec<_> = futures::future::try_join_all(pulls).await.unwrap();
    assert_eq!(pulled.iter().filter(|pulled| pulled.downloaded_bytes > 0).count(), 1);
    assert_same(replicas[0].dir(), &world.step(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_that_do_not_exist_are_named() {
    let world = World::new().await;
    let replica = world.replica("r", ApplyMode::InPlace);
    assert!(matches!(replica.pull().await, Err(StoreError::Empty)));
    world.publish_steps(1).await;
    let error = replica.pull_version(v(7)).await.unwrap_err();
    assert_eq!(error.to_string(), "the stream has no version 7: the newest is 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_prepared_version_changes_is_told_before_it_is_activated() {
    let world = World::new().await;
    let publisher = world.publisher().await;
    publisher.publish(&world.step(1)).await.unwrap();
    for mode in [ApplyMode::InPlace, ApplyMode::Beside] {
        let replica = world.replica(&format!("told-{mode:?}"), mode);
        replica.pull_version(v(1)).await.unwrap();
        for step in 2..=3 {
            publisher.publish(&world.step(step)).await.unwrap();
        }
        let prepared = replica.prepare(Target::Latest).await.unwrap();
        let mut held: BTreeMap<&str, Vec<u8>> =
            BTreeMap::from([("a", values(1, 1, 3000)), ("b.weight", values(2, 1, 5000))]);
        let scatter = |tensor: ChangedTensor| {
            let bytes = held.get_mut(tensor.spec.name.as_str()).unwrap();
            for (position, value) in tensor.positions.unwrap().iter().zip(tensor.values.chunks(2)) {
                let at = usize::try_from(*position).unwrap() * 2;
                bytes[at..at + 2].copy_from_slice(value);
            }
            ControlFlow::Continue(())
        };
        prepared.visit_changed(|_| true, scatter).unwrap();
        assert!(held["a"] == values(1, 3, 3000) && held["b.weight"] == values(2, 3, 5000), "{mode:?}");
        let mut seen = Vec::new();
        let see = |tensor: ChangedTensor| {
            seen.push(tensor.spec.name);
            ControlFlow::Break(())
        };
        prepared.visit_changed(|name| name != "a", see).unwrap();
        assert_eq!(seen, ["b.weight"]);
        replica.activate(prepared).await.unwrap();
        assert_same(replica.dir(), &world.step(3));
        let nothing = replica.prepare(Target::Latest).await.unwrap();
        nothing.visit_changed(|_| true, |_| panic!("nothing changes")).unwrap();
    }
}
