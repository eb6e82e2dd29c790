//! How many requests the commands of publishers and replicas take: no more on a long stream than on a short
//! one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::faulty_store::{Call, Fault, FaultyStore};
use crate::support::{v, write_single};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::path::Path;
use tempfile::TempDir;
use tensorpatch_store::{
    AnchorPolicy, CreateOptions, Policy, PublishOptions, Publisher, Replica, ReplicaOptions, Stream, Target,
    upkeep::{self, CheckOptions, CollectOptions},
};

type Calls = Arc<Mutex<Vec<Call>>>;

/// A stream whose requests are written down, and a place for checkpoints, the baseline and replicas.
struct Counted {
    dir: TempDir,
    store: Arc<dyn ObjectStore>,
    calls: Calls,
}

impl Counted {
    async fn with_versions(versions: u64) -> Self {
        let calls = Calls::default();
        let seen = Arc::clone(&calls);
        let store = FaultyStore::new(Arc::new(InMemory::new()), move |call| {
            seen.lock().unwrap().push(call.clone());
            Fault::None
        });
        let store: Arc<dyn ObjectStore> = Arc::new(store);
        Stream::create(store.clone(), "s".into(), CreateOptions::default()).await.unwrap();
        let counted = Self { dir: tempfile::tempdir().unwrap(), store, calls };
        let publisher = counted.publisher().await;
        for step in 1..=versions {
            counted.publish(&publisher, step).await;
        }
        counted
    }

    /// What a new process does before anything else.
    async fn stream(&self) -> Stream {
        Stream::open(self.store.clone(), "s".into()).await.unwrap()
    }

    async fn publisher(&self) -> Publisher {
        let options = PublishOptions::default().with_anchors(AnchorPolicy::every(10_000));
        Publisher::on(self.stream().await, self.dir.path().join("baseline"), options).await.unwrap()
    }

    async fn publish(&self, publisher: &Publisher, step: u64) {
        let checkpoint = self.dir.path().join("checkpoint");
        write_single(&checkpoint, step);
        publisher.publish(&checkpoint).await.unwrap();
    }

    async fn replica(&self) -> Replica {
        Replica::of(self.stream().await, self.dir.path().join("replica"), ReplicaOptions::default())
    }

