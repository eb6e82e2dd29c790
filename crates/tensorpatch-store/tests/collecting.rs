//! Collectors after collectors, with pins, and with leases of replicas that come back late.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::time::Duration;

use support::{World, assert_same, v};
use tensorpatch_store::{
    AnchorPolicy, ApplyMode, LeaseOptions, Replica, ReplicaOptions, Target,
    upkeep::{self, CollectOptions},
};

/// Eight versions with anchors of 1, 4 and 7, each with a configuration of its own.
async fn configured_world() -> World {
    let world = World::new().await;
    let publisher = world.anchoring(AnchorPolicy::every(3)).await;
    for step in 1..=8 {
        publisher.publish(&configured(&world, step)).await.unwrap();
    }
    world
}

fn configured(world: &World, step: u64) -> std::path::PathBuf {
    let dir = world.step(step);
    std::fs::write(dir.join("config.json"), format!("{{\"step\":{step}}}")).unwrap();
    dir
}

async fn assert_pulled(world: &World, version: u64) {
    let replica = world.replica(&format!("fresh-{version}"), ApplyMode::InPlace);
    replica.pull(Target::Version(v(version))).await.unwrap();
    assert_same(replica.dir(), &configured(world, version));
}

#[tokio::test(flavor = "multi_thread")]
async fn keeping_more_than_before_is_not_refused_for_what_was_collected_already() {
    let world = configured_world().await;
    let report =
        upkeep::collect(&world.stream, &CollectOptions::default().keeping(1).deleting()).await.unwrap();
    assert_eq!(report.floor, v(7));
    let report =
        upkeep::collect(&world.stream, &CollectOptions::default().keeping(100).deleting()).await.unwrap();
    assert_eq!(report.floor, v(7));
    // A pin keeps an old anchor, but not what led on from it.
    let world = configured_world().await;
    let pinned = CollectOptions::default().pinning(v(2)).deleting();
    upkeep::collect(&world.stream, &pinned.clone().keeping(1)).await.unwrap();
    let report = upkeep::collect(&world.stream, &pinned.keeping(100)).await.unwrap();
    assert_eq!(report.floor, v(7));
    for version in [2, 7, 8] {
        assert_pulled(&world, version).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_comes_back_after_its_version_was_collected_stops_no_collector() {
    let world = configured_world().await;
    let lease = LeaseOptions { holder: "engine".into(), length: Duration::from_secs(600) };
    let options = ReplicaOptions::default().with_lease(lease);
    let replica = Replica::open(world.stream.clone(), world.path("leased"), options);
    replica.pull(Target::Version(v(2))).await.unwrap();
    replica.release().await.unwrap();
    let policy = CollectOptions::default().keeping(1).deleting();
    upkeep::collect(&world.stream, &policy).await.unwrap();
    replica.pull(Target::Version(v(2))).await.unwrap();
    let report = upkeep::collect(&world.stream, &policy).await.unwrap();
    assert_eq!((report.floor, report.leases), (v(7), vec!["engine".to_owned()]));
    replica.pull(Target::Latest).await.unwrap();
    assert_same(replica.dir(), &configured(&world, 8));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pruning_record_that_lies_costs_nothing_that_is_kept() {
    let world = configured_world().await;
    let pruned = world.path("bucket/pruned");
    std::fs::create_dir_all(&pruned).unwrap();
    std::fs::write(pruned.join(format!("{:020}-{}.json", 8, "ab".repeat(16))), r#"{"floor":8}"#).unwrap();
    let report =
        upkeep::collect(&world.stream, &CollectOptions::default().keeping(100).deleting()).await.unwrap();
    assert_eq!((report.floor, report.garbage.len()), (v(1), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_version_can_be_pulled_though_the_files_beside_the_weights_changed_on_the_way() {
    let world = configured_world().await;
    upkeep::collect(&world.stream, &CollectOptions::default().keeping(1).pinning(v(3)).deleting())
        .await
        .unwrap();
    assert_pulled(&world, 3).await;
    let old = world.replica("fresh-3", ApplyMode::Beside);
    old.pull(Target::Latest).await.unwrap();
    assert_same(old.dir(), &configured(&world, 8));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_of_any_size_stops_no_collector() {
    let world = configured_world().await;
    let leases = world.path("bucket/leases");
    std::fs::create_dir_all(&leases).unwrap();
    std::fs::write(leases.join("x.json"), vec![b'x'; 100_000]).unwrap();
    let report = upkeep::collect(&world.stream, &CollectOptions::default().keeping(1)).await.unwrap();
    // It cannot be read, so it may need anything as long as it is young.
    assert_eq!((report.floor, report.leases.len()), (v(1), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_whose_name_is_not_ascii_is_found_in_lists_and_collected() {
    let world = World::new().await;
    let publisher = world.publisher().await;
    let checkpoint = world.step(1);
    std::fs::write(checkpoint.join("größe 1.json"), "{}").unwrap();
    publisher.publish(&checkpoint).await.unwrap();
    let names = |folder: &str| -> Vec<String> {
        let dirs = std::fs::read_dir(world.path(&format!("bucket/{folder}"))).unwrap();
        let files = dirs.map(|dir| dir.unwrap().path()).filter(|path| path.is_dir());
        files
            .flat_map(|dir| std::fs::read_dir(dir).unwrap())
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    for folder in ["anchors", "companions"] {
        assert!(names(folder).contains(&"größe 1.json".to_owned()), "{:?}", names(folder));
    }
    let replica = world.replica("r", ApplyMode::InPlace);
    replica.pull(Target::Latest).await.unwrap();
    assert_same(replica.dir(), &checkpoint);
    publisher.publish(&world.step(2)).await.unwrap();
    std::fs::remove_file(world.step(3).join("größe 1.json")).unwrap_or_default();
    publisher.publish(&world.step(3)).await.unwrap();
    publisher.add_anchor().await.unwrap();
    upkeep::collect(&world.stream, &CollectOptions::default().keeping(1).deleting()).await.unwrap();
    assert!(!names("companions").contains(&"größe 1.json".to_owned()));
}
