//! Records and objects that are not what they should be: moved, replayed, forged, from another stream or
//! another history.

use std::path::{Path, PathBuf};

use crate::support::{World, assert_same, copy_dir, files, v};
use tensorpatch_store::{
    Anchor, AnchorPolicy, ApplyMode, CommitRecord, EdgeRecord, Folder, JsonRecord, Key, Link, ObjectDigest,
    PlanError, Policy, PublishOptions, Publisher, Replica, ReplicaOptions, SignKey, StoreError, Stream,
    StreamRecord, Version, open_store,
    upkeep::{self, CheckOptions, CollectOptions},
};

fn commit_path(world: &World, version: u64) -> PathBuf {
    world.path(&format!("bucket/commits/{version:020}.json"))
}

/// Lets `alter` change a record where it lies.
fn forge<T: JsonRecord>(path: &Path, alter: impl FnOnce(&mut T)) {
    let mut record = T::parse(&std::fs::read(path).unwrap()).unwrap();
    alter(&mut record);
    std::fs::write(path, record.to_bytes().unwrap()).unwrap();
}

async fn open(url: &Path) -> Stream {
    let (store, prefix) = open_store(url.to_str().unwrap(), &Policy::default()).unwrap();
    Stream::open(store, prefix).await.unwrap()
}

/// A world whose stream is signed with `key`, and three versions of it.
async fn signed(key: &SignKey) -> (World, Stream) {
    let mut world = World::new().await;
    std::fs::remove_dir_all(world.path("bucket")).unwrap();
    let (store, prefix) = open_store(world.path("bucket").to_str().unwrap(), &Policy::default()).unwrap();
    let options = tensorpatch_store::CreateOptions::default().with_sign_key(key.clone());
    world.stream = Stream::create(store, prefix, options).await.unwrap().signing(key.clone());
    world.publish_steps(3).await;
    let trusting = open(&world.path("bucket")).await.trusting(vec![key.public()]).await.unwrap();
    (world, trusting)
}

/// A replica at version 1, through `stream`.
async fn at_first(world: &World, stream: &Stream) -> Replica {
    let replica = Replica::of(stream.clone(), world.path("replica"), ReplicaOptions::default());
    replica.pull_version(v(1)).await.unwrap();
    replica
}