    /// The requests since this was asked last.
    fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

/// Says that no object was fetched twice.
fn assert_no_object_was_read_twice(calls: &[Call]) {
    let mut gets: BTreeMap<&Path, usize> = BTreeMap::new();
    for call in calls {
        if let Call::Get(path) = call {
            *gets.entry(path).or_default() += 1;
        }
    }
    let twice: Vec<_> = gets.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "{twice:?} in {calls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_counts_the_requests_that_are_made_for_it() {
    let counted = Counted::with_versions(2).await;
    counted.take();
    let (publisher, replica) = (counted.publisher().await, counted.replica().await);
    counted.publish(&publisher, 3).await;
    replica.pull().await.unwrap();
    let counts = [publisher.stream().requests(), replica.stream().requests()];
    let told: u64 = counts.iter().map(|counts| counts.requests).sum();
    assert_eq!((told, counts[0].failed_attempts), (counted.take().len() as u64, 0), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_takes_ten_requests_at_most_however_long_the_stream_is() {
    for versions in [3, 40] {
        let counted = Counted::with_versions(versions).await;
        counted.take();
        let publisher = counted.publisher().await;
        counted.publish(&publisher, versions + 1).await;
        let new_process = counted.take();
        assert!(new_process.len() <= 10, "{versions}: {} {new_process:?}", new_process.len());
        counted.publish(&publisher, versions + 2).await;
        let same_process = counted.take();
        assert!(same_process.len() <= 7, "{versions}: {} {same_process:?}", same_process.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_takes_no_more_requests_where_the_baseline_is_behind() {
    let counted = Counted::with_versions(3).await;
    for step in 4..=14 {
        let checkpoint = counted.dir.path().join(format!("step-{step}"));
        write_single(&checkpoint, step);
        counted.take();
        counted.publisher().await.publish(&checkpoint).await.unwrap();
        let requests = counted.take();
        assert!(requests.len() <= 10, "{step}: {} {requests:?}", requests.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pulling_one_version_takes_six_requests_at_most_however_long_the_stream_is() {
    for versions in [3, 40] {
        let counted = Counted::with_versions(versions).await;
        counted.replica().await.pull_version(v(versions - 1)).await.unwrap();
        counted.take();
        let pulled = counted.replica().await.pull().await.unwrap();
        assert_eq!((pulled.from, pulled.to), (Some(v(versions - 1)), v(versions)));
        let calls = counted.take();
        assert!(calls.len() <= 6, "{versions}: {} {calls:?}", calls.len());
        assert_no_object_was_read_twice(&calls);
        counted.replica().await.pull().await.unwrap();
        let nothing_to_do = counted.take();
        // The last asks for the hint: a record that is lost must not look like the end.
        assert!(nothing_to_do.len() <= 4, "{versions}: {nothing_to_do:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_record_is_read_once_by_a_replica_that_is_behind_or_joins_late_or_goes_back() {
    let counted = Counted::with_versions(20).await;
    counted.publisher().await.add_anchor().await.unwrap();
    for step in 21..=24 {
        counted.publish(&counted.publisher().await, step).await;
    }
    counted.take();
    let replica = counted.replica().await;
    replica.pull().await.unwrap();
    let late = counted.take();
    assert_no_object_was_read_twice(&late);
    let commits =
        late.iter().filter(|call| matches!(call, Call::Get(path) if path.as_ref().contains("commits")));
    // Those from the anchor on, and one that is not there.
    assert!(commits.count() <= 6, "{late:?}");
    replica.pull_version(v(22)).await.unwrap();
    assert_no_object_was_read_twice(&counted.take());
    drop(replica.prepare(Target::Latest).await.unwrap());
    assert_no_object_was_read_twice(&counted.take());
    replica.pull().await.unwrap();
    assert_no_object_was_read_twice(&counted.take());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_waits_asks_once_each_time() {
    let counted = Counted::with_versions(3).await;
    let stream = counted.stream().await;
    let poll = Duration::from_millis(20);
    let mut policy = Policy::default();
    policy.following.poll = poll;
    let replica =
        Replica::of(stream.with_policy(policy), counted.dir.path().join("r"), ReplicaOptions::default());
    let mut following = replica.follow();
    following.next().await.unwrap();
    counted.take();
    assert!(tokio::time::timeout(poll * 20, following.next()).await.is_err());
    let idle = counted.take();
    assert!(!idle.is_empty() && idle.len() <= 21, "{idle:?}");
    let next = Call::Get("s/commits/00000000000000000004.json".into());
    assert!(idle.iter().all(|call| *call == next), "{idle:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_asks_once_for_each_lease_however_many_somebody_has_written() {
    const LEASES: usize = 3000;
    let counted = Counted::with_versions(3).await;
    let stream = counted.stream().await;
    counted.take();
    upkeep::collect(&stream, &CollectOptions::default()).await.unwrap();
    let without = counted.take().len();
    for number in 0..LEASES {
        let path = Path::from(format!("s/leases/{number}.json"));
        let lease = r#"{"holder":"x","version":1,"target":1,"seconds":604800}"#;
        object_store::ObjectStoreExt::put(&*counted.store, &path, lease.into()).await.unwrap();
    }
    counted.take();
    upkeep::collect(&stream, &CollectOptions::default()).await.unwrap();
    let with = counted.take().len();
    println!("{LEASES} leases: {} requests", with - without);
    assert!(with <= without + LEASES, "{without} {with}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_takes_as_many_requests_for_each_version_however_many_there_are() {
    for versions in [10, 80] {
        let counted = Counted::with_versions(versions).await;
        counted.take();
        upkeep::check(&counted.stream().await, &CheckOptions::default()).await.unwrap();
        let calls = counted.take().len();
        println!("{versions} versions: {calls} requests");
        // The record and the patch of each, and what is asked once.
        assert!(calls as u64 <= 3 * versions + 30, "{versions}: {calls}");
        upkeep::check(&counted.stream().await, &CheckOptions::default().shallow()).await.unwrap();
        let calls = counted.take().len();
        println!("{versions} versions, by their sizes: {calls} requests");
        // The lists say how large the objects are.
        assert!(calls as u64 <= versions + 30, "{versions}: {calls}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hint_that_is_old_or_missing_or_wrong_never_hides_a_version() {
    let counted = Counted::with_versions(30).await;
    let tip = async || counted.stream().await.tip().await.unwrap().unwrap().record.version;
    let hints: [Option<&[u8]>; 5] = [
        None,
        Some(b"nonsense"),
        Some(br#"{"version":2}"#),
        Some(br#"{"version":29}"#),
        Some(br#"{"version":999}"#),
    ];
    for hint in hints {
        let latest = Path::from("s/latest.json");
        match hint {
            None => object_store::ObjectStoreExt::delete(&*counted.store, &latest).await.unwrap(),
            Some(bytes) => {
                object_store::ObjectStoreExt::put(&*counted.store, &latest, bytes.to_vec().into())
                    .await
                    .unwrap();
            }
        }
        assert_eq!(tip().await, v(30), "{hint:?}");
        for held in [1, 27, 28, 29, 30] {
            let replica = counted.replica().await;
            replica.pull_version(v(held)).await.unwrap();
            assert_eq!(replica.pull().await.unwrap().to, v(30), "{hint:?}, {held}");
        }
    }
}
