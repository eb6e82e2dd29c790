//! What a trusted key guards, and what the identity of a stream does: against somebody who can write to the
//! bucket and to the replica.

use std::path::{Path, PathBuf};

use crate::support::{World, assert_same, copy_dir, files, v};
use tensorpatch_format::LeafHash;
use tensorpatch_store::{
    AnchorPolicy, Commit, OldKey, PublishOptions, Publisher, Replica, ReplicaOptions, SignKey, StoreError,
    Stream, TrustKey, Verify,
};
use tensorpatch_testkit::{XXH3_BLOCK, second_preimage};

/// A world whose stream is signed with `key`.
async fn signed(key: &SignKey) -> World {
    let mut world = World::new().await;
    std::fs::remove_dir_all(world.path("bucket")).unwrap();
    world.stream = Stream::builder(url(&world)).sign_key(key.clone()).open_or_create().await.unwrap();
    world
}

fn url(world: &World) -> String {
    world.path("bucket").to_str().unwrap().to_owned()
}

async fn trusting(world: &World, key: TrustKey) -> Stream {
    Stream::builder(url(world)).trust_keys([key]).open().await.unwrap()
}

fn replica(stream: &Stream, dir: PathBuf) -> Replica {
    Replica::of(stream.clone(), dir, ReplicaOptions::default())
}

/// Exchanges the first block of the last tensor in a file for other bytes with the same XXH3-128 digest.
fn exchange_block(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    let at = bytes.len() - 10_000;
    let block: [u8; XXH3_BLOCK] = bytes[at..at + XXH3_BLOCK].try_into().unwrap();
    bytes[at..at + XXH3_BLOCK].copy_from_slice(&second_preimage(&block).unwrap());
    std::fs::write(file, bytes).unwrap();
}

