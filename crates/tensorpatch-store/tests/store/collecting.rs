//! Collectors after collectors, with pins, and with leases of replicas that come back late.

use crate::support::{World, assert_same, v};
use tensorpatch_store::{
    Anchor, AnchorPolicy, ApplyMode, Commit, EdgeRecord, JsonRecord, NamedObject, ObjectDigest, ObjectRef,
    Policy, Replica, ReplicaOptions, SignKey, StoreError, Stream,
    upkeep::{self, CheckOptions, CollectOptions},
};
use tensorpatch_stream::names;

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
    replica.pull_version(v(version)).await.unwrap();
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
    let options = ReplicaOptions::default().with_lease("engine");
    let replica = Replica::of(world.stream.clone(), world.path("leased"), options);
    replica.pull_version(v(2)).await.unwrap();
    replica.release().await.unwrap();
    let policy = CollectOptions::default().keeping(1).deleting();
    upkeep::collect(&world.stream, &policy).await.unwrap();
    replica.pull_version(v(2)).await.unwrap();
    let report = upkeep::collect(&world.stream, &policy).await.unwrap();
    let holders: Vec<&str> = report.leases.iter().map(|lease| lease.holder.as_str()).collect();
    assert_eq!((report.floor, holders), (v(7), vec!["engine"]));
    replica.pull().await.unwrap();
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
async fn a_pruning_record_that_lies_releases_nothing_that_is_there_though_something_is_gone() {
    let world = configured_world().await;
    let patches = world.path("bucket/patches");
    let of_second = |path: &std::path::PathBuf| path.to_str().unwrap().contains(&format!("/{:020}-", 2));
    let second = std::fs::read_dir(&patches).unwrap().map(|dir| dir.unwrap().path()).find(of_second);
    std::fs::remove_dir_all(second.unwrap()).unwrap();
    let pruned = world.path("bucket/pruned");
    std::fs::create_dir_all(&pruned).unwrap();
    std::fs::write(pruned.join(format!("{:020}-{}.json", 7, "ab".repeat(16))), r#"{"floor":7}"#).unwrap();
    let report =
        upkeep::collect(&world.stream, &CollectOptions::default().keeping(100).deleting()).await.unwrap();
    assert_eq!(report.floor, v(7));
    for version in [1, 4, 5, 7, 8] {
        assert_pulled(&world, version).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pruning_record_excuses_nothing_in_a_check_unless_an_anchor_of_its_floor_is_whole() {
    let world = configured_world().await;
    let objects = |folder: &str, version: u64| {
        let of_version = format!("/{version:020}-");
        let all = std::fs::read_dir(world.path(&format!("bucket/{folder}")))
            .unwrap()
            .map(|dir| dir.unwrap().path());
        all.filter(|path| path.to_str().unwrap().contains(&of_version)).collect::<Vec<_>>()
    };
    let remove = |paths: Vec<std::path::PathBuf>| {
        assert!(!paths.is_empty());
        for path in paths {
            // The leaf table of an anchor is a file beside its directory.
            if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.unwrap();
        }
    };
    let claim = |floor: u64| {
        let pruned = world.path("bucket/pruned");
        std::fs::create_dir_all(&pruned).unwrap();
        let name = format!("{floor:020}-{}.json", "ab".repeat(16));
        std::fs::write(pruned.join(name), format!("{{\"floor\":{floor}}}")).unwrap();
    };
    let options = CheckOptions::default();
    let check = || upkeep::check(&world.stream, &options);
    remove(objects("patches", 2));
    // No anchor is of version 3.
    claim(3);
    let checked = check().await.unwrap();
    let names: Vec<&str> = checked.problems.iter().map(|problem| problem.name.as_str()).collect();
    assert!(names.contains(&"pruned") && names.iter().any(|name| name.starts_with("patches/")), "{names:?}");
    assert_eq!((checked.pruned_below, checked.excused, checked.is_sound()), (None, 0, false));
    // One is of version 4: that is what a collector leaves, and what is excused is counted.
    claim(4);
    let checked = check().await.unwrap();
    assert_eq!((checked.pruned_below, checked.excused, checked.is_sound()), (Some(v(4)), 1, true));
    remove(objects("anchors", 4));
    let checked = check().await.unwrap();
    assert_eq!((checked.pruned_below, checked.is_sound()), (None, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_stream_is_not_collected_without_a_key() {
    let world = configured_world().await;
    let record = world.path("bucket/stream.json");
    let signed = SignKey::generate().sign("tensorpatch-stream", std::fs::read(&record).unwrap());
    std::fs::write(&record, signed).unwrap();
    let stream = Stream::builder(world.path("bucket").to_str().unwrap()).open().await.unwrap();
    let policy = CollectOptions::default().keeping(1);
    let error = upkeep::collect(&stream, &policy.clone().deleting()).await.unwrap_err();
    assert!(matches!(error, StoreError::NeedsKey { .. }), "{error}");
    // To look at what would go needs none.
    assert_eq!(upkeep::collect(&stream, &policy).await.unwrap().floor, v(7));
    assert_pulled(&world, 1).await;
}

/// An edge record that says that the objects of `anchor` are version `version`.
fn claim_anchor(world: &World, commit: &Commit, anchor: Anchor) {
    let record = EdgeRecord {
        stream: world.stream.id(),
        publisher: "mallory".into(),
        nonce: "ab".repeat(16).parse().unwrap(),
        created: 0,
        target: commit.id(),
        delta: None,
        anchor: Some(anchor),
    };
    let name = format!("bucket/edges/{:020}-{:020}-{}.json", commit.record.version.get(), 0, record.nonce);
    std::fs::create_dir_all(world.path("bucket/edges")).unwrap();
    std::fs::write(world.path(&name), record.to_bytes().unwrap()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_anchor_is_read_before_the_one_that_it_replaces_goes() {
    let world = World::new().await;
    world.publish_steps(3).await;
    let collecting = CollectOptions::default().keeping(1).deleting();
    let third = world.stream.commit(v(3)).await.unwrap().unwrap();
    let first = world.stream.commit(v(1)).await.unwrap().unwrap().record.anchor.unwrap();
    // Objects that are what their record says, and no checkpoint; those of another version.
    let put = |name: &str| {
        let key = names::anchor(v(3), "cd".repeat(16).parse().unwrap(), name).unwrap();
        let path = world.path("bucket").join(key.as_str());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"x").unwrap();
        ObjectRef { key, bytes: 1, blake3: ObjectDigest::of(b"x") }
    };
    let files = vec![NamedObject { name: "model.safetensors".into(), object: put("model.safetensors") }];
    for claimed in [Anchor { files, leaves: put("leaves") }, first] {
        claim_anchor(&world, &third, claimed);
        let error = upkeep::collect(&world.stream, &collecting).await.unwrap_err();
        assert!(
            matches!(
                error,
                StoreError::Damaged { .. } | StoreError::PatchDiffers { .. } | StoreError::WrongState { .. }
            ),
            "{error}"
        );
        for version in [1, 2, 3] {
            let replica = world.replica(&format!("r-{version}"), ApplyMode::InPlace);
            replica.pull_version(v(version)).await.unwrap();
            assert_same(replica.dir(), &world.step(version));
        }
    }
    // One that was damaged after it was added.
    std::fs::remove_dir_all(world.path("bucket/edges")).unwrap();
    world.publisher().await.add_anchor().await.unwrap();
    let history = world.path("bucket/anchors");
    let of_third = |path: &std::path::PathBuf| {
        path.is_dir()
            && path.to_str().unwrap().contains(&format!("/{:020}-", 3))
            && path.join("config.json").exists()
    };
    let dir = std::fs::read_dir(history).unwrap().map(|dir| dir.unwrap().path()).find(of_third).unwrap();
    let weights = dir.join("model.safetensors");
    let good = std::fs::read(&weights).unwrap();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bad).unwrap();
    let error = upkeep::collect(&world.stream, &collecting).await.unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    std::fs::write(&weights, good).unwrap();
    assert_eq!(upkeep::collect(&world.stream, &collecting).await.unwrap().floor, v(3));
    let replica = world.replica("last", ApplyMode::InPlace);
    replica.pull().await.unwrap();
    assert_same(replica.dir(), &world.step(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_version_can_be_pulled_though_the_files_beside_the_weights_changed_on_the_way() {
    let world = configured_world().await;
    upkeep::collect(&world.stream, &CollectOptions::default().keeping(1).pinning(v(3)).deleting())
        .await
        .unwrap();
    assert_pulled(&world, 3).await;
    let old = world.replica("fresh-3", ApplyMode::Beside);
    old.pull().await.unwrap();
    assert_same(old.dir(), &configured(&world, 8));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_or_edges_beyond_the_limits_of_the_policy_stop_a_collector() {
    let world = configured_world().await;
    let with = |alter: fn(&mut Policy)| {
        let mut policy = Policy::default();
        alter(&mut policy);
        world.stream.clone().with_policy(policy)
    };
    let options = CollectOptions::default().keeping(1).deleting();
    let named = [
        (with(|policy| policy.plans.max_listed = 3), "max_listed"),
        (with(|policy| policy.plans.max_edge_records = 1), "max_edge_records"),
        (with(|policy| policy.plans.max_history_bytes = 5000), "max_history_bytes"),
    ];
    for (stream, name) in named {
        let error = upkeep::collect(&stream, &options).await.unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        assert_pulled(&world, 1).await;
        std::fs::remove_dir_all(world.path("fresh-1")).unwrap();
    }
    // A replica makes do with the newest edges.
    let stream = with(|policy| policy.plans.max_edge_records = 1);
    let replica = Replica::of(stream, world.path("few-edges"), ReplicaOptions::default());
    assert!(replica.pull().await.unwrap().edges[0].anchor);
    assert_same(replica.dir(), &configured(&world, 8));
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
    replica.pull().await.unwrap();
    assert_same(replica.dir(), &checkpoint);
    publisher.publish(&world.step(2)).await.unwrap();
    std::fs::remove_file(world.step(3).join("größe 1.json")).unwrap_or_default();
    publisher.publish(&world.step(3)).await.unwrap();
    publisher.add_anchor().await.unwrap();
    upkeep::collect(&world.stream, &CollectOptions::default().keeping(1).deleting()).await.unwrap();
    assert!(!names("companions").contains(&"größe 1.json".to_owned()));
}
