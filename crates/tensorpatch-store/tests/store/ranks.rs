//! Versions that several ranks publish together.

use std::path::{Path, PathBuf};

use crate::support::{World, assert_same, files, safetensors, short_plans, v, values, write_sharded};
use tensorpatch_delta::safetensors::{Dtype, tensor::TensorView};
use tensorpatch_delta::{Options, Others};
use tensorpatch_format::Limits;
use tensorpatch_store::ranks::RankPublisher;
use tensorpatch_store::{
    AnchorPolicy, ApplyMode, CommitRecord, Folder, JsonRecord, Key, Nonce, ObjectDigest, PublishOptions,
    Published, Rank, Receipt, ReceiptContent, ReceiptError, Replica, ReplicaOptions, StoreError, ranks,
    upkeep::{self, CheckOptions},
};

const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

/// As it arrives at the committer: as text.
fn travelled(receipt: &Receipt) -> Receipt {
    serde_json::from_str(&serde_json::to_string(receipt).unwrap()).unwrap()
}

struct Ranks {
    world: World,
}

impl Ranks {
    /// A stream with one version, of a checkpoint in two shards.
    async fn new() -> Self {
        let ranks = Self::empty().await;
        ranks.world.publisher().await.publish(&ranks.step(1)).await.unwrap();
        ranks
    }

    async fn empty() -> Self {
        Self { world: World::new().await }
    }

    fn step(&self, step: u64) -> PathBuf {
        let path = self.world.path(&format!("sharded-{step}"));
        write_sharded(&path, step);
        path
    }

    /// What rank `rank`, which owns one shard, uploads for a step.
    async fn prepare(&self, rank: usize, old: u64, new: u64) -> Receipt {
        let base = self.world.stream.tip().await.unwrap().unwrap();
        let shard = |step| vec![self.step(step).join(SHARDS[rank])];
        let work = self.world.path(&format!("rank-{rank}"));
        let options = PublishOptions::default();
        let stream = &self.world.stream;
        let (index, rank) = (u32::try_from(rank).unwrap(), Rank { index: 0, count: 2 });
        let rank = Rank { index, ..rank };
        let receipt = ranks::upload_patch(stream, &base, rank, &shard(old), &shard(new), &work, &options)
            .await
            .unwrap();
        travelled(&receipt)
    }

    /// What rank `rank` uploads of a step as it is: one shard, and the first rank the configuration besides.
    async fn prepare_files(&self, rank: usize, attempt: Nonce, step: &Path) -> Result<Receipt, StoreError> {
        let follows = self.world.stream.tip().await.unwrap();
        let mut files = vec![step.join(SHARDS[rank])];
        if rank == 0 {
            files.push(step.join("config.json"));
        }
        let work = self.world.path(&format!("rank-{rank}"));
        let (index, options) = (u32::try_from(rank).unwrap(), PublishOptions::default());
        let rank = Rank { index, count: 2 };
        let stream = &self.world.stream;
        let receipt =
            ranks::upload_files(stream, follows.as_ref(), rank, attempt, &files, &work, &options).await?;
        assert_eq!(std::fs::read_dir(&work).unwrap().count(), 0, "the copies are removed");
        Ok(travelled(&receipt))
    }

    async fn commit(&self, receipts: &[Receipt]) -> Result<u64, StoreError> {
        Ok(self.commit_anchored(receipts, AnchorPolicy::NEVER).await?.version.get())
    }