/// Nothing of the replica has changed, and its state file still says so.
async fn assert_at_first(world: &World, replica: &Replica) {
    assert_eq!(replica.held().await.unwrap().unwrap().version, v(1));
    assert_same(replica.dir(), &world.step(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_record_under_the_number_of_another_is_refused() {
    let (world, trusting) = signed(&SignKey::generate()).await;
    let replica = at_first(&world, &trusting).await;
    std::fs::copy(commit_path(&world, 2), commit_path(&world, 3)).unwrap();
    let error = replica.pull().await.unwrap_err();
    assert!(matches!(&error, StoreError::Damaged { what, .. } if what.contains("version 2")), "{error}");
    // The two in each other's place.
    std::fs::copy(commit_path(&world, 1), commit_path(&world, 2)).unwrap();
    assert!(matches!(replica.pull().await, Err(StoreError::Damaged { .. })));
    std::fs::remove_file(commit_path(&world, 3)).unwrap();
    assert!(matches!(replica.pull_version(v(2)).await, Err(StoreError::Damaged { .. })));
    assert_at_first(&world, &replica).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_another_stream_is_refused_though_the_same_key_has_signed_it() {
    let key = SignKey::generate();
    let (ours, trusting) = signed(&key).await;
    let (theirs, _) = signed(&key).await;
    let replica = at_first(&ours, &trusting).await;
    std::fs::copy(commit_path(&theirs, 2), commit_path(&ours, 2)).unwrap();
    let error = replica.pull_version(v(2)).await.unwrap_err();
    assert!(matches!(&error, StoreError::Damaged { what, .. } if what.contains("belongs to")), "{error}");
    assert_at_first(&ours, &replica).await;
    // All of the other stream, in our place.
    std::fs::remove_dir_all(ours.path("bucket")).unwrap();
    copy_dir(&theirs.path("bucket"), &ours.path("bucket"));
    let replaced = open(&ours.path("bucket")).await.trusting(vec![key.public()]).await.unwrap();
    let replica = Replica::of(replaced, replica.dir(), ReplicaOptions::default());
    assert!(matches!(replica.pull().await, Err(StoreError::AnotherStream { .. })));
    assert_same(replica.dir(), &ours.step(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_record_that_was_altered_is_refused_wherever_the_bit_is() {
    let (world, trusting) = signed(&SignKey::generate()).await;
    let replica = at_first(&world, &trusting).await;
    let good = std::fs::read(commit_path(&world, 2)).unwrap();
    for at in (0..good.len()).step_by(37).chain([good.len() - 1]) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(commit_path(&world, 2), bad).unwrap();
        let error = replica.pull_version(v(2)).await.unwrap_err();
        // What nobody would have written is said to be damaged.
        let is_junk = matches!(&error, StoreError::Damaged { what, .. } if what.contains("not JSON"));
        assert!(is_junk || matches!(error, StoreError::Untrusted { .. }), "byte {at}: {error}");
    }
    std::fs::write(commit_path(&world, 2), &good).unwrap();
    // One that is right in every way, but for the signature.
    forge::<CommitRecord>(&commit_path(&world, 3), |_| ());
    assert!(matches!(replica.pull_version(v(3)).await, Err(StoreError::Untrusted { .. })));
    assert_at_first(&world, &replica).await;
    forge::<StreamRecord>(&world.path("bucket/stream.json"), |_| ());
    let reopened = open(&world.path("bucket")).await.trusting(vec![SignKey::generate().public()]).await;
    assert!(matches!(reopened, Err(StoreError::NotSigned { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_another_history_of_the_same_stream_is_no_link_of_the_chain() {
    let key = SignKey::generate();
    let (world, trusting) = signed(&key).await;
    let replica = at_first(&world, &trusting).await;
    // The same stream and key, but another second and third version.
    let fork = world.path("fork");
    copy_dir(&world.path("bucket"), &fork);
    for version in [2, 3] {
        std::fs::remove_file(fork.join(format!("commits/{version:020}.json"))).unwrap();
    }
    let forked = open(&fork).await.signing(key);
    let publisher =
        Publisher::on(forked, world.path("fork-baseline"), PublishOptions::default()).await.unwrap();
    for step in [20, 3] {
        publisher.publish(&world.step(step)).await.unwrap();
    }
    copy_dir(&fork.join("patches"), &world.path("bucket/patches"));
    std::fs::copy(fork.join(format!("commits/{:020}.json", 3)), commit_path(&world, 3)).unwrap();
    for dir in ["replica", "newcomer"] {
        let replica = Replica::of(trusting.clone(), world.path(dir), ReplicaOptions::default());
        let error = replica.pull().await.unwrap_err();
        assert!(matches!(error, StoreError::Plan(PlanError::Chain(_))), "{error}");
    }
    assert_at_first(&world, &replica).await;
    let log = trusting.log().await.unwrap_err();
    assert!(matches!(log, StoreError::Plan(PlanError::Chain(_))), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_of_another_leaf_hash_than_the_streams_is_refused() {
    let world = World::new().await;
    world.publish_steps(1).await;
    let text = std::fs::read_to_string(commit_path(&world, 1)).unwrap();
    std::fs::write(commit_path(&world, 1), text.replace("xxh3:", "blake3:")).unwrap();
    let error = world.replica("r", ApplyMode::InPlace).pull().await.unwrap_err();
    assert!(matches!(&error, StoreError::Damaged { what, .. } if what.contains("blake3")), "{error}");
}

/// A fold from the first to the third version.
async fn folded(world: &World, stream: &Stream) -> PathBuf {
    let folder = Folder::new(stream.clone(), world.path("work"), PublishOptions::default());
    assert!(folder.fold(v(1), v(3)).await.unwrap().added);
    let edges = world.path("bucket/edges");
    std::fs::read_dir(edges).unwrap().next().unwrap().unwrap().path()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fold_that_is_forged_or_of_another_stream_is_not_used_and_a_check_names_it() {
    let world = World::new().await;
    world.publish_steps(3).await;
    let edge = folded(&world, &world.stream).await;
    let good = std::fs::read(&edge).unwrap();
    let steps = async |dir: &str| {
        let replica = world.replica(dir, ApplyMode::InPlace);
        replica.pull_version(v(1)).await.unwrap();
        let steps = replica.pull().await.unwrap().edges.len();
        assert_same(replica.dir(), &world.step(3));
        steps
    };
    assert_eq!(steps("good").await, 1);
    forge::<EdgeRecord>(&edge, |edge| edge.stream = "00".repeat(16).parse().unwrap());
    assert_eq!(steps("another-stream").await, 2);
    let problems = upkeep::check(&world.stream, &CheckOptions::default().shallow()).await.unwrap().problems;
    assert!(problems.len() == 1 && problems[0].what.contains("another stream"), "{problems:?}");
    std::fs::write(&edge, &good).unwrap();
    let renamed = edge.with_file_name(format!("{:020}-{:020}-{}.json", 3, 1, "ab".repeat(16)));
    std::fs::rename(&edge, &renamed).unwrap();
    assert_eq!(steps("renamed").await, 2);
    let problems = upkeep::check(&world.stream, &CheckOptions::default().shallow()).await.unwrap().problems;
    assert!(problems.len() == 1 && problems[0].what.contains("does not agree"), "{problems:?}");
    std::fs::rename(&renamed, &edge).unwrap();
    // One that claims to end at another state.
    forge::<EdgeRecord>(&edge, |edge| edge.target.commit = ObjectDigest::of(b"another record"));
    assert_eq!(steps("another-target").await, 2);
    std::fs::write(&edge, &good).unwrap();
    assert_eq!(steps("good-again").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fold_that_nobody_trusted_has_signed_is_not_used() {
    let (world, trusting) = signed(&SignKey::generate()).await;
    folded(&world, &open(&world.path("bucket")).await.signing(SignKey::generate())).await;
    let replica = at_first(&world, &trusting).await;
    assert_eq!(replica.pull().await.unwrap().edges.len(), 2);
    assert_same(replica.dir(), &world.step(3));
    let trustful = Replica::of(world.stream.clone(), world.path("trustful"), ReplicaOptions::default());
    trustful.pull_version(v(1)).await.unwrap();
    assert_eq!(trustful.pull().await.unwrap().edges.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_of_other_versions_in_a_record_is_refused_and_the_replica_is_not_called_damaged() {
    let world = World::new().await;
    world.publish_steps(3).await;
    let replica = at_first(&world, &world.stream).await;
    let third = CommitRecord::parse(&std::fs::read(commit_path(&world, 3)).unwrap()).unwrap();
    forge::<CommitRecord>(&commit_path(&world, 2), |record| {
        record.delta.as_mut().unwrap().patches = third.delta.unwrap().patches;
    });
    for mode in [ApplyMode::InPlace, ApplyMode::Beside] {
        let options = ReplicaOptions::default().with_mode(mode);
        let replica = Replica::of(world.stream.clone(), replica.dir(), options);
        let error = replica.pull_version(v(2)).await.unwrap_err();
        assert!(matches!(error, StoreError::PatchDiffers { .. }), "{error}");
        assert_at_first(&world, &replica).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_anchor_whose_files_are_not_the_state_or_layout_of_its_record_is_not_installed() {
    let world = World::new().await;
    world.publish_steps(1).await;
    let good = std::fs::read(commit_path(&world, 1)).unwrap();
    forge::<CommitRecord>(&commit_path(&world, 1), |record| {
        record.contents.state = format!("xxh3:{}", "ab".repeat(32)).parse().unwrap();
    });
    let replica = world.replica("r", ApplyMode::InPlace);
    let error = replica.pull().await.unwrap_err();
    assert!(matches!(error, StoreError::PatchDiffers { .. }), "{error}");
    assert!(files(replica.dir()).is_empty() && replica.held().await.unwrap().is_none());
    std::fs::write(commit_path(&world, 1), &good).unwrap();
    forge::<CommitRecord>(&commit_path(&world, 1), |record| {
        record.contents.layout = "cd".repeat(32).parse().unwrap();
    });
    let error = replica.pull().await.unwrap_err();
    assert!(matches!(error, StoreError::PatchDiffers { .. }), "{error}");
    assert!(files(replica.dir()).is_empty() && replica.held().await.unwrap().is_none());
    std::fs::write(commit_path(&world, 1), &good).unwrap();
    replica.pull().await.unwrap();
    assert_same(replica.dir(), &world.step(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_are_not_read_with_a_leaf_table_that_is_not_the_versions() {
    let world = World::new().await;
    world.publish_steps(2).await;
    let tip = world.stream.tip().await.unwrap().unwrap();
    let record = CommitRecord::parse(&std::fs::read(commit_path(&world, 1)).unwrap()).unwrap();
    let leaves = record.anchor.as_ref().unwrap().leaves.clone();
    let path = world.path("bucket").join(leaves.key.as_str());
    let mut table = std::fs::read(&path).unwrap();
    table[0] ^= 1;
    std::fs::write(&path, &table).unwrap();
    let limits = Default::default();
    let error = world.stream.range_reader(&tip, &limits).await.unwrap_err();
    assert!(matches!(&error, StoreError::Damaged { name, .. } if *name == leaves.key.as_str()), "{error}");
    // A record that agrees with the table: what the version's own digest says still decides.
    forge::<CommitRecord>(&commit_path(&world, 1), |record| {
        record.anchor.as_mut().unwrap().leaves.blake3 = ObjectDigest::of(&table);
    });
    let first = world.stream.commit(v(1)).await.unwrap().unwrap();
    let error = world.stream.range_reader(&first, &limits).await.unwrap_err();
    assert!(matches!(error, StoreError::PatchDiffers { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_beside_the_weights_that_has_the_name_of_weights_is_refused() {
    let world = World::new().await;
    world.publish_steps(2).await;
    let replica = at_first(&world, &world.stream).await;
    let good = std::fs::read_to_string(commit_path(&world, 2)).unwrap();
    for name in ["model.safetensors", "Other.SafeTensors", "model.safetensors.index.json"] {
        let forged = good.replace("\"name\":\"config.json\"", &format!("\"name\":\"{name}\""));
        assert_ne!(good, forged);
        std::fs::write(commit_path(&world, 2), forged).unwrap();
        for mode in [ApplyMode::InPlace, ApplyMode::Beside] {
            let options = ReplicaOptions::default().with_mode(mode);
            let replica = Replica::of(world.stream.clone(), replica.dir(), options);
            let error = replica.pull().await.unwrap_err();
            assert!(matches!(error, StoreError::Record { .. }), "{name}: {error}");
            assert_at_first(&world, &replica).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_whose_files_are_not_the_layout_of_its_record_is_refused() {
    let world = World::new().await;
    world.publish_steps(2).await;
    let replica = at_first(&world, &world.stream).await;
    forge::<CommitRecord>(&commit_path(&world, 2), |record| {
        record.contents.layout = "cd".repeat(32).parse().unwrap();
    });
    let error = replica.pull_version(v(2)).await.unwrap_err();
    assert!(matches!(error, StoreError::PatchDiffers { .. }), "{error}");
    assert_at_first(&world, &replica).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_that_are_sharded_otherwise_are_not_taken_for_the_files_of_a_version() {
    let world = World::new().await;
    world.publish_steps(2).await;
    let replica = world.replica("resharded", ApplyMode::InPlace);
    crate::support::write_sharded(replica.dir(), 1);
    replica.pull_version(v(1)).await.unwrap();
    assert_same(replica.dir(), &world.step(1));
    // Nor by a publisher, whose patches would then be of files that nobody else has.
    let baseline = world.path("baseline");
    std::fs::remove_dir_all(&baseline).unwrap();
    crate::support::write_sharded(&baseline, 2);
    std::fs::create_dir(baseline.join(".tensorpatch")).unwrap();
    world.publisher().await.publish(&world.step(3)).await.unwrap();
    replica.pull().await.unwrap();
    assert_same(replica.dir(), &world.step(3));
}

/// The file of the only edge, and of its first object.
fn edge_path(world: &World, target: u64) -> PathBuf {
    let edges = std::fs::read_dir(world.path("bucket/edges")).unwrap().map(|edge| edge.unwrap().path());
    let prefix = format!("{target:020}-");
    edges.into_iter().find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&prefix)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_optional_way_that_is_damaged_or_leads_elsewhere_is_gone_around() {
    let world = World::new().await;
    world.publish_steps(9).await;
    let folder = Folder::new(world.stream.clone(), world.path("work"), PublishOptions::default());
    assert!(folder.fold(v(1), v(9)).await.unwrap().added);
    let edge = edge_path(&world, 9);
    let record = EdgeRecord::parse(&std::fs::read(&edge).unwrap()).unwrap();
    let object = record.delta.as_ref().unwrap().patches[0].object.clone();
    let patch = world.path("bucket").join(object.key.as_str());
    let mut bytes = std::fs::read(&patch).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&patch, &bytes).unwrap();
    let pull = async |name: String, mode| {
        let replica = world.replica(&name, mode);
        replica.pull_version(v(1)).await.unwrap();
        let pulled = replica.pull().await.unwrap();
        assert_eq!(pulled.edges.len(), 8);
        assert_same(replica.dir(), &world.step(9));
    };
    for mode in [ApplyMode::InPlace, ApplyMode::Beside] {
        pull(format!("damaged-{mode:?}"), mode).await;
    }
    // An edge that agrees with its object, which is no patch of these versions; and one that is no patch at
    // all.
    forge::<EdgeRecord>(&edge, |record| {
        record.delta.as_mut().unwrap().patches[0].object.blake3 = ObjectDigest::of(&bytes);
    });
    for mode in [ApplyMode::InPlace, ApplyMode::Beside] {
        pull(format!("broken-{mode:?}"), mode).await;
    }
    let third = world.stream.commit(v(3)).await.unwrap().unwrap().record.delta.unwrap();
    forge::<EdgeRecord>(&edge, |record| record.delta.as_mut().unwrap().patches = third.patches.clone());
    for mode in [ApplyMode::InPlace, ApplyMode::Beside] {
        pull(format!("elsewhere-{mode:?}"), mode).await;
    }
    // Lies about an object that others need do not keep them from it.
    forge::<EdgeRecord>(&edge, |record| {
        record.delta.as_mut().unwrap().patches[0].object.blake3 = ObjectDigest::of(b"another");
    });
    pull("lied-digest".into(), ApplyMode::InPlace).await;
    forge::<EdgeRecord>(&edge, |record| record.delta.as_mut().unwrap().patches[0].object.bytes = 1);
    pull("lied-size".into(), ApplyMode::InPlace).await;
}

/// Six versions, with anchors of the third and the fifth besides.
async fn with_anchors() -> World {
    let world = World::new().await;
    let publisher = world.publisher().await;
    for step in 1..=6 {
        publisher.publish(&world.step(step)).await.unwrap();
        if step == 3 || step == 5 {
            publisher.add_anchor().await.unwrap();
        }
    }
    world
}

/// The anchor of a version that an edge record has added.
fn added_anchor(world: &World, version: u64) -> Anchor {
    let record = std::fs::read(edge_path(world, version)).unwrap();
    EdgeRecord::parse(&record).unwrap().anchor.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_anchor_that_is_not_its_version_is_gone_around() {
    let world = with_anchors().await;
    forge::<EdgeRecord>(&edge_path(&world, 5), |record| record.anchor = Some(added_anchor(&world, 3)));
    let replica = world.replica("newcomer", ApplyMode::InPlace);
    let pulled = replica.pull().await.unwrap();
    assert_eq!(pulled.edges[0].version, v(3));
    assert_same(replica.dir(), &world.step(6));
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_are_read_by_way_of_another_anchor_where_one_is_not_its_version() {
    let world = with_anchors().await;
    let (good, other) = (added_anchor(&world, 5), added_anchor(&world, 3));
    let (mut absent, mut damaged, mut no_file) = (good.clone(), good.clone(), good.clone());
    absent.leaves.key = Key::new(format!("{}-absent", good.leaves.key)).unwrap();
    damaged.leaves.blake3 = ObjectDigest::of(b"another");
    // The record of a version is no checkpoint.
    let record = std::fs::read(commit_path(&world, 1)).unwrap();
    let key = format!("{}-forged", good.files[0].object.key);
    std::fs::write(world.path("bucket").join(&key), &record).unwrap();
    no_file.files[0].object.key = Key::new(key).unwrap();
    no_file.files[0].object.bytes = record.len() as u64;
    let fifth = world.stream.commit(v(5)).await.unwrap().unwrap();
    for forged in [other, absent, damaged, no_file] {
        forge::<EdgeRecord>(&edge_path(&world, 5), |record| record.anchor = Some(forged));
        let ranges = world.stream.range_reader(&fifth, &Default::default()).await.unwrap();
        assert_eq!(ranges.read_tensor("a").await.unwrap(), crate::support::values(1, 5, 3000));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_cannot_be_read_hides_no_anchor() {
    let world = World::new().await;
    world.publish_steps(3).await;
    let edges = world.path("bucket/edges");
    std::fs::create_dir_all(&edges).unwrap();
    let name = format!("{:020}-{:020}-{}.json", 3, 0, "ab".repeat(16));
    std::fs::write(edges.join(name), "of a later version").unwrap();
    let tip = world.stream.tip().await.unwrap().unwrap();
    let ranges = world.stream.range_reader(&tip, &Default::default()).await.unwrap();
    assert_eq!(ranges.read_tensor("a").await.unwrap(), crate::support::values(1, 3, 3000));
    let publisher = world.anchoring(AnchorPolicy::every(3)).await;
    assert!(publisher.publish(&world.step(4)).await.unwrap().anchor.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_with_a_number_beyond_all_others_takes_no_memory_for_those_between() {
    let world = World::new().await;
    world.publish_steps(1).await;
    let last = Version::new((1 << 53) - 1).unwrap();
    let first = world.stream.commit(v(1)).await.unwrap().unwrap();
    let mut record = first.record.clone();
    record.version = last;
    record.previous = Some(Link { version: last.previous().unwrap(), commit: first.digest });
    std::fs::write(commit_path(&world, last.get()), record.to_bytes().unwrap()).unwrap();
    // It follows nothing, so it is no version; nor does a hint make it one.
    assert_eq!(world.stream.log().await.unwrap().len(), 1);
    std::fs::write(world.path("bucket/latest.json"), "{\"version\":3}").unwrap();
    std::fs::write(commit_path(&world, 3), "no record").unwrap();
    assert_eq!(world.stream.log().await.unwrap().len(), 1);
    let policy = CollectOptions::default();
    assert_eq!(upkeep::collect(&world.stream, &policy).await.unwrap().tip, v(1));
    let checked = upkeep::check(&world.stream, &CheckOptions::default().shallow()).await.unwrap();
    assert!(!checked.is_sound() && checked.problems.len() < 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_finds_records_that_disagree_about_an_object_and_patches_that_are_none() {
    let world = World::new().await;
    world.publish_steps(3).await;
    let stream = open(&world.path("bucket")).await;
    let problems = async || {
        let checked = upkeep::check(&stream, &CheckOptions::default()).await.unwrap();
        checked.problems.into_iter().map(|problem| format!("{}: {}", problem.name, problem.what)).collect()
    };
    let good: Vec<String> = problems().await;
    assert!(good.is_empty(), "{good:?}");
    let kept = std::fs::read(commit_path(&world, 3)).unwrap();
    // Two records give one object different digests: whoever reads the one cannot read the other.
    forge(&commit_path(&world, 3), |record: &mut CommitRecord| {
        record.companions[0].object.blake3 = ObjectDigest::of(b"another");
    });
    let found: Vec<String> = problems().await;
    assert!(found.len() == 1 && found[0].contains("expected BLAKE3"), "{found:?}");
    // An object that has its digest and is no patch, and one that is the patch of another version.
    let patch_of = |record: &CommitRecord| record.delta.as_ref().unwrap().patches[0].object.clone();
    let second = CommitRecord::parse(&std::fs::read(commit_path(&world, 2)).unwrap()).unwrap();
    let other = std::fs::read(world.path("bucket").join(patch_of(&second).key.as_str())).unwrap();
    for (bytes, word) in [(b"no patch".to_vec(), "it is no patch"), (other, "its base state is")] {
        std::fs::write(commit_path(&world, 3), &kept).unwrap();
        forge(&commit_path(&world, 3), |record: &mut CommitRecord| {
            let object = &mut record.delta.as_mut().unwrap().patches[0].object;
            std::fs::write(world.path("bucket").join(object.key.as_str()), &bytes).unwrap();
            (object.bytes, object.blake3) = (bytes.len() as u64, ObjectDigest::of(&bytes));
        });
        let found: Vec<String> = problems().await;
        assert!(found.iter().any(|problem| problem.contains(word)), "{found:?}");
    }
}
