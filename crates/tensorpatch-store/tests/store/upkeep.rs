//! Anchors, following, folding, collecting, checking, mirroring and signing, over local directories.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::support::{World, assert_same, v};
use object_store::memory::InMemory;
use tensorpatch_store::{
    AnchorPolicy, ApplyMode, CreateOptions, Folder, Policy, PublishOptions, Publisher, Replica,
    ReplicaOptions, SignKey, StoreError, Stream, Version, open_store,
    upkeep::{self, CheckOptions, CollectOptions, MirrorOptions},
};

fn count(dir: PathBuf) -> usize {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries.map(|entry| entry.unwrap().path()).map(|path| if path.is_dir() { count(path) } else { 1 }).sum()
}

async fn assert_sound(stream: &Stream) {
    let checked = upkeep::check(stream, &CheckOptions::default()).await.unwrap();
    assert!(checked.is_sound(), "{checked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_anchor_added_later_saves_newcomers_the_chain() {
    let world = World::new().await;
    let publisher = world.anchoring(AnchorPolicy::every(4)).await;
    for step in 1..=6 {
        let published = publisher.publish(&world.step(step)).await.unwrap();
        assert_eq!(published.anchor.map(|added| added.version), (step == 5).then(|| v(5)));
    }
    let log = world.stream.log().await.unwrap();
    assert_eq!(
        log.iter().filter(|entry| entry.anchored).map(|e| e.version).collect::<Vec<_>>(),
        [v(1), v(5)]
    );
    let replica = world.replica("r", ApplyMode::InPlace);
    let pulled = replica.pull().await.unwrap();
    assert_eq!(pulled.edges.iter().map(|step| step.version).collect::<Vec<_>>(), [v(5), v(6)]);
    assert_same(replica.dir(), &world.step(6));
    assert_sound(&world.stream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_baseline_that_has_rotted_does_not_become_an_anchor() {
    let world = World::new().await;
    let publisher = world.publisher().await;
    publisher.publish(&world.step(1)).await.unwrap();
    let weights = world.path("baseline/model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    assert!(matches!(publisher.add_another_anchor().await, Err(StoreError::WrongState { .. })));
    assert_eq!(count(world.path("bucket/edges")), 0);
    publisher.add_another_anchor().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_is_told_of_every_activation_and_of_what_it_holds_at_the_start() {
    let world = World::new().await;
    world.publish_steps(2).await;
    let replica = world.replica("r", ApplyMode::InPlace);
    replica.pull().await.unwrap();
    let publisher = world.publisher().await;
    let mut seen = Vec::new();
    let mut versions = replica.follow();
    while seen.len() < 3 {
        let pulled = versions.next().await.unwrap().unwrap();
        seen.push((pulled.from.map(Version::get), pulled.to.get()));
        publisher.publish(world.step(pulled.to.get() + 1)).await.unwrap();
    }
    assert_eq!(seen, [(Some(2), 2), (Some(2), 3), (Some(3), 4)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fold_is_used_when_it_is_cheaper_and_not_made_when_it_is_not() {
    let world = World::new().await;
    world.publish_steps(9).await;
    let folder = Folder::new(world.stream.clone(), world.path("work"), PublishOptions::default());
    let folded = folder.fold(v(1), v(9)).await.unwrap();
    assert!(folded.added && folded.bytes < folded.replaced_bytes, "{folded:?}");
    assert!(!folder.fold(v(1), v(9)).await.unwrap().added);
    assert!(!folder.fold(v(8), v(9)).await.unwrap().added);
    assert!(matches!(folder.fold(v(9), v(8)).await, Err(StoreError::NoVersion { .. })));
    assert!(matches!(folder.fold(v(1), v(10)).await, Err(StoreError::NoVersion { .. })));
    let replica = world.replica("r", ApplyMode::InPlace);
    replica.pull_version(v(1)).await.unwrap();
    let pulled = replica.pull().await.unwrap();
    assert_eq!(pulled.edges.len(), 1);
    assert_eq!(pulled.plan_bytes, folded.bytes);
    assert_same(replica.dir(), &world.step(9));
    assert_sound(&world.stream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_50_versions_behind_fetches_less_than_half_of_a_replay_through_folds() {
    let world = World::new().await;
    world.publish_steps(51).await;
    let pulled = async |name: &str| {
        let replica = world.replica(name, ApplyMode::InPlace);
        replica.pull_version(v(1)).await.unwrap();
        let pulled = replica.pull().await.unwrap();
        assert_eq!((pulled.from, pulled.to), (Some(v(1)), v(51)));
        assert_same(replica.dir(), &world.step(51));
        pulled
    };
    let replay = pulled("replayed").await;
    assert_eq!(replay.edges.len(), 50);
    let folder = Folder::new(world.stream.clone(), world.path("work"), PublishOptions::default());
    for from in [1, 11, 21, 31, 41] {
        folder.fold(v(from), v(from + 10)).await.unwrap();
    }
    let tens = pulled("tens").await;
    folder.fold(v(1), v(51)).await.unwrap();
    let folded = pulled("folded").await;
    eprintln!(
        "50 versions: {} bytes by replay, {} by folds of ten, {} by one fold",
        replay.downloaded_bytes, tens.downloaded_bytes, folded.downloaded_bytes
    );
    assert_eq!((tens.edges.len(), folded.edges.len()), (5, 1));
    for pulled in [&tens, &folded] {
        assert_eq!(pulled.downloaded_bytes, pulled.plan_bytes);
        assert!(pulled.downloaded_bytes < replay.downloaded_bytes / 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fold_that_vanished_is_gone_around() {
    let world = World::new().await;
    world.publish_steps(4).await;
    let folder = Folder::new(world.stream.clone(), world.path("work"), PublishOptions::default());
    assert!(folder.fold(v(1), v(4)).await.unwrap().added);
    std::fs::remove_dir_all(world.path("bucket/folds")).unwrap();
    let replica = world.replica("r", ApplyMode::InPlace);
    replica.pull_version(v(1)).await.unwrap();
    assert_eq!(replica.pull().await.unwrap().edges.len(), 3);
    assert_same(replica.dir(), &world.step(4));
    let checked = upkeep::check(&world.stream, &CheckOptions::default().shallow()).await.unwrap();
    assert_eq!((checked.problems.len(), checked.unreachable.len()), (1, 0), "{checked:?}");
}

async fn anchored_world() -> World {
    let world = World::new().await;
    let publisher = world.anchoring(AnchorPolicy::every(3)).await;
    for step in 1..=8 {
        publisher.publish(&world.step(step)).await.unwrap();
    }
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn collecting_keeps_every_version_that_the_policy_asks_for_and_says_first_what_goes() {
    let world = anchored_world().await;
    let before = count(world.path("bucket"));
    let policy = CollectOptions::default().keeping(3);
    let dry = upkeep::collect(&world.stream, &policy).await.unwrap();
    assert_eq!((dry.floor, dry.deleted), (v(4), false));
    assert_eq!(count(world.path("bucket")), before);
    let wet = upkeep::collect(&world.stream, &policy.deleting()).await.unwrap();
    assert_eq!((wet.garbage.len(), wet.deleted), (dry.garbage.len(), true));
    assert!(!wet.garbage.is_empty());
    for version in 4..=8 {
        let replica = world.replica(&format!("r{version}"), ApplyMode::InPlace);
        replica.pull_version(v(version)).await.unwrap();
        assert_same(replica.dir(), &world.step(version));
    }
    let gone = world.replica("gone", ApplyMode::InPlace);
    let error = gone.pull_version(v(3)).await.unwrap_err();
    assert!(matches!(error, StoreError::Collected { oldest, .. } if oldest == v(4)), "{error}");
    assert_sound(&world.stream).await;
    let again =
        upkeep::collect(&world.stream, &CollectOptions::default().keeping(3).deleting()).await.unwrap();
    assert_eq!(again.garbage, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_and_pins_hold_collectors_back() {
    let world = anchored_world().await;
    let options = ReplicaOptions::default().with_lease("engine");
    let replica = Replica::of(world.stream.clone(), world.path("leased"), options);
    replica.pull_version(v(2)).await.unwrap();
    let policy = CollectOptions::default().keeping(1);
    let report = upkeep::collect(&world.stream, &policy).await.unwrap();
    let holders: Vec<&str> = report.leases.iter().map(|lease| lease.holder.as_str()).collect();
    assert_eq!((report.floor, holders), (v(1), vec!["engine"]));
    replica.release().await.unwrap();
    let report = upkeep::collect(&world.stream, &policy.clone().pinning(v(2)).deleting()).await.unwrap();
    assert_eq!((report.floor, report.leases.len()), (v(7), 0));
    for (name, version) in [("pinned", 2), ("kept", 7), ("tip", 8)] {
        let replica = world.replica(name, ApplyMode::InPlace);
        replica.pull_version(v(version)).await.unwrap();
        assert_same(replica.dir(), &world.step(version));
    }
    // A replica below the floor goes on from an anchor.
    assert!(replica.pull().await.unwrap().edges[0].anchor);
    assert_same(replica.dir(), &world.step(8));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_is_still_uploading_is_left_alone_and_what_was_abandoned_goes() {
    let world = anchored_world().await;
    let file = |folder: &str, version: u64| {
        let dir = world.path(&format!("bucket/{folder}/{version:020}-{}", "ab".repeat(16)));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("x"), b"x").unwrap();
        dir.join("x")
    };
    let (next, lost) = (file("patches", 9), file("patches", 8));
    let (young_fold, next_anchor) = (file("folds", 8), file("anchors", 9));
    let policy = CollectOptions::default().keeping(8).deleting();
    upkeep::collect(&world.stream, &policy).await.unwrap();
    assert!(next.exists() && young_fold.exists() && next_anchor.exists() && !lost.exists());
    let hour_ago = std::time::SystemTime::now() - Duration::from_secs(7200);
    std::fs::File::open(&young_fold).unwrap().set_modified(hour_ago).unwrap();
    upkeep::collect(&world.stream, &policy.with_grace(Duration::from_secs(3600))).await.unwrap();
    assert!(next.exists() && !young_fold.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_collected_from_a_stream_that_is_damaged_already() {
    let world = anchored_world().await;
    let patches: Vec<_> =
        std::fs::read_dir(world.path("bucket/patches")).unwrap().map(|e| e.unwrap().path()).collect();
    let newest = patches.iter().max().unwrap();
    std::fs::remove_dir_all(newest).unwrap();
    let before = count(world.path("bucket"));
    let error =
        upkeep::collect(&world.stream, &CollectOptions::default().keeping(1).deleting()).await.unwrap_err();
    assert!(matches!(error, StoreError::NotKept { wanted, from: None, .. } if wanted == v(8)), "{error}");
    assert_eq!(count(world.path("bucket")), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_anchor_that_is_not_whole_is_no_floor_and_collecting_goes_on_around_it() {
    let world = anchored_world().await;
    let anchors = std::fs::read_dir(world.path("bucket/anchors")).unwrap().map(|entry| entry.unwrap().path());
    let newest = anchors.filter(|path| path.is_dir()).max().unwrap();
    std::fs::remove_file(newest.join("model.safetensors")).unwrap();
    // The anchor of version 7 leads nowhere, so what leads from that of version 4 to the tip must stay.
    let collected =
        upkeep::collect(&world.stream, &CollectOptions::default().keeping(1).deleting()).await.unwrap();
    assert_eq!((collected.floor, collected.garbage.is_empty()), (v(4), false));
    let replica = world.replica("r", ApplyMode::InPlace);
    replica.pull().await.unwrap();
    assert_same(replica.dir(), &world.step(8));
}

/// Lets the clock of the store be as it was when everything in a folder was written `seconds` earlier, or
/// later if negative.
fn age(dir: PathBuf, seconds: i64) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            age(path, seconds);
            continue;
        }
        let file = std::fs::File::open(&path).unwrap();
        let shift = Duration::from_secs(seconds.unsigned_abs());
        let modified = file.metadata().unwrap().modified().unwrap();
        file.set_modified(if seconds > 0 { modified - shift } else { modified + shift }).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_jump_cost_no_version_that_is_kept() {
    const YEAR: i64 = 31_536_000;
    let world = anchored_world().await;
    let options = ReplicaOptions::default().with_lease("engine");
    let replica = Replica::of(world.stream.clone(), world.path("leased"), options);
    replica.pull_version(v(2)).await.unwrap();
    let abandoned = world.path(&format!("bucket/folds/{:020}-{}/x", 8, "ab".repeat(16)));
    std::fs::create_dir_all(abandoned.parent().unwrap()).unwrap();
    std::fs::write(&abandoned, b"x").unwrap();
    // The store's clock was a year ahead: nothing is old, and no lease ends.
    age(world.path("bucket"), -YEAR);
    let policy = CollectOptions::default().keeping(1).deleting();
    let report = upkeep::collect(&world.stream, &policy).await.unwrap();
    let holders: Vec<&str> = report.leases.iter().map(|lease| lease.holder.as_str()).collect();
    assert_eq!((report.floor, holders), (v(1), vec!["engine"]));
    assert!(abandoned.exists());
    assert_eq!(replica.pull_version(v(3)).await.unwrap().edges.len(), 1);
    // It jumps a year on: the lease has ended, what nobody names is old, and what the policy keeps is there.
    age(world.path("bucket"), 2 * YEAR);
    let report = upkeep::collect(&world.stream, &policy).await.unwrap();
    assert_eq!((report.floor, report.leases.len()), (v(7), 0));
    assert!(!abandoned.exists());
    for version in [7, 8] {
        let fresh = world.replica(&format!("fresh-{version}"), ApplyMode::InPlace);
        fresh.pull_version(v(version)).await.unwrap();
        assert_same(fresh.dir(), &world.step(version));
    }
    // The replica that slept through all of it starts from an anchor, and publishing goes on.
    assert!(replica.pull().await.unwrap().edges[0].anchor);
    assert_same(replica.dir(), &world.step(8));
    assert_eq!(world.publisher().await.publish(&world.step(9)).await.unwrap().version, v(9));
    assert_sound(&world.stream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_companion_that_was_altered_in_the_baseline_is_fetched_again_before_an_anchor_is_added() {
    let world = World::new().await;
    let publisher = world.publisher().await;
    publisher.publish(&world.step(1)).await.unwrap();
    std::fs::write(world.path("baseline/config.json"), b"{}").unwrap();
    publisher.add_another_anchor().await.unwrap();
    assert_same(&world.path("baseline"), &world.step(1));
    assert_sound(&world.stream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_finds_every_flipped_bit_and_missing_object() {
    let world = anchored_world().await;
    assert_sound(&world.stream).await;
    let mut files = Vec::new();
    let mut dirs = vec![world.path("bucket")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { dirs.push(path) } else { files.push(path) }
        }
    }
    files.retain(|path| !path.ends_with("latest.json"));
    for path in files {
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        std::fs::write(&path, bad).unwrap();
        if path.ends_with("stream.json") {
            // The record is read when the stream is opened.
            std::fs::write(&path, &good).unwrap();
            continue;
        }
        let checked = upkeep::check(&world.stream, &CheckOptions::default()).await.unwrap();
        assert!(!checked.is_sound(), "a bit of {} was flipped", path.display());
        std::fs::remove_file(&path).unwrap();
        let is_edge = path.parent().unwrap().ends_with("edges");
        let checked = upkeep::check(&world.stream, &CheckOptions::default().shallow()).await.unwrap();
        // An edge that is gone leaves a stream that is sound, and slower.
        assert_eq!(checked.is_sound(), is_edge, "{} was removed", path.display());
        std::fs::write(&path, good).unwrap();
    }
    assert_sound(&world.stream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_is_the_same_stream_and_can_be_continued_and_published_to() {
    let world = anchored_world().await;
    let url = world.path("mirror");
    let (store, prefix) = open_store(url.to_str().unwrap(), &Policy::default()).unwrap();
    let mirror = async || {
        upkeep::mirror(
            &world.stream,
            store.clone(),
            prefix.clone(),
            &MirrorOptions::new(world.path("mirror-work")),
        )
        .await
    };
    let first = mirror().await.unwrap();
    assert_eq!((first.from, first.to, first.edges), (None, Some(v(8)), 2));
    assert_eq!(mirror().await.unwrap().bytes, 0);
    world.publisher().await.publish(&world.step(9)).await.unwrap();
    let second = mirror().await.unwrap();
    assert_eq!((second.from, second.to), (Some(v(8)), Some(v(9))));
    let copy = Stream::open(store.clone(), prefix.clone()).await.unwrap();
    assert_eq!(copy.id(), world.stream.id());
    assert_sound(&copy).await;
    // A replica may change from the one to the other.
    let replica = world.replica("r", ApplyMode::InPlace);
    replica.pull_version(v(8)).await.unwrap();
    Replica::of(copy.clone(), replica.dir(), ReplicaOptions::default()).pull().await.unwrap();
    assert_same(replica.dir(), &world.step(9));
    // Once they differ, they are told apart.
    let options = PublishOptions::default();
    let other = Publisher::on(copy, world.path("other-baseline"), options).await.unwrap();
    other.publish(&world.step(20)).await.unwrap();
    world.publisher().await.publish(&world.step(10)).await.unwrap();
    assert!(matches!(mirror().await, Err(StoreError::AnotherCopy { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_trusted_key_only_what_it_signed_is_taken() {
    let world = World::new().await;
    let (key, other) = (SignKey::generate(), SignKey::generate());
    let store = Arc::new(InMemory::new());
    let options = CreateOptions::default().with_sign_key(key.clone());
    let stream = Stream::create(store.clone(), "s".into(), options).await.unwrap().signing(key.clone());
    let publish = async |stream: &Stream, baseline: &str, step: u64| {
        let options = PublishOptions::default();
        let publisher = Publisher::on(stream.clone(), world.path(baseline), options).await.unwrap();
        publisher.publish(&world.step(step)).await.unwrap();
    };
    publish(&stream, "b", 1).await;
    publish(&stream, "b", 2).await;
    let open = async |keys| Stream::open(store.clone(), "s".into()).await.unwrap().trusting(keys).await;
    let trusting = open(vec![other.public(), key.public()]).await.unwrap();
    let replica = Replica::of(trusting, world.path("r"), ReplicaOptions::default());
    replica.pull().await.unwrap();
    assert_same(replica.dir(), &world.step(2));
    assert!(matches!(open(vec![other.public()]).await, Err(StoreError::Untrusted { .. })));
    // Somebody else who can write to the bucket publishes, signed with another key.
    let unsigned = Stream::open(store.clone(), "s".into()).await.unwrap();
    publish(&unsigned.clone().signing(SignKey::generate()), "c", 3).await;
    assert!(matches!(replica.pull().await, Err(StoreError::Untrusted { .. })));
    assert_same(replica.dir(), &world.step(2));
    // Whoever trusts nobody in particular still follows.
    let options = ReplicaOptions::default();
    let trustful = Replica::of(unsigned, world.path("r2"), options);
    trustful.pull().await.unwrap();
    assert_same(trustful.dir(), &world.step(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_it_can_be_spawned_onto_other_threads() {
    let world = World::new().await;
    let (stream, steps) = (world.stream.clone(), [world.step(1), world.step(2)]);
    let (baseline, dir, work) = (world.path("baseline"), world.path("replica"), world.path("work"));
    let task = tokio::spawn(async move {
        let publisher = Publisher::on(stream.clone(), baseline, PublishOptions::default()).await?;
        for step in &steps {
            publisher.publish(step).await?;
        }
        publisher.add_anchor().await?;
        let replica = Replica::of(stream.clone(), dir, ReplicaOptions::default());
        replica.follow().next().await?;
        Folder::new(stream.clone(), work.join("fold"), PublishOptions::default()).fold(v(1), v(2)).await?;
        upkeep::mirror(&stream, Arc::new(InMemory::new()), "copy".into(), &MirrorOptions::new(&work)).await?;
        upkeep::collect(&stream, &CollectOptions::default()).await?;
        upkeep::check(&stream, &CheckOptions::default()).await?;
        stream.log().await
    });
    assert_eq!(task.await.unwrap().unwrap().len(), 2);
}