    async fn commit_anchored(
        &self,
        receipts: &[Receipt],
        anchors: AnchorPolicy,
    ) -> Result<Published, StoreError> {
        let options = PublishOptions::default().with_anchors(anchors);
        ranks::commit(&self.world.stream, receipts, None, &self.world.path("committer"), &options).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_of_several_ranks_are_one_version_for_every_reader() {
    let ranks = Ranks::new().await;
    for step in 2..=5 {
        let receipts = [ranks.prepare(1, step - 1, step).await, ranks.prepare(0, step - 1, step).await];
        assert_eq!(ranks.commit(&receipts).await.unwrap(), step);
    }
    // One whose ranks have nothing new, and one that a single rank publishes for all.
    let receipts = [ranks.prepare(0, 5, 5).await, ranks.prepare(1, 5, 5).await];
    assert_eq!(ranks.commit(&receipts).await.unwrap(), 6);
    let world = &ranks.world;
    for mode in [ApplyMode::InPlace, ApplyMode::Beside] {
        let replica = world.replica(&format!("{mode:?}"), mode);
        for version in [1, 2, 4, 6] {
            replica.pull_version(v(version)).await.unwrap();
            assert_same(replica.dir(), &ranks.step(version.min(5)));
        }
    }
    let folder = Folder::new(world.stream.clone(), world.path("work"), PublishOptions::default());
    assert!(folder.fold(v(1), v(6)).await.unwrap().added);
    // An ordinary publisher goes on from there.
    world.publisher().await.publish(&ranks.step(7)).await.unwrap();
    let replica = world.replica("late", ApplyMode::InPlace);
    replica.pull().await.unwrap();
    assert_same(replica.dir(), &ranks.step(7));
    assert!(upkeep::check(&world.stream, &CheckOptions::default()).await.unwrap().is_sound());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_many_patches_and_files_say_of_tensors_is_limited_together() {
    let ranks = Ranks::new().await;
    ranks.commit(&[ranks.prepare(0, 1, 2).await, ranks.prepare(1, 1, 2).await]).await.unwrap();
    let (stream, first) = (&ranks.world.stream, ranks.world.stream.commit(v(1)).await.unwrap().unwrap());
    // A patch under many names, with one schema.
    let mut record = stream.tip().await.unwrap().unwrap().record;
    let patches = &mut record.delta.as_mut().unwrap().patches;
    let bucket = ranks.world.path("bucket");
    for number in 0..20 {
        let mut copy = patches[0].clone();
        copy.object.key = Key::new(format!("{}-{number}", copy.object.key)).unwrap();
        std::fs::copy(bucket.join(patches[0].object.key.as_str()), bucket.join(copy.object.key.as_str()))
            .unwrap();
        patches.push(copy);
    }
    std::fs::write(bucket.join(format!("commits/{:020}.json", 2)), record.to_bytes().unwrap()).unwrap();
    let schemas = record.delta.iter().flat_map(|delta| &delta.patches);
    let bytes: u64 = schemas.filter_map(|patch| Some(patch.schema.as_ref()?.bytes)).sum();
    let tip = stream.tip().await.unwrap().unwrap();
    let mut limits = Limits::default();
    for (most, fits) in [(bytes, true), (bytes - 1, false)] {
        limits.metadata_bytes = most;
        let options = ReplicaOptions::default().with_apply(Options::default().with_limits(limits.clone()));
        let replica = Replica::of(stream.clone(), ranks.world.path(&format!("r-{fits}")), options);
        replica.pull_version(v(1)).await.unwrap();
        let pulled = replica.pull().await.unwrap_err().to_string();
        let ranges = stream.range_reader(&tip, &limits).await.map(|_| ());
        let ranges = ranges.err().map(|error| error.to_string()).unwrap_or_default();
        assert!([&pulled, &ranges].iter().all(|said| said.contains("together") != fits), "{pulled} {ranges}");
    }
    limits = Limits::default();
    let header = |name: &str| {
        let file = std::fs::read(ranks.step(1).join(name)).unwrap();
        8 + u64::from_le_bytes(file[..8].try_into().unwrap())
    };
    let headers = SHARDS.map(header);
    for (bytes, fits) in [(headers[0] + headers[1], true), (headers[0] + headers[1] - 1, false)] {
        limits.header_bytes = bytes;
        let ranges = stream.range_reader(&first, &limits).await.map(|_| ());
        let said = ranges.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(fits == said.is_empty() && (fits || said.contains("together")), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranks_that_only_publish_make_a_stream_that_newcomers_can_join() {
    let ranks = Ranks::new().await;
    for step in 2..=5 {
        let receipts = [ranks.prepare(0, step - 1, step).await, ranks.prepare(1, step - 1, step).await];
        let published = ranks.commit_anchored(&receipts, AnchorPolicy::every(2)).await.unwrap();
        assert_eq!(published.anchor_error, None);
        let anchor = published.anchor.map(|anchor| anchor.version);
        assert_eq!(anchor, [3, 5].contains(&step).then(|| v(step)));
    }
    let stream = ranks.world.stream.clone().with_policy(short_plans(1));
    let newcomer = Replica::of(stream, ranks.world.path("newcomer"), ReplicaOptions::default());
    newcomer.pull().await.unwrap();
    assert_same(newcomer.dir(), &ranks.step(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_doubled_and_inconsistent_patches_are_refused() {
    let ranks = Ranks::new().await;
    let (one, two) = (ranks.prepare(0, 1, 2).await, ranks.prepare(1, 1, 2).await);
    let refused = async |receipts: &[Receipt]| match ranks.commit(receipts).await.unwrap_err() {
        StoreError::Receipts(error) => error,
        error => panic!("{error}"),
    };
    assert_eq!(refused(&[]).await, ReceiptError::None);
    let alone = refused(std::slice::from_ref(&one)).await;
    assert_eq!(alone, ReceiptError::MissingRanks { missing: vec![1], found: 1, count: 2 });
    assert_eq!(alone.to_string(), "1 of 2 ranks have a receipt; there is none of rank 1");
    // However many ranks a receipt speaks of, the answer is short.
    let mut crowd = one.clone();
    crowd.rank.count = 10_000_000;
    let crowded = refused(&[crowd]).await;
    assert!(matches!(&crowded, ReceiptError::MissingRanks { missing, .. } if missing.len() < 100));
    assert!(crowded.to_string().starts_with("1 of 10000000 ranks have a receipt"), "{crowded}");
    let doubled = refused(&[one.clone(), two.clone(), one.clone()]).await;
    assert_eq!(doubled, ReceiptError::DoubledRank(0));
    let mut other_count = two.clone();
    other_count.rank.count = 3;
    assert!(matches!(refused(&[one.clone(), other_count]).await, ReceiptError::Mixed(_)));
    let mut beyond = two.clone();
    beyond.rank.index = 2;
    assert!(matches!(refused(&[one.clone(), beyond]).await, ReceiptError::Mixed(_)));
    // Ranks that are all there, and do not own what they should.
    let mut greedy = two.clone();
    greedy.tensors.extend(one.tensors.clone());
    assert_eq!(refused(&[one.clone(), greedy]).await, ReceiptError::Doubled("a".into()));
    let mut lazy = two.clone();
    lazy.tensors.clear();
    let error = refused(&[one.clone(), lazy]).await;
    assert!(error.to_string().ends_with("; missing: b.weight"), "{error}");
    // A rank that started from another state than the version before.
    let stale = ranks.prepare(1, 3, 2).await;
    assert!(matches!(refused(&[one.clone(), stale]).await, ReceiptError::Base { .. }));
    let mut foreign = two.clone();
    foreign.stream = "00".repeat(16).parse().unwrap();
    assert!(matches!(refused(&[one.clone(), foreign]).await, ReceiptError::Mixed(_)));
    let mut elsewhere = two.clone();
    elsewhere.after.as_mut().unwrap().commit = ObjectDigest::of(b"a record under the same number");
    let error = refused(&[one.clone(), elsewhere]).await;
    assert!(matches!(&error, ReceiptError::Mixed(what) if what.contains("they follow")), "{error}");
    let mut reshaped = two.clone();
    reshaped.tensors[0].shape = vec![1, 5000];
    let error = refused(&[one.clone(), reshaped]).await;
    assert!(error.to_string().ends_with("; others than before: b.weight"), "{error}");
    let mut baseless = two.clone();
    baseless.tensors[0].base = None;
    assert!(matches!(refused(&[one.clone(), baseless]).await, ReceiptError::Tensor(_)));
    // A patch that did not arrive.
    let ReceiptContent::Patch { patch, .. } = &two.content else { panic!("{two:?}") };
    let patch = ranks.world.path("bucket").join(patch.key.as_str());
    let bytes = std::fs::read(&patch).unwrap();
    std::fs::remove_file(&patch).unwrap();
    let receipts = [one.clone(), two.clone()];
    assert!(matches!(ranks.commit(&receipts).await, Err(StoreError::Missing { .. })));
    assert_eq!(ranks.world.stream.log().await.unwrap().len(), 1);
    std::fs::write(&patch, bytes).unwrap();
    assert_eq!(ranks.commit(&receipts).await.unwrap(), 2);
    // The same again is behind the tip now.
    assert!(matches!(ranks.commit(&receipts).await, Err(StoreError::NotAtTip { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_that_lie_about_the_target_harm_no_replica() {
    let ranks = Ranks::new().await;
    let (one, mut two) = (ranks.prepare(0, 1, 2).await, ranks.prepare(1, 1, 2).await);
    two.tensors[0].target = "ab".repeat(32).parse().unwrap();
    ranks.commit(&[one, two]).await.unwrap();
    let replica = ranks.world.replica("r", ApplyMode::InPlace);
    replica.pull_version(v(1)).await.unwrap();
    assert!(replica.pull().await.is_err());
    assert_same(replica.dir(), &ranks.step(1));
    assert_eq!(replica.held().await.unwrap().unwrap().version, v(1));
}

/// The visible files of two directories are the same, but for the index, which is made by the commit.
fn assert_same_but_index(found: &Path, expected: &Path) {
    let (mut found, mut expected) = (files(found), files(expected));
    let index = "model.safetensors.index.json";
    let map = |bytes: Vec<u8>| serde_json::from_slice::<serde_json::Value>(&bytes).unwrap();
    let (ours, theirs) = (map(found.remove(index).unwrap()), map(expected.remove(index).unwrap()));
    assert_eq!(ours, theirs);
    assert!(found == expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn ranks_publish_a_first_version_of_their_files_and_go_on_with_patches() {
    let ranks = Ranks::empty().await;
    let attempt = Nonce::random();
    let mut receipts = Vec::new();
    for rank in [1, 0] {
        receipts.push(ranks.prepare_files(rank, attempt, &ranks.step(1)).await.unwrap());
    }
    assert_eq!(ranks.commit(&receipts).await.unwrap(), 1);
    // The objects lie in one directory, which is a checkpoint for whoever knows nothing of streams.
    let anchors = std::fs::read_dir(ranks.world.path("bucket/anchors")).unwrap();
    let directories: Vec<_> =
        anchors.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    assert_eq!(directories.len(), 1);
    assert_same_but_index(&directories[0], &ranks.step(1));
    let receipts = [ranks.prepare(0, 1, 2).await, ranks.prepare(1, 1, 2).await];
    assert_eq!(ranks.commit(&receipts).await.unwrap(), 2);
    for mode in [ApplyMode::InPlace, ApplyMode::Beside] {
        let replica = ranks.world.replica(&format!("{mode:?}"), mode);
        for version in [1, 2] {
            replica.pull_version(v(version)).await.unwrap();
            assert_same_but_index(replica.dir(), &ranks.step(version));
        }
    }
    let tip = ranks.world.stream.tip().await.unwrap().unwrap();
    let ranges = ranks.world.stream.range_reader(&tip, &Default::default()).await.unwrap();
    assert!(ranges.read_tensor("b.weight").await.unwrap() == values(2, 2, 5000));
    let checked = upkeep::check(&ranks.world.stream, &CheckOptions::default()).await.unwrap();
    assert!(checked.is_sound() && checked.abandoned.is_empty(), "{checked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ranks_publish_other_tensors_and_files_than_before() {
    let ranks = Ranks::new().await;
    let step = ranks.step(2);
    // One tensor is reshaped, one is new, and they are spread otherwise.
    let first = safetensors(&[("a", values(1, 2, 6000)), ("c", values(3, 2, 100))]);
    std::fs::write(step.join(SHARDS[0]), first).unwrap();
    let attempt = Nonce::random();
    let receipts = [
        ranks.prepare_files(0, attempt, &step).await.unwrap(),
        ranks.prepare_files(1, attempt, &step).await.unwrap(),
    ];
    assert_eq!(ranks.commit(&receipts).await.unwrap(), 2);
    let replica = ranks.world.replica("r", ApplyMode::InPlace);
    for version in [1, 2] {
        replica.pull_version(v(version)).await.unwrap();
    }
    let found = files(replica.dir());
    assert!(found[SHARDS[0]] == std::fs::read(step.join(SHARDS[0])).unwrap());
    assert!(found[SHARDS[1]] == std::fs::read(step.join(SHARDS[1])).unwrap());
    let index: serde_json::Value = serde_json::from_slice(&found["model.safetensors.index.json"]).unwrap();
    assert_eq!(index["weight_map"]["c"], SHARDS[0]);
    assert_eq!(index["metadata"]["total_size"], 22_200);
    // A single publisher goes on from there, with a patch.
    let published = ranks.world.publisher().await.publish(&ranks.step(3)).await.unwrap();
    assert_eq!(published.base, Some(v(2)));
    replica.pull().await.unwrap();
    assert_same(replica.dir(), &ranks.step(3));
    let checked = upkeep::check(&ranks.world.stream, &CheckOptions::default()).await.unwrap();
    assert!(checked.is_sound() && checked.abandoned.is_empty(), "{checked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_ranks_that_are_missing_doubled_or_not_what_their_receipt_says_are_refused() {
    let ranks = Ranks::empty().await;
    let attempt = Nonce::random();
    let one = ranks.prepare_files(0, attempt, &ranks.step(1)).await.unwrap();
    let two = ranks.prepare_files(1, attempt, &ranks.step(1)).await.unwrap();
    let refused = async |receipts: &[Receipt]| match ranks.commit(receipts).await.unwrap_err() {
        StoreError::Receipts(error) => error,
        error => panic!("{error}"),
    };
    // Of a first version nobody knows the tensors beforehand: the number of ranks tells that it is not whole.
    let alone = refused(std::slice::from_ref(&two)).await;
    assert_eq!(alone, ReceiptError::MissingRanks { missing: vec![0], found: 1, count: 2 });
    // The nonce of an attempt is used once.
    let again = ranks.prepare_files(1, attempt, &ranks.step(1)).await.unwrap_err();
    assert!(matches!(again, StoreError::Receipts(ReceiptError::Used(_))), "{again}");
    let other = ranks.prepare_files(1, Nonce::random(), &ranks.step(1)).await.unwrap();
    assert!(matches!(refused(&[one.clone(), other]).await, ReceiptError::Mixed(_)));
    let alter = |alter: &dyn Fn(&mut Receipt)| {
        let mut altered = two.clone();
        alter(&mut altered);
        [one.clone(), altered]
    };
    let with_files = |receipt: &mut Receipt, alter: &dyn Fn(&mut Vec<tensorpatch_store::NamedObject>)| {
        if let ReceiptContent::Files { files, .. } = &mut receipt.content {
            alter(files);
        }
    };
    let receipts = alter(&|two| two.tensors[0].target = "ab".repeat(32).parse().unwrap());
    assert!(matches!(refused(&receipts).await, ReceiptError::Files { rank: 1, .. }));
    let receipts = alter(&|two| two.tensors[0].shape = vec![2, 2500]);
    assert!(matches!(refused(&receipts).await, ReceiptError::Files { rank: 1, .. }));
    let receipts = alter(&|two| two.tensors = one.tensors.clone());
    assert!(matches!(refused(&receipts).await, ReceiptError::Doubled(_)));
    let receipts = alter(&|two| with_files(two, &|files| files.clear()));
    assert!(matches!(refused(&receipts).await, ReceiptError::Files { rank: 1, .. }));
    let receipts = alter(&|two| with_files(two, &|files| files[0].name = "../x.safetensors".into()));
    assert!(matches!(refused(&receipts).await, ReceiptError::Files { rank: 1, .. }));
    let ReceiptContent::Files { files: of_one, .. } = &one.content else { panic!("{one:?}") };
    let companion = of_one.iter().find(|file| file.name == "config.json").unwrap();
    let receipts = alter(&|two| with_files(two, &|files| files.push(companion.clone())));
    assert_eq!(refused(&receipts).await, ReceiptError::Doubled("config.json".into()));
    let receipts = alter(&|two| two.content = one.content.clone());
    assert!(matches!(refused(&receipts).await, ReceiptError::Files { rank: 1, .. }));
    // What was uploaded is altered or gone.
    let ReceiptContent::Files { files, leaves, layout, .. } = &two.content else { panic!("{two:?}") };
    for object in [leaves, layout] {
        let path = ranks.world.path("bucket").join(object.key.as_str());
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        bad[0] ^= 1;
        std::fs::write(&path, bad).unwrap();
        let error = refused(&[one.clone(), two.clone()]).await;
        assert!(error.to_string().contains("is not what its receipt says"), "{error}");
        std::fs::write(&path, good).unwrap();
    }
    let path = ranks.world.path("bucket").join(files[0].object.key.as_str());
    let good = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let receipts = [one.clone(), two.clone()];
    assert!(matches!(ranks.commit(&receipts).await, Err(StoreError::Missing { .. })));
    assert!(ranks.world.stream.tip().await.unwrap().is_none());
    std::fs::write(&path, good).unwrap();
    assert_eq!(ranks.commit(&receipts).await.unwrap(), 1);
    assert!(matches!(ranks.commit(&receipts).await, Err(StoreError::NotAtTip { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_and_files_are_no_version_together_and_a_patch_needs_a_version_before() {
    let ranks = Ranks::new().await;
    let patch = ranks.prepare(0, 1, 2).await;
    let files = ranks.prepare_files(1, Nonce::random(), &ranks.step(2)).await.unwrap();
    let error = ranks.commit(&[patch.clone(), files]).await.unwrap_err();
    assert!(matches!(error, StoreError::Receipts(ReceiptError::Mixed(_))), "{error}");
    let mut orphan = patch;
    let empty = Ranks::empty().await;
    (orphan.stream, orphan.after, orphan.rank.count) = (empty.world.stream.id(), None, 1);
    let error = empty.commit(&[orphan]).await.unwrap_err();
    assert!(matches!(error, StoreError::Receipts(ReceiptError::Mixed(_))), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_are_not_all_tensors_of_the_version_are_not_put_together() {
    let ranks = Ranks::new().await;
    let receipts = [ranks.prepare(0, 1, 2).await, ranks.prepare(1, 1, 2).await];
    ranks.commit(&receipts).await.unwrap();
    let path = ranks.world.path(&format!("bucket/commits/{:020}.json", 2));
    let mut record = CommitRecord::parse(&std::fs::read(&path).unwrap()).unwrap();
    record.contents.schema = "ab".repeat(32).parse().unwrap();
    std::fs::write(&path, record.to_bytes().unwrap()).unwrap();
    let replica = ranks.world.replica("r", ApplyMode::InPlace);
    replica.pull_version(v(1)).await.unwrap();
    let error = replica.pull().await.unwrap_err();
    assert!(error.to_string().contains("the tensors of its patches"), "{error}");
    assert_same(replica.dir(), &ranks.step(1));
}

/// Ranks that publish from memory, each with one of the two tensors.
struct MemoryRanks {
    world: World,
}

impl MemoryRanks {
    fn publisher(&self, index: u32) -> RankPublisher {
        let dir = self.world.path(&format!("memory-{index}"));
        let (stream, options) = (self.world.stream.clone(), PublishOptions::default());
        RankPublisher::new(stream, Rank { index, count: 2 }, dir, options)
    }

    async fn prepare(&self, step: u64, attempt: Nonce) -> Result<Vec<Receipt>, StoreError> {
        let mut receipts = Vec::new();
        for (index, (name, elements)) in (0..).zip([("a", 3000), ("b.weight", 5000)]) {
            let bytes = values(u64::from(index) + 1, step, elements);
            let mut feed = self.publisher(index).feed().await?;
            feed.add(name, &TensorView::new(Dtype::BF16, vec![elements], &bytes).unwrap())?;
            receipts.push(travelled(&feed.finish(attempt, Others::Refused).await?));
        }
        Ok(receipts)
    }

    async fn publish(&self, step: u64) -> Published {
        let receipts = self.prepare(step, Nonce::random()).await.unwrap();
        let options = PublishOptions::default().with_anchors(AnchorPolicy::NEVER);
        let work = self.world.path("committer");
        ranks::commit(&self.world.stream, &receipts, None, &work, &options).await.unwrap()
    }

    /// Checks that the newest version has the tensors of a step.
    async fn check(&self, step: u64) {
        let tip = self.world.stream.tip().await.unwrap().unwrap();
        let reader = self.world.stream.range_reader(&tip, &Default::default()).await.unwrap();
        assert!(reader.read_tensor("a").await.unwrap() == values(1, step, 3000));
        assert!(reader.read_tensor("b.weight").await.unwrap() == values(2, step, 5000));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranks_publish_from_memory_and_notice_what_became_of_it() {
    let ranks = MemoryRanks { world: World::new().await };
    let whole = ranks.publish(1).await.bytes;
    for step in 2..=4 {
        let published = ranks.publish(step).await;
        assert!(published.bytes < whole, "a patch, not the whole of it");
        ranks.check(step).await;
    }
    // An attempt that nobody commits.
    ranks.prepare(9, Nonce::random()).await.unwrap();
    ranks.publish(5).await;
    ranks.check(5).await;
    assert!(upkeep::check(&ranks.world.stream, &CheckOptions::default()).await.unwrap().is_sound());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rank_whose_tensors_are_lost_damaged_or_old_reads_them_from_the_stream() {
    let ranks = MemoryRanks { world: World::new().await };
    ranks.publish(1).await;
    ranks.publish(2).await;
    std::fs::remove_dir_all(ranks.world.path("memory-0")).unwrap();
    let weights = ranks.world.path("memory-1/held/weights/model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    ranks.publish(3).await;
    ranks.check(3).await;
    // Somebody else publishes a version.
    ranks
        .world
        .publisher()
        .await
        .publish(&{
            let path = ranks.world.path("elsewhere");
            write_sharded(&path, 4);
            path
        })
        .await
        .unwrap();
    ranks.publish(5).await;
    ranks.check(5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rank_with_other_tensors_than_before_is_refused_unless_all_are_whole() {
    let ranks = MemoryRanks { world: World::new().await };
    ranks.publish(1).await;
    ranks.publish(2).await;
    let tensor = |bytes| TensorView::new(Dtype::BF16, vec![1], bytes).unwrap();
    let mut feed = ranks.publisher(0).feed().await.unwrap();
    feed.add("a", &tensor(&[1, 2])).unwrap();
    let error = feed.finish(Nonce::random(), Others::Refused).await.unwrap_err();
    assert!(matches!(error, StoreError::Receipts(ReceiptError::Tensor(_))), "{error}");

    let (attempt, mut receipts) = (Nonce::random(), Vec::new());
    for (index, name) in [(0, "a"), (1, "c")] {
        let mut feed = ranks.publisher(index).feed_whole().await.unwrap();
        feed.add(name, &tensor(&[1, 2])).unwrap();
        receipts.push(travelled(&feed.finish(attempt, Others::Refused).await.unwrap()));
    }
    let work = ranks.world.path("committer");
    let options = PublishOptions::default();
    let published = ranks::commit(&ranks.world.stream, &receipts, None, &work, &options).await.unwrap();
    assert_eq!(published.contents.tensors, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_tensor_spoils_the_share_of_a_rank() {
    let ranks = MemoryRanks { world: World::new().await };
    let mut feed = ranks.publisher(0).feed().await.unwrap();
    let tensor = TensorView::new(Dtype::BF16, vec![1], &[1, 2]).unwrap();
    feed.add("a", &tensor).unwrap();
    assert!(feed.add("a", &tensor).is_err());
    let error = feed.finish(Nonce::random(), Others::Refused).await.unwrap_err();
    assert!(matches!(error, StoreError::Tensors(_)), "{error}");
}
