//! Followers of a stream that vanishes, is made anew or goes back while they wait.

use std::path::Path;
use std::time::Duration;

use crate::support::{World, quick_polls, v};
use tensorpatch_store::{
    ApplyMode, CreateOptions, FollowMetrics, Policy, PublishOptions, Publisher, Replica, ReplicaOptions,
    StoreError, Stream, open_store,
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
    assert!(matches!(error, StoreError::StreamGone { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_goes_on_when_the_directory_of_its_stream_is_mounted_again() {
    let world = World::new().await;
    world.publish_steps(1).await;
    let (bucket, away) = (world.path("bucket"), world.path("away"));
    let metrics = FollowMetrics::default();
    let mut policy = Policy::default();
    policy.following.poll = Duration::from_millis(20);
    let options = ReplicaOptions::default().with_observer(metrics.observer());
    let replica = Replica::of(world.stream.clone().with_policy(policy), world.path("r"), options);
    let mut versions = replica.follow();
    assert_eq!(versions.next().await.unwrap().unwrap().to, v(1));
    std::fs::rename(&bucket, &away).unwrap();
    let next = tokio::spawn(async move { versions.next().await });
    let found = async |gone: bool| {
        while metrics.counts().gone != gone {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), found(true)).await.unwrap();
    std::fs::rename(&away, &bucket).unwrap();
    tokio::time::timeout(Duration::from_secs(60), found(false)).await.unwrap();
    world.publisher().await.publish(&world.step(2)).await.unwrap();
    assert_eq!(next.await.unwrap().unwrap().unwrap().to, v(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_a_version_answers_its_follower() {
    let world = World::new().await;
    let metrics = FollowMetrics::default();
    let options = ReplicaOptions::default().with_observer(metrics.observer());
    let stream = world.stream.clone().with_policy(quick_polls());
    let mut versions = Replica::of(stream, world.path("r"), options).follow();
    let next = tokio::spawn(async move { versions.next().await });
    while metrics.counts().polls < 3 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(metrics.counts().answered.is_some() && !metrics.counts().gone);
    world.publisher().await.publish(&world.step(1)).await.unwrap();
    assert_eq!(next.await.unwrap().unwrap().unwrap().to, v(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_notices_that_the_version_that_it_holds_is_no_longer_there() {
    let world = World::new().await;
    world.publish_steps(2).await;
    let error = followed(&world, async |bucket| {
        std::fs::remove_file(bucket.join(format!("commits/{:020}.json", 2))).unwrap();
    })
    .await;
    assert!(matches!(error, StoreError::PlaceBehind { .. }), "{error}");
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
    assert!(matches!(error, StoreError::PlaceBehind { .. }), "{error}");
    std::fs::write(&newest, record).unwrap();
    assert_eq!(replica.pull().await.unwrap().to, v(3));
    crate::support::assert_same(replica.dir(), &world.step(3));
}
