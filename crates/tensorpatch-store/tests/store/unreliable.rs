//! Stores that fail, lie or are late, one fault at a time: what publishers and replicas make of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::support::faulty_store::{Call, Fault, FaultyStore};
use crate::support::{assert_same, v, write_noise, write_single};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tensorpatch_store::{
    CreateOptions, Event, Folder, Observer, Phase, PublishOptions, Publisher, Replica, ReplicaOptions,
    StoreError, Stream,
    upkeep::{self, CheckOptions},
};

/// A stream over a faulty store, and the same without faults.
struct Scene {
    dir: tempfile::TempDir,
    inner: Arc<InMemory>,
    stream: Stream,
    truth: Stream,
}

impl Scene {
    async fn new(script: impl FnMut(&Call) -> Fault + Send + 'static) -> Self {
        let inner = Arc::new(InMemory::new());
        let truth = Stream::create(inner.clone(), "s".into(), CreateOptions::default()).await.unwrap();
        let store = Arc::new(FaultyStore::new(inner.clone(), script));
        let stream = Stream::open(store, "s".into()).await.unwrap();
        Self { dir: tempfile::tempdir().unwrap(), inner, stream, truth }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn step(&self, step: u64) -> PathBuf {
        let path = self.path(&format!("step-{step}"));
        write_single(&path, step);
        path
    }

    async fn publisher(&self, stream: &Stream, baseline: &str) -> Publisher {
        Publisher::on(stream.clone(), self.path(baseline), PublishOptions::default()).await.unwrap()
    }

    /// Publishes some steps without faults.
    async fn publish(&self, steps: std::ops::RangeInclusive<u64>) {
        let publisher = self.publisher(&self.truth, "truth").await;
        for step in steps {
            publisher.publish(&self.step(step)).await.unwrap();
        }
    }

    async fn versions(&self) -> usize {
        self.truth.log().await.unwrap().len()
    }
}

fn is_commit(call: &Call, version: u64) -> bool {
    *call == Call::Create(Path::from(format!("s/commits/{version:020}.json")))
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_that_fail_are_counted_and_requests_are_counted_with_them() {
    let seen = Arc::new(AtomicU64::new(0));
    let calls = Arc::clone(&seen);
    let scene = Scene::new(move |_| match calls.fetch_add(1, Ordering::Relaxed) {
        // The first opens the stream.
        1 | 2 => Fault::BeforeEffect,
        _ => Fault::None,
    })
    .await;
    let replica = Replica::of(scene.stream.clone(), scene.path("r"), ReplicaOptions::default());
    assert!(matches!(replica.pull().await, Err(StoreError::Empty)));
    let counts = scene.stream.requests();
    assert_eq!((counts.requests, counts.failed_attempts), (seen.load(Ordering::Relaxed), 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_that_never_show_anything_and_hints_that_are_wrong_hide_no_version() {
    let scene =
        Scene::new(|call| if matches!(call, Call::List(_)) { Fault::Stale } else { Fault::None }).await;
    let publisher = scene.publisher(&scene.stream, "b").await;
    let hint = Path::from("s/latest.json");
    for (step, text) in
        [(1, "{\"version\":1}"), (2, "{\"version\":99}"), (3, "never"), (4, "{\"version\":1}")]
    {
        publisher.publish(&scene.step(step)).await.unwrap();
        scene.inner.put(&hint, text.into()).await.unwrap();
        assert_eq!(scene.stream.tip().await.unwrap().unwrap().record.version, v(step));
    }
    scene.inner.delete(&hint).await.unwrap();
    assert_eq!(scene.stream.tip().await.unwrap().unwrap().record.version, v(4));
    let replica = Replica::of(scene.stream.clone(), scene.path("r"), ReplicaOptions::default());
    replica.pull().await.unwrap();
    assert_same(replica.dir(), &scene.step(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_with_a_name_that_none_can_have_stops_neither_publishers_nor_replicas() {
    let is_list = |call: &Call| matches!(call, Call::List(path) if path.as_ref() != "s/handovers");
    let scene = Scene::new(move |call| if is_list(call) { Fault::Unlistable } else { Fault::None }).await;
    let publisher = scene.publisher(&scene.stream, "b").await;
    for step in 1..=3 {
        publisher.publish(&scene.step(step)).await.unwrap();
    }
    scene.inner.delete(&Path::from("s/latest.json")).await.unwrap();
    let replica = Replica::of(scene.stream.clone(), scene.path("r"), ReplicaOptions::default());
    replica.pull().await.unwrap();
    assert_same(replica.dir(), &scene.step(3));
    assert_eq!(scene.stream.log().await.unwrap().len(), 3);
    // A collector must know all that is there.
    assert!(upkeep::collect(&scene.stream, &Default::default()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_not_created_where_two_creators_can_win() {
    let store = Arc::new(FaultyStore::new(Arc::new(InMemory::new()), |_| Fault::None));
    store.ignore_conditions();
    let error = Stream::create(store.clone(), "s".into(), CreateOptions::default()).await.unwrap_err();
    assert!(matches!(error, StoreError::NoConditionalCreate(_)), "{error}");
    assert!(matches!(Stream::open(store.clone(), "s".into()).await, Err(StoreError::NoStream { .. })));
    let options = CreateOptions::default().for_single_writer();
    Stream::create(store, "s".into(), options).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_never_arrives_moves_no_baseline() {
    let healthy = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&healthy);
    let scene = Scene::new(move |call| {
        if is_commit(call, 2) && !switch.load(Ordering::SeqCst) { Fault::BeforeEffect } else { Fault::None }
    })
    .await;
    scene.publish(1..=1).await;
    let publisher = scene.publisher(&scene.stream, "b").await;
    let error = publisher.publish(&scene.step(2)).await.unwrap_err();
    assert!(matches!(error, StoreError::OutcomeUnknown { .. }), "{error}");
    assert_same(&scene.path("b"), &scene.step(1));
    let baseline = Replica::of(scene.truth.clone(), scene.path("b"), ReplicaOptions::default());
    assert_eq!(baseline.held().await.unwrap().unwrap().version, v(1));
    healthy.store(true, Ordering::SeqCst);
    assert_eq!(publisher.publish(&scene.step(2)).await.unwrap().version, v(2));
    publisher.catch_up().await.unwrap();
    assert_same(&scene.path("b"), &scene.step(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_another_won_meanwhile_moves_no_baseline() {
    let inner: Arc<std::sync::OnceLock<(Arc<InMemory>, Vec<u8>)>> = Arc::default();
    let script = Arc::clone(&inner);
    let scene = Scene::new(move |call| {
        // Between the publisher's look at the tip and its commit.
        if is_commit(call, 2)
            && let Some((store, record)) = script.get()
        {
            let name = Path::from(format!("s/commits/{:020}.json", 2));
            futures::executor::block_on(store.put(&name, record.clone().into())).unwrap();
        }
        Fault::None
    })
    .await;
    scene.publish(1..=2).await;
    let name = Path::from(format!("s/commits/{:020}.json", 2));
    let record = scene.inner.get(&name).await.unwrap().bytes().await.unwrap();
    scene.inner.delete(&name).await.unwrap();
    scene.inner.delete(&Path::from("s/latest.json")).await.unwrap();
    let publisher = scene.publisher(&scene.stream, "b").await;
    inner.set((scene.inner.clone(), record.to_vec())).unwrap();
    let error = publisher.publish(&scene.step(3)).await.unwrap_err();
    assert!(matches!(&error, StoreError::LostRace { version, .. } if *version == v(2)), "{error}");
    assert_same(&scene.path("b"), &scene.step(1));
    publisher.catch_up().await.unwrap();
    assert_same(&scene.path("b"), &scene.step(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_reply_and_record_could_not_be_read_is_found_by_the_next_attempt() {
    let broken = Arc::new(AtomicBool::new(true));
    let (switch, mut sent) = (Arc::clone(&broken), false);
    let scene = Scene::new(move |call| {
        if !switch.load(Ordering::SeqCst) {
            return Fault::None;
        }
        if is_commit(call, 2) {
            sent = true;
            return Fault::AfterEffect;
        }
        if sent { Fault::BeforeEffect } else { Fault::None }
    })
    .await;
    scene.publish(1..=1).await;
    let publisher = scene.publisher(&scene.stream, "b").await;
    let error = publisher.publish(&scene.step(2)).await.unwrap_err();
    assert!(matches!(error, StoreError::OutcomeUnknown { .. }), "{error}");
    assert_same(&scene.path("b"), &scene.step(1));
    broken.store(false, Ordering::SeqCst);
    let again = publisher.publish(&scene.step(2)).await.unwrap();
    assert_eq!((again.version, again.resumed), (v(2), true));
    assert_eq!(scene.versions().await, 2);
    // It is the same attempt once, not for ever: an equal checkpoint later is only found to be unchanged.
    let later = publisher.publish(&scene.step(2)).await.unwrap();
    assert_eq!((later.version, later.resumed, later.unchanged), (v(2), false, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_the_store_says_it_has_and_does_not_is_not_committed() {
    let scene = Scene::new(|call| match call {
        Call::Put(path) if path.as_ref().contains("patches/") => Fault::Swallowed,
        _ => Fault::None,
    })
    .await;
    scene.publish(1..=1).await;
    let publisher = scene.publisher(&scene.stream, "b").await;
    let error = publisher.publish(&scene.step(2)).await.unwrap_err();
    assert!(matches!(error, StoreError::Missing { .. }), "{error}");
    assert_eq!(scene.versions().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fold_whose_patch_is_collected_before_its_record_is_written_is_taken_back() {
    let inner: Arc<std::sync::OnceLock<Arc<InMemory>>> = Arc::default();
    let script = Arc::clone(&inner);
    let scene = Scene::new(move |call| {
        if let (Call::Create(path), Some(store)) = (call, script.get())
            && path.as_ref().contains("edges/")
        {
            use futures::TryStreamExt;
            let folds = Path::from("s/folds");
            futures::executor::block_on(async {
                let found: Vec<_> = store.list(Some(&folds)).try_collect().await.unwrap();
                for object in found {
                    store.delete(&object.location).await.unwrap();
                }
            });
        }
        Fault::None
    })
    .await;
    inner.set(scene.inner.clone()).unwrap();
    scene.publish(1..=4).await;
    let folder = Folder::new(scene.stream.clone(), scene.path("work"), PublishOptions::default());
    assert!(matches!(folder.fold(v(1), v(4)).await, Err(StoreError::Missing { .. })));
    let checked = upkeep::check(&scene.truth, &CheckOptions::default()).await.unwrap();
    assert!(checked.is_sound(), "{checked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_larger_than_any_may_be_is_not_read() {
    let name = Path::from(format!("s/commits/{:020}.json", 2));
    let broken = name.clone();
    // Its body cannot be read, and need not be.
    let scene =
        Scene::new(
            move |call| if *call == Call::Get(broken.clone()) { Fault::Broken(1000) } else { Fault::None },
        )
        .await;
    scene.publish(1..=1).await;
    scene.inner.put(&name, vec![b' '; (16 << 20) + 1].into()).await.unwrap();
    let error = scene.stream.tip().await.unwrap_err();
    assert!(matches!(&error, StoreError::Damaged { what, .. } if what.contains("16777217")), "{error}");
}

fn is_part_of_patch(path: &Path) -> bool {
    path.as_ref().contains("/patches/")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_is_uploaded_while_it_is_encoded() {
    // How far the encoder was when the first part went out.
    let (encoded, first) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(u64::MAX)));
    let (seen, at_first) = (Arc::clone(&encoded), Arc::clone(&first));
    let scene = Scene::new(move |call| {
        if let Call::Part(path) = call
            && is_part_of_patch(path)
        {
            at_first.fetch_min(seen.load(Ordering::SeqCst), Ordering::SeqCst);
        }
        Fault::None
    })
    .await;
    const ELEMENTS: usize = 32 << 20;
    write_noise(&scene.path("one"), 1, ELEMENTS);
    write_noise(&scene.path("two"), 2, ELEMENTS);
    let counter = Arc::clone(&encoded);
    let observer = Observer::new(move |event| {
        if let Event::Advanced(Phase::Encode, bytes) = event {
            counter.fetch_add(bytes, Ordering::SeqCst);
        }
    });
    let options = PublishOptions::default().with_observer(observer);
    let publisher = Publisher::on(scene.stream.clone(), scene.path("b"), options).await.unwrap();
    publisher.publish(&scene.path("one")).await.unwrap();
    let published = publisher.publish(&scene.path("two")).await.unwrap();
    let (whole, first) = (2 * ELEMENTS as u64, first.load(Ordering::SeqCst));
    assert!(published.bytes > whole / 2, "the patch has {} bytes", published.bytes);
    assert!(first > 0 && first < whole, "the first part went out when {first} of {whole} were encoded");
    let replica = Replica::of(scene.truth.clone(), scene.path("r"), ReplicaOptions::default());
    replica.pull().await.unwrap();
    assert_same(replica.dir(), &scene.path("two"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_under_way_is_made_again_from_the_file() {
    for breaks in ["part", "complete", "complete-after", "start"] {
        let mut left = 1;
        let scene = Scene::new(move |call| {
            let fault = match (call, breaks) {
                (Call::Part(path), "part") if is_part_of_patch(path) => Fault::BeforeEffect,
                (Call::Complete(path), "complete") if is_part_of_patch(path) => Fault::BeforeEffect,
                (Call::Complete(path), "complete-after") if is_part_of_patch(path) => Fault::AfterEffect,
                (Call::Multipart(path), "start") if is_part_of_patch(path) => Fault::BeforeEffect,
                _ => return Fault::None,
            };
            if left == 0 {
                return Fault::None;
            }
            left -= 1;
            fault
        })
        .await;
        for (name, seed) in [("one", 1), ("two", 2)] {
            write_noise(&scene.path(name), seed, 12 << 20);
        }
        let publisher = scene.publisher(&scene.stream, "b").await;
        publisher.publish(&scene.path("one")).await.unwrap();
        assert_eq!(publisher.publish(&scene.path("two")).await.unwrap().version, v(2), "{breaks}");
        let checked = upkeep::check(&scene.truth, &CheckOptions::default()).await.unwrap();
        assert!(checked.is_sound() && checked.abandoned.is_empty(), "{breaks}: {checked:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_that_is_not_published_leaves_no_object() {
    let scene = Scene::new(|_| Fault::None).await;
    for (name, seed) in [("one", 1), ("two", 2)] {
        write_noise(&scene.path(name), seed, 12 << 20);
    }
    let publisher = scene.publisher(&scene.stream, "b").await;
    publisher.publish_labelled(&scene.path("one"), Some("1")).await.unwrap();
    // Small ones, because nothing is new.
    assert!(publisher.publish_labelled(&scene.path("one"), Some("1")).await.unwrap().resumed);
    // A large one, of which the baseline was found to be damaged when its encoding was over.
    let weights = scene.path("b/model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    publisher.publish_labelled(&scene.path("two"), Some("2")).await.unwrap();
    let checked = upkeep::check(&scene.truth, &CheckOptions::default()).await.unwrap();
    assert!(checked.is_sound() && checked.abandoned.is_empty(), "{checked:?}");
}
