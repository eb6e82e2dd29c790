//! Followers of a stream that vanishes, is made anew or goes back while they wait.

use std::path::Path;
use std::time::Duration;

use crate::support::{World, quick_polls, v};
use tensorpatch_store::{
    ApplyMode, CreateOptions, Policy, PublishOptions, Publisher, Replica, ReplicaOptions, StoreError, Stream,
    open_store,
};

/// What following ends with when `disturb` happens to the bucket while the follower waits.
async fn followed(world: &World, disturb: impl AsyncFn(&Path)) -> StoreError {
    let stream = world.stream.clone().with_policy(quick_polls());
    let replica = Replica::of(stream, world.path("r"), ReplicaOptions::default());
    let bucket = world.path("bucket");
    let mut versions = replica.follow();
    let follow = async {
        loop {
            versions.next().await?;
            disturb(&bucket).await;
        }
    };
    let ended: Result<(), StoreError> = tokio::time::timeout(Duration::from_secs(60), follow).await.unwrap();
    ended.unwrap_err()
}

async fn empty_stream(bucket: &Path) -> Stream {
    std::fs::remove_dir_all(bucket).unwrap();
    let (store, prefix) = open_store(bucket.to_str().unwrap(), &Policy::default()).unwrap();
    Stream::create(store, prefix, CreateOptions::default()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_notices_that_its_stream_was_made_anew() {
    let world = World::new().await;
    world.publish_steps(3).await;
    let (first, baseline) = (world.step(9), world.path("new-baseline"));
    let error = followed(&world, async |bucket| {
        let stream = empty_stream(bucket).await;
        let publisher = Publisher::on(stream, &baseline, PublishOptions::default()).await.unwrap();
        publisher.publish(&first).await.unwrap();
    })
    .await;
    assert!(matches!(error, StoreError::AnotherStream { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_notices_that_its_stream_is_gone() {
    let world = World::new().await;
    world.publish_steps(2).await;
    let error = followed(&world, async |bucket| std::fs::remove_dir_all(bucket).unwrap()).await;
    assert!(matches!(error, StoreError::NoStream { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_notices_that_the_version_that_it_holds_is_no_longer_there() {
    let world = World::new().await;
    world.publish_steps(2).await;
    let error = followed(&world, async |bucket| {
        std::fs::remove_file(bucket.join(format!("commits/{:020}.json", 2))).unwrap();
    })
    .await;
    assert!(matches!(error, StoreError::HistoryRewritten(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_replica_does_not_follow_its_stream_back() {
    let world = World::new().await;
    world.publish_steps(3).await;
    let replica = world.replica("r", ApplyMode::InPlace);
    replica.pull().await.unwrap();
    let state = replica.dir().join(".tensorpatch/state.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&state).unwrap()).unwrap();
    json["condition"] = serde_json::json!({"damaged": {"was": json["condition"]["held"]}});
    std::fs::write(&state, json.to_string()).unwrap();
    std::fs::write(replica.dir().join("model.safetensors"), "nothing").unwrap();
    let newest = world.path(&format!("bucket/commits/{:020}.json", 3));
    let record = std::fs::read(&newest).unwrap();
    std::fs::remove_file(&newest).unwrap();
    let error = replica.pull().await.unwrap_err();
    assert!(matches!(error, StoreError::HistoryRewritten(_)), "{error}");
    std::fs::write(&newest, record).unwrap();
    assert_eq!(replica.pull().await.unwrap().to, v(3));
    crate::support::assert_same(replica.dir(), &world.step(3));
}