/// Where the weights of the only anchor lie.
fn anchor_file(world: &World, commit: &Commit) -> PathBuf {
    let anchor = commit.record.anchor.as_ref().unwrap();
    let weights = anchor.files.iter().find(|file| file.name == "model.safetensors").unwrap();
    world.path("bucket").join(weights.object.key.as_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_weights_with_the_same_xxh3_digest_pass_for_a_version() {
    let world = World::new().await;
    world.publish_steps(1).await;
    let replica = world.replica("r", Default::default());
    replica.pull().await.unwrap();
    let weights = world.path("r/model.safetensors");
    exchange_block(&weights);
    // XXH3 guards against accidents, and SECURITY.md says so.
    let options = ReplicaOptions::default().with_verify(Verify::Always);
    let pulled = Replica::of(world.stream.clone(), replica.dir(), options).pull().await.unwrap();
    assert!(pulled.verified && files(replica.dir()) != files(&world.step(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_trusted_key_altered_weights_are_no_base_and_are_repaired() {
    let key = SignKey::generate();
    let world = signed(&key).await;
    world.publish_steps(3).await;
    let stream = trusting(&world, key.public()).await;
    assert_eq!(stream.record().leaf_hash, LeafHash::Blake3);
    let replica = replica(&stream, world.path("r"));
    replica.pull_version(v(1)).await.unwrap();
    exchange_block(&world.path("r/model.safetensors"));
    replica.pull().await.unwrap();
    assert_same(replica.dir(), &world.step(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_trusted_key_a_repair_takes_no_bytes_that_nobody_has_signed() {
    let key = SignKey::generate();
    let world = signed(&key).await;
    world.publish_steps(1).await;
    let stream = trusting(&world, key.public()).await;
    let replica = replica(&stream, world.path("r"));
    replica.pull().await.unwrap();
    exchange_block(&anchor_file(&world, &stream.tip().await.unwrap().unwrap()));
    let weights = world.path("r/model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let at = bytes.len() - 9_999;
    bytes[at] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let error = replica.pull().await.unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert!(replica.held().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_trusted_key_a_part_is_not_read_from_an_anchor_with_the_same_xxh3_digest() {
    let key = SignKey::generate();
    let world = signed(&key).await;
    world.publish_steps(1).await;
    let stream = trusting(&world, key.public()).await;
    let tip = stream.tip().await.unwrap().unwrap();
    exchange_block(&anchor_file(&world, &tip));
    let ranges = stream.range_reader(&tip, &Default::default()).await.unwrap();
    let error = ranges.read_tensor("b.weight").await.unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_xxh3_is_neither_signed_nor_read_with_a_key() {
    let key = SignKey::generate();
    let world = World::new().await;
    world.publish_steps(1).await;
    let weak = |error: &StoreError| matches!(error, StoreError::WeakLeafHash { .. });
    let builder = Stream::builder(world.path("new").to_str().unwrap()).sign_key(key.clone());
    let error = builder.leaf_hash(LeafHash::Xxh3).open_or_create().await.unwrap_err();
    assert!(weak(&error) && !world.path("new/stream.json").exists(), "{error}");
    // A record that says so and is signed, as another program might write it.
    let path = world.path("bucket/stream.json");
    let record = std::fs::read(&path).unwrap();
    std::fs::write(&path, key.sign("tensorpatch-stream", record)).unwrap();
    let error = Stream::builder(url(&world)).trust_keys([key.public()]).open().await.unwrap_err();
    assert!(weak(&error), "{error}");
    assert!(error.to_string().contains("xxh3"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_hashed_with_a_trusted_key_though_nothing_is_newer() {
    let key = SignKey::generate();
    let world = signed(&key).await;
    world.publish_steps(1).await;
    let stream = trusting(&world, key.public()).await;
    let replica = replica(&stream, world.path("r"));
    replica.pull().await.unwrap();
    assert!(replica.pull().await.unwrap().verified);
    let weights = world.path("r/model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, &bytes).unwrap();
    let options = ReplicaOptions::default().with_verify(Verify::Never);
    let believing = Replica::of(stream.clone(), replica.dir(), options);
    assert!(!believing.pull().await.unwrap().verified);
    assert!(std::fs::read(&weights).unwrap() == bytes);
    assert!(replica.pull().await.unwrap().verified);
    assert_same(replica.dir(), &world.step(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_beside_the_weights_that_was_altered_is_fetched_again() {
    let key = SignKey::generate();
    let world = signed(&key).await;
    world.publish_steps(2).await;
    let replica = replica(&trusting(&world, key.public()).await, world.path("r"));
    for version in [1, 1, 2, 2] {
        replica.pull_version(v(version)).await.unwrap();
        assert_same(replica.dir(), &world.step(version));
        std::fs::write(world.path("r/config.json"), r#"{"model_type":"evil"}"#).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_other_stream_of_the_same_key_is_refused_where_the_id_is_given() {
    let key = SignKey::generate();
    let (ours, theirs) = (signed(&key).await, signed(&key).await);
    ours.publish_steps(1).await;
    theirs.publish_steps(3).await;
    let id = ours.stream.id();
    std::fs::remove_dir_all(ours.path("bucket")).unwrap();
    copy_dir(&theirs.path("bucket"), &ours.path("bucket"));
    let wrong = |error: &StoreError| matches!(error, StoreError::WrongStream { .. });
    let builder = Replica::builder(url(&ours), ours.path("new")).trust_keys([key.public()]);
    let error = builder.clone().stream(id).open().await.unwrap_err();
    assert!(wrong(&error), "{error}");
    let publisher = Publisher::builder(url(&ours)).sign_key(key).baseline(ours.path("other"));
    let error = publisher.clone().stream(id).open().await.unwrap_err();
    assert!(wrong(&error) && !ours.path("other").exists(), "{error}");
    // A key alone takes any stream that it has signed, and says which.
    assert_eq!(builder.open().await.unwrap().pull().await.unwrap().stream, theirs.stream.id());
    // Nor is a stream created where the one that was named is gone.
    std::fs::remove_dir_all(ours.path("bucket")).unwrap();
    let error = publisher.stream(id).open().await.unwrap_err();
    assert!(matches!(error, StoreError::NoStream { .. }), "{error}");
    assert!(!ours.path("bucket/stream.json").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_without_its_baseline_does_not_fork_a_stream_whose_tip_is_hidden() {
    let key = SignKey::generate();
    let world = signed(&key).await;
    let builder = |baseline: &str| {
        let options = PublishOptions::default().with_anchors(AnchorPolicy::NEVER);
        let builder = Publisher::builder(url(&world)).sign_key(key.clone()).options(options);
        builder.baseline(world.path(baseline))
    };
    let noted = builder("baseline").signed_tips(world.path("key.tips")).open().await.unwrap();
    for step in 1..=3 {
        noted.publish(&world.step(step)).await.unwrap();
    }
    let (record, hidden) = (world.path(&format!("bucket/commits/{:020}.json", 3)), world.path("hidden"));
    std::fs::rename(&record, &hidden).unwrap();
    std::fs::remove_file(world.path("bucket/latest.json")).unwrap();
    let is_hidden = |error: &StoreError| matches!(error, StoreError::HiddenTip { known, found, .. } if *known == v(3) && *found == Some(v(2)));
    let error = builder("lost").signed_tips(world.path("key.tips")).open().await.unwrap_err();
    assert!(is_hidden(&error), "{error}");
    let error = builder("lost").expect_tip(v(3)).open().await.unwrap_err();
    assert!(is_hidden(&error), "{error}");
    let reader =
        Stream::builder(url(&world)).trust_keys([key.public()]).expect_tip(v(3)).open().await.unwrap();
    assert!(is_hidden(&replica(&reader, world.path("r")).pull().await.unwrap_err()));
    // Where neither is known, the key signs another version 3: nothing in the bucket tells.
    let forked = builder("forked").open().await.unwrap();
    forked.publish(&world.step(30)).await.unwrap();
    // Who has noted the first one, sees that this is another.
    let error = builder("lost").signed_tips(world.path("key.tips")).open().await.unwrap_err();
    assert!(matches!(error, StoreError::HistoryRewritten(_)), "{error}");
    std::fs::rename(&hidden, &record).unwrap();
    builder("back").signed_tips(world.path("key.tips")).open().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_note_of_what_was_signed_that_cannot_be_read_stops_the_publisher() {
    let key = SignKey::generate();
    let world = signed(&key).await;
    let dir = world.path("key.tips");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join(format!("{}.json", world.stream.id())), "{").unwrap();
    let builder = Publisher::builder(url(&world)).sign_key(key).baseline(world.path("baseline"));
    let error = builder.signed_tips(dir).open().await.unwrap_err();
    assert!(matches!(error, StoreError::SignedTip { .. }), "{error}");
}

/// A signed stream of three versions that is handed over, and read or published to with any key.
struct Rotated {
    world: World,
    old: SignKey,
    new: SignKey,
}

impl Rotated {
    /// Handed over after version 2, which the old key has signed; version 3 is the new one's.
    async fn new(with_consent: bool) -> Self {
        let (old, new) = (SignKey::generate(), SignKey::generate());
        let world = signed(&old).await;
        world.publish_steps(2).await;
        let stream = trusting(&world, old.public()).await;
        let from = if with_consent { OldKey::Agrees(old.clone()) } else { OldKey::Gone(old.public()) };
        let handed_over = stream.hand_over(&from, &new, None).await.unwrap();
        assert_eq!((handed_over.last, handed_over.agreed), (v(2), with_consent));
        let rotated = Self { world, old, new };
        rotated.publisher(&rotated.new).await.unwrap().publish(&rotated.world.step(3)).await.unwrap();
        rotated
    }

    async fn publisher(&self, key: &SignKey) -> Result<Publisher, StoreError> {
        let options = PublishOptions::default().with_anchors(AnchorPolicy::NEVER);
        let builder = Publisher::builder(url(&self.world)).sign_key(key.clone()).options(options);
        builder.baseline(self.world.path("baseline")).open().await
    }

    async fn pull(&self, dir: &str, key: &SignKey) -> Result<u64, StoreError> {
        let stream = Stream::builder(url(&self.world)).trust_keys([key.public()]).open().await?;
        let pulled = replica(&stream, self.world.path(dir)).pull().await?;
        assert_same(&self.world.path(dir), &self.world.step(pulled.to.get()));
        Ok(pulled.to.get())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_under_a_new_key_and_the_old_one_stops_counting() {
    let rotated = Rotated::new(true).await;
    for (dir, key) in [("knows-the-old", &rotated.old), ("knows-the-new", &rotated.new)] {
        assert_eq!(rotated.pull(dir, key).await.unwrap(), 3);
    }
    let error = rotated.publisher(&rotated.old).await.unwrap_err();
    assert!(matches!(error, StoreError::RetiredKey { .. }), "{error}");
    // Who has found the old key and can write to the bucket publishes nothing that anybody takes.
    let stolen = Stream::builder(url(&rotated.world)).open().await.unwrap().signing(rotated.old.clone());
    let options = PublishOptions::default().with_anchors(AnchorPolicy::NEVER);
    let thief = Publisher::on(stolen, rotated.world.path("thief"), options).await.unwrap();
    thief.publish(&rotated.world.step(40)).await.unwrap();
    for (dir, key) in [("knows-the-old", &rotated.old), ("knows-the-new", &rotated.new)] {
        let error = rotated.pull(dir, key).await.unwrap_err();
        assert!(matches!(error, StoreError::Untrusted { .. }), "{error}");
        assert_same(&rotated.world.path(dir), &rotated.world.step(3));
    }
    // Once it is removed, the stream goes on.
    std::fs::remove_file(rotated.world.path(&format!("bucket/commits/{:020}.json", 4))).unwrap();
    std::fs::remove_file(rotated.world.path("bucket/latest.json")).unwrap();
    rotated.publisher(&rotated.new).await.unwrap().publish(&rotated.world.step(4)).await.unwrap();
    assert_eq!(rotated.pull("knows-the-old", &rotated.old).await.unwrap(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_lost_is_replaced_without_its_consent_and_replicas_are_told() {
    let rotated = Rotated::new(false).await;
    assert_eq!(rotated.pull("told", &rotated.new).await.unwrap(), 3);
    let error = rotated.pull("untold", &rotated.old).await.unwrap_err();
    assert!(matches!(error, StoreError::Untrusted { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_key_signs_no_other_old_versions() {
    let rotated = Rotated::new(false).await;
    // Another version 1, well signed, that leads to nothing: the chain up to the handover does not have it.
    let other = signed(&rotated.old).await;
    other.publish_steps(1).await;
    let bucket = rotated.world.path("bucket");
    let first = format!("commits/{:020}.json", 1);
    let text = std::fs::read_to_string(bucket.join(&first)).unwrap();
    let unsigned = format!("{}}}", &text[..text.len() - 231]);
    let forged = unsigned.replace("\"publisher\":\"trainer\"", "\"publisher\":\"mallory\"");
    assert_ne!(unsigned, forged);
    std::fs::write(bucket.join(&first), rotated.old.sign("tensorpatch-commit", forged.into_bytes())).unwrap();
    let stream = trusting(&rotated.world, rotated.new.public()).await;
    // Nor where the weights are those of version 1 already: the files beside them would be the thief's.
    std::fs::create_dir(rotated.world.path("has-it")).unwrap();
    for name in ["model.safetensors", "model.safetensors.index.json"] {
        let from = rotated.world.step(1).join(name);
        if from.exists() {
            std::fs::copy(from, rotated.world.path("has-it").join(name)).unwrap();
        }
    }
    for dir in ["r", "has-it"] {
        let error = replica(&stream, rotated.world.path(dir)).pull_version(v(1)).await.unwrap_err();
        assert!(matches!(error, StoreError::Untrusted { .. }), "{dir}: {error}");
        assert!(!rotated.world.path(dir).join(".tensorpatch/state.json").exists(), "{dir}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_before_the_handover_is_not_shown() {
    let rotated = Rotated::new(true).await;
    for version in [2, 3] {
        std::fs::remove_file(rotated.world.path(&format!("bucket/commits/{version:020}.json"))).unwrap();
    }
    std::fs::remove_file(rotated.world.path("bucket/latest.json")).unwrap();
    let error = rotated.pull("r", &rotated.new).await.unwrap_err();
    assert!(matches!(error, StoreError::HiddenTip { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_among_the_handovers_and_is_none_is_ignored_up_to_a_limit() {
    let rotated = Rotated::new(true).await;
    let dir = rotated.world.path("bucket/handovers");
    // However large it is: it is not read.
    std::fs::File::create(dir.join("x.json")).unwrap().set_len(1 << 40).unwrap();
    std::fs::write(dir.join("y"), "{}").unwrap();
    assert_eq!(rotated.pull("r", &rotated.old).await.unwrap(), 3);
    for number in 0..64 {
        std::fs::write(dir.join(format!("z{number}")), "{}").unwrap();
    }
    let error = rotated.pull("r", &rotated.old).await.unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}
