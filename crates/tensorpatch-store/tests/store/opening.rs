//! Publishers and replicas by the URL of their stream, and work that its caller stops.

use std::ops::ControlFlow;
use std::time::Duration;

use crate::support::{World, assert_same, quick_polls, v};
use tensorpatch_format::{ErrorKind, LeafHash};
use tensorpatch_store::{
    Event, Observer, Phase, Policy, PublishOptions, Publisher, Replica, ReplicaOptions, SignKey, StoreError,
    Stream,
};

fn url(world: &World, name: &str) -> String {
    world.path(name).to_str().unwrap().to_owned()
}

/// Stops at the first step forward of a phase.
fn stops_at(stopped: Phase) -> Observer {
    Observer::stoppable(move |event| match event {
        Event::Advanced(phase, _) if phase == stopped => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_creates_its_stream_and_a_replica_creates_nothing() {
    let world = World::new().await;
    let url = url(&world, "new");
    let error = Replica::open(&url, world.path("replica")).await.unwrap_err();
    assert!(matches!(error, StoreError::NoStream { .. }), "{error}");
    assert!(!world.path("new").exists() && !world.path("replica").exists());
    let publisher = Publisher::builder(&url).baseline(world.path("baseline-2")).open().await.unwrap();
    publisher.publish(world.step(1)).await.unwrap();
    let replica = Replica::open(&url, world.path("replica")).await.unwrap();
    assert_eq!(replica.pull().await.unwrap().to, v(1));
    assert_same(replica.dir(), &world.step(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signing_publisher_refuses_to_build_on_what_is_not_signed() {
    let world = World::new().await;
    world.publish_steps(1).await;
    let builder = Publisher::builder(url(&world, "bucket")).baseline(world.path("b"));
    let error = builder.sign_key(SignKey::generate()).open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Untrusted, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_with_another_leaf_hash_is_refused() {
    let world = World::new().await;
    let builder = Stream::builder(url(&world, "bucket")).leaf_hash(LeafHash::Blake3);
    assert!(matches!(builder.open().await, Err(StoreError::LeafHash { .. })));
    let builder = Stream::builder(url(&world, "blake3")).leaf_hash(LeafHash::Blake3);
    assert_eq!(builder.open_or_create().await.unwrap().record().leaf_hash, LeafHash::Blake3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_with_more_bytes_than_are_allowed_is_refused() {
    let world = World::new().await;
    world.publish_steps(1).await;
    let mut policy = Policy::default();
    policy.plans.max_plan_bytes = 1000;
    let builder = Replica::builder(url(&world, "bucket"), world.path("r")).policy(policy);
    let error = builder.open().await.unwrap().pull().await.unwrap_err();
    assert!(matches!(error, StoreError::PlanBytes { limit: 1000, .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_is_stopped_publishes_nothing_and_can_go_on() {
    let world = World::new().await;
    world.publish_steps(1).await;
    for phase in [Phase::Encode, Phase::Upload] {
        let options = PublishOptions::default().with_observer(stops_at(phase));
        let publisher = Publisher::on(world.stream.clone(), world.path("baseline"), options).await.unwrap();
        let error = publisher.publish(world.step(2)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{phase:?}: {error}");
        assert_eq!(world.stream.tip().await.unwrap().unwrap().record.version, v(1), "{phase:?}");
    }
    assert_eq!(world.publisher().await.publish(world.step(2)).await.unwrap().version, v(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_stopped_holds_what_it_held_and_can_go_on() {
    let world = World::new().await;
    world.publish_steps(2).await;
    let replica = |options| Replica::of(world.stream.clone(), world.path("r"), options);
    let plain = replica(ReplicaOptions::default());
    plain.pull_version(v(1)).await.unwrap();
    for phase in [Phase::Download, Phase::Apply] {
        let stopped = replica(ReplicaOptions::default().with_observer(stops_at(phase)));
        let error = stopped.pull().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{phase:?}: {error}");
        assert_eq!(plain.held().await.unwrap().unwrap().version, v(1), "{phase:?}");
        assert_same(plain.dir(), &world.step(1));
    }
    plain.pull().await.unwrap();
    assert_same(plain.dir(), &world.step(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_the_next_version_can_be_given_up_without_losing_one() {
    let world = World::new().await;
    world.publish_steps(1).await;
    let publisher = world.publisher().await;
    let stream = world.stream.clone().with_policy(quick_polls());
    let replica = Replica::of(stream, world.path("r"), ReplicaOptions::default());
    let mut versions = replica.follow();
    let mut seen = Vec::new();
    while seen.len() < 4 {
        match tokio::time::timeout(Duration::from_millis(3), versions.next()).await {
            Err(_) => {}
            Ok(pulled) => {
                let version = pulled.unwrap().unwrap().to.get();
                seen.push(version);
                publisher.publish(world.step(version + 1)).await.unwrap();
            }
        }
    }
    assert_eq!(seen, [1, 2, 3, 4]);
}
