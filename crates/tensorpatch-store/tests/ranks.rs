//! Versions that several ranks publish together.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

mod support;

use std::path::PathBuf;

use support::{World, assert_same, v, write_sharded};
use tensorpatch_store::{
    ApplyMode, FoldOptions, Folder, Observer, PublishOptions, Receipt, ReceiptError, StoreError, Target,
};

const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

struct Ranks {
    world: World,
}

impl Ranks {
    /// A stream with one version, of a checkpoint in two shards.
    async fn new() -> Self {
        let world = World::new().await;
        let ranks = Self { world };
        ranks.world.publisher().await.publish(&ranks.step(1)).await.unwrap();
        ranks
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
        let receipt = stream.prepare_part(&base, &shard(old), &shard(new), &work, &options).await.unwrap();
        // It travels as text.
        serde_json::from_str(&serde_json::to_string(&receipt).unwrap()).unwrap()
    }

    async fn commit(&self, receipts: &[Receipt]) -> Result<u64, StoreError> {
        let options = PublishOptions::default();
        let published = self.world.stream.commit_parts(receipts, None, &options).await?;
        Ok(published.version.get())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_several_ranks_are_one_version_for_every_reader() {
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
            replica.pull(Target::Version(v(version))).await.unwrap();
            assert_same(replica.dir(), &ranks.step(version.min(5)));
        }
    }
    let folder = Folder::new(world.stream.clone(), world.path("work"), FoldOptions::default());
    assert!(folder.fold(v(1), v(6)).await.unwrap().added);
    // An ordinary publisher goes on from there.
    world.publisher().await.publish(&ranks.step(7)).await.unwrap();
    let replica = world.replica("late", ApplyMode::InPlace);
    replica.pull(Target::Latest).await.unwrap();
    assert_same(replica.dir(), &ranks.step(7));
    assert!(world.stream.check(true, &Observer::default()).await.unwrap().is_sound());
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_doubled_and_inconsistent_parts_are_refused() {
    let ranks = Ranks::new().await;
    let (one, two) = (ranks.prepare(0, 1, 2).await, ranks.prepare(1, 1, 2).await);
    let refused = async |receipts: &[Receipt]| match ranks.commit(receipts).await.unwrap_err() {
        StoreError::Receipts(error) => error,
        error => panic!("{error}"),
    };
    assert_eq!(refused(&[]).await, ReceiptError::None);
    assert_eq!(refused(std::slice::from_ref(&one)).await, ReceiptError::Tensors { expected: 2, found: 1 });
    let doubled = refused(&[one.clone(), two.clone(), one.clone()]).await;
    assert_eq!(doubled, ReceiptError::Doubled("a".into()));
    // A rank that started from another state than the version before.
    let stale = ranks.prepare(1, 3, 2).await;
    assert!(matches!(refused(&[one.clone(), stale]).await, ReceiptError::Base { .. }));
    let mut foreign = two.clone();
    foreign.stream = "00".repeat(16).parse().unwrap();
    assert!(matches!(refused(&[one.clone(), foreign]).await, ReceiptError::Mixed(_)));
    let mut reshaped = two.clone();
    reshaped.tensors[0].shape = vec![1, 5000];
    assert!(matches!(refused(&[one.clone(), reshaped]).await, ReceiptError::Tensors { .. }));
    // A part that did not arrive.
    let part = ranks.world.path("bucket").join(two.part.key.as_str());
    let bytes = std::fs::read(&part).unwrap();
    std::fs::remove_file(&part).unwrap();
    let receipts = [one.clone(), two.clone()];
    assert!(matches!(ranks.commit(&receipts).await, Err(StoreError::Missing { .. })));
    assert_eq!(ranks.world.stream.log().await.unwrap().len(), 1);
    std::fs::write(&part, bytes).unwrap();
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
    replica.pull(Target::Version(v(1))).await.unwrap();
    assert!(replica.pull(Target::Latest).await.is_err());
    assert_same(replica.dir(), &ranks.step(1));
    assert_eq!(replica.held().await.unwrap().unwrap().version, v(1));
}
