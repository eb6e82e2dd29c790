//! Anchors that publishing adds by itself, and what reading a stream costs behind them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::support::faulty_store::{Call, Fault, FaultyStore};
use crate::support::{World, assert_same, short_plans, v, write_noise, write_single};
use object_store::memory::InMemory;
use tensorpatch_store::{
    AnchorPolicy, CreateOptions, PublishOptions, Publisher, Replica, ReplicaOptions, Stream, Version,
};

async fn anchored(stream: &Stream) -> Vec<Version> {
    let log = stream.log().await.unwrap();
    log.iter().filter(|entry| entry.anchored).map(|entry| entry.version).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_only_publishes_makes_a_stream_that_newcomers_can_join() {
    let world = World::new().await;
    let publisher =
        Publisher::on(world.stream.clone(), world.path("baseline"), PublishOptions::default()).await.unwrap();
    // Nothing is small about these patches, so a chain of two costs more than an anchor.
    for seed in 1..=5 {
        write_noise(&world.path("model"), 2 * seed, 20_000);
        let published = publisher.publish(&world.path("model")).await.unwrap();
        assert_eq!(published.anchor_error, None);
        let has_anchor = anchored(&world.stream).await.contains(&v(seed));
        assert_eq!(published.anchor.is_some(), seed > 1 && has_anchor, "{seed}: {:?}", published.anchor);
        let stream = world.stream.clone().with_policy(short_plans(2));
        let path = world.path(&format!("replica-{seed}"));
        let newcomer = Replica::of(stream, path, ReplicaOptions::default());
        newcomer.pull().await.unwrap();
        assert_same(newcomer.dir(), &world.path("model"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_anchor_comes_after_as_many_versions_as_were_asked_for_whichever_process_publishes_them() {
    let world = World::new().await;
    let options = PublishOptions::default().with_anchors(AnchorPolicy::every(3));
    let open = || Publisher::on(world.stream.clone(), world.path("baseline"), options.clone());
    let mut publisher = open().await.unwrap();
    for step in 1..=8 {
        if step % 2 == 0 {
            publisher = open().await.unwrap();
        }
        publisher.publish(&world.step(step)).await.unwrap();
    }
    assert_eq!(anchored(&world.stream).await, [v(1), v(4), v(7)]);
    let options = options.with_anchors(AnchorPolicy::NEVER);
    let publisher = Publisher::on(world.stream.clone(), world.path("baseline"), options).await.unwrap();
    for step in 9..=12 {
        publisher.publish(&world.step(step)).await.unwrap();
    }
    assert_eq!(anchored(&world.stream).await, [v(1), v(4), v(7)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_whose_anchor_cannot_be_added_is_published_and_the_next_one_gets_it() {
    let inner = Arc::new(InMemory::new());
    Stream::create(inner.clone(), "s".into(), CreateOptions::default()).await.unwrap();
    let is_full = Arc::new(AtomicBool::new(false));
    let full = Arc::clone(&is_full);
    let store = FaultyStore::new(inner, move |call| match call {
        Call::Put(path) if path.as_ref().contains("anchors/") && full.load(Ordering::SeqCst) => {
            Fault::BeforeEffect
        }
        _ => Fault::None,
    });
    let stream = Stream::open(Arc::new(store), "s".into()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let options = PublishOptions::default().with_anchors(AnchorPolicy::every(1));
    let publisher = Publisher::on(stream.clone(), dir.path().join("baseline"), options).await.unwrap();
    let model = dir.path().join("model");
    for (step, full) in [(1, false), (2, true), (3, false)] {
        is_full.store(full, Ordering::SeqCst);
        write_single(&model, step);
        let published = publisher.publish(&model).await.unwrap();
        assert_eq!(published.version, v(step));
        assert_eq!((published.anchor.is_some(), published.anchor_error.is_some()), (step == 3, step == 2));
    }
    assert_eq!(anchored(&stream).await, [v(1), v(3)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_one_version_behind_reads_no_more_than_that_version() {
    let inner = Arc::new(InMemory::new());
    let truth = Stream::create(inner.clone(), "s".into(), CreateOptions::default()).await.unwrap();
    let requests = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&requests);
    let store = FaultyStore::new(inner, move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        Fault::None
    });
    let stream = Stream::open(Arc::new(store), "s".into()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let options = PublishOptions::default().with_anchors(AnchorPolicy::NEVER);
    let publisher = Publisher::on(truth, path("baseline"), options).await.unwrap();
    let replica = Replica::of(stream, path("replica"), ReplicaOptions::default());
    let mut pulled = Vec::new();
    for step in 1..=40 {
        write_single(&path("model"), step);
        publisher.publish(&path("model")).await.unwrap();
        if step >= 30 {
            requests.store(0, Ordering::SeqCst);
            replica.pull().await.unwrap();
            pulled.push(requests.swap(0, Ordering::SeqCst));
        }
    }
    // As many behind forty versions as behind thirty, and few: the hint, commits, lists of commits and edges,
    // the patch.
    let (first, one_behind) = pulled.split_first().unwrap();
    assert!(*first > 30 && one_behind.iter().all(|requests| *requests <= 14), "{pulled:?}");
    replica.pull().await.unwrap();
    let nothing_new = requests.load(Ordering::SeqCst);
    assert!(nothing_new <= 8, "{nothing_new}");
}
