//! The protocol over real stores, each in a server of its own; `.ci/servers.sh` starts them. A store that is
//! not there is skipped with a line that says so.

use std::collections::BTreeMap;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use crate::support::{assert_same, safetensors, v, values, write_noise, write_single};
use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use tensorpatch_store::{
    CreateOptions, Folder, PublishOptions, Publisher, Replica, ReplicaOptions, StoreError, Stream, Version,
    upkeep::{self, CheckOptions, CollectOptions, MirrorOptions},
};

/// The key of every Azure emulator; it is public.
const AZURE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

fn endpoint(variable: &str) -> Option<String> {
    let found = std::env::var(variable).ok();
    if found.is_none() {
        eprintln!("skipped: {variable} is not set (source .ci/servers.sh)");
    }
    found
}

fn s3(endpoint: &str, key: &str) -> Arc<dyn ObjectStore> {
    let builder = AmazonS3Builder::new()
        .with_endpoint(endpoint)
        .with_bucket_name("tensorpatch")
        .with_region("us-east-1")
        .with_access_key_id(key)
        .with_secret_access_key(key)
        .with_allow_http(true);
    Arc::new(builder.build().unwrap())
}

fn moto() -> Option<Arc<dyn ObjectStore>> {
    Some(s3(&endpoint("TENSORPATCH_TEST_S3")?, "test"))
}

fn hub() -> Option<Arc<dyn ObjectStore>> {
    let endpoint = format!("{}/namespace", endpoint("TENSORPATCH_TEST_HUB")?);
    Some(s3(&endpoint, "test"))
}

fn azurite() -> Option<Arc<dyn ObjectStore>> {
    let builder = MicrosoftAzureBuilder::new()
        .with_container_name("tensorpatch")
        .with_account("devstoreaccount1")
        .with_access_key(AZURE_KEY)
        .with_endpoint(endpoint("TENSORPATCH_TEST_AZURE")?)
        .with_allow_http(true);
    Some(Arc::new(builder.build().unwrap()))
}

/// A prefix that no earlier run has used.
fn prefix() -> Path {
    Path::from(format!("{:032x}", rand::random::<u128>()))
}

/// A checkpoint that is uploaded in several parts.
fn write_large(dir: &FilePath, step: u64) {
    std::fs::create_dir_all(dir).unwrap();
    let tensors = [("a", values(1, step, 5 << 20)), ("b", values(2, step, 3 << 20))];
    std::fs::write(dir.join("model.safetensors"), safetensors(&tensors)).unwrap();
    std::fs::write(dir.join("config.json"), b"{}").unwrap();
    std::fs::write(dir.join("empty.txt"), b"").unwrap();
}

async fn everything(store: Arc<dyn ObjectStore>) {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let stream = Stream::create(store.clone(), prefix(), CreateOptions::default()).await.unwrap();
    let publisher = Publisher::on(stream.clone(), path("baseline"), PublishOptions::default()).await.unwrap();
    for step in 1..=4 {
        write_large(&path(&format!("step-{step}")), step);
        publisher.publish(&path(&format!("step-{step}"))).await.unwrap();
    }
    publisher.add_anchor().await.unwrap();
    let folder = Folder::new(stream.clone(), path("fold"), PublishOptions::default());
    assert!(folder.fold(v(1), v(4)).await.unwrap().added);
    let replica = Replica::of(stream.clone(), path("replica"), ReplicaOptions::default());
    for version in [1, 2, 4, 3] {
        replica.pull_version(v(version)).await.unwrap();
        assert_same(replica.dir(), &path(&format!("step-{version}")));
    }
    let checked = upkeep::check(&stream, &CheckOptions::default()).await.unwrap();
    assert!(checked.is_sound() && checked.abandoned.is_empty(), "{checked:?}");
    // To a local directory, and back to another place in the same store.
    let local: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(dir.path()).unwrap());
    upkeep::mirror(&stream, local.clone(), "mirror".into(), &MirrorOptions::new(path("work"))).await.unwrap();
    let copy = Stream::open(local, "mirror".into()).await.unwrap();
    let again = prefix();
    let report =
        upkeep::mirror(&copy, store.clone(), again.clone(), &MirrorOptions::new(path("work"))).await.unwrap();
    assert_eq!(report.to, Some(v(4)));
    let copy = Stream::open(store, again).await.unwrap();
    assert!(upkeep::check(&copy, &CheckOptions::default()).await.unwrap().is_sound());
    let collected = upkeep::collect(&stream, &CollectOptions::default().keeping(1).deleting()).await.unwrap();
    assert_eq!(collected.floor, v(4));
    let late = Replica::of(stream.clone(), path("late"), ReplicaOptions::default());
    late.pull().await.unwrap();
    assert_same(late.dir(), &path("step-4"));
    assert!(upkeep::check(&stream, &CheckOptions::default()).await.unwrap().is_sound());
}

/// A patch that is uploaded in several parts while it is encoded.
async fn patch_in_parts(store: Arc<dyn ObjectStore>) {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let stream = Stream::create(store, prefix(), CreateOptions::default()).await.unwrap();
    let publisher = Publisher::on(stream.clone(), path("baseline"), PublishOptions::default()).await.unwrap();
    for (name, seed) in [("one", 1), ("two", 2)] {
        write_noise(&path(name), seed, 14 << 20);
        let published = publisher.publish(&path(name)).await.unwrap();
        assert!(published.bytes > 20 << 20, "{published:?}");
    }
    let replica = Replica::of(stream.clone(), path("replica"), ReplicaOptions::default());
    for (version, name) in [(1, "one"), (2, "two")] {
        replica.pull_version(v(version)).await.unwrap();
        assert_same(replica.dir(), &path(name));
    }
    let checked = upkeep::check(&stream, &CheckOptions::default()).await.unwrap();
    assert!(checked.is_sound() && checked.abandoned.is_empty(), "{checked:?}");
}

/// Two publishers on one stream, each as fast as it can, until there are `versions`.
async fn race(store: Arc<dyn ObjectStore>, versions: u64) {
    let dir = tempfile::tempdir().unwrap();
    let stream = Stream::create(store, prefix(), CreateOptions::default()).await.unwrap();
    let mut tasks = Vec::new();
    for name in ["one", "two"] {
        let (stream, root) = (stream.clone(), dir.path().join(name));
        tasks.push(tokio::spawn(async move {
            let options = PublishOptions::default().with_publisher(name).allowing_unchanged();
            let mut won: BTreeMap<Version, String> = BTreeMap::new();
            let mut lost = 0;
            let publisher = Publisher::on(stream.clone(), root.join("baseline"), options).await.unwrap();
            for step in 1.. {
                if stream.tip().await.unwrap().is_some_and(|tip| tip.record.version.get() >= versions) {
                    break;
                }
                write_single(&root.join("checkpoint"), step);
                match publisher.publish(&root.join("checkpoint")).await {
                    Ok(published) => {
                        won.insert(published.version, published.contents.state.to_string());
                    }
                    Err(StoreError::LostRace { .. } | StoreError::NotAtTip { .. }) => {
                        lost += 1;
                        publisher.catch_up().await.unwrap();
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            (name, won, lost)
        }));
    }
    let mut claims: BTreeMap<Version, (&str, String)> = BTreeMap::new();
    for task in tasks {
        let (name, won, lost) = task.await.unwrap();
        eprintln!("{name} won {} and lost {lost}", won.len());
        for (version, digest) in won {
            assert!(claims.insert(version, (name, digest)).is_none(), "both won version {version}");
        }
    }
    let log = stream.log().await.unwrap();
    assert!(log.len() as u64 >= versions);
    for (entry, number) in log.iter().zip(1..) {
        assert_eq!(entry.version.get(), number);
        assert_eq!(claims[&entry.version], (entry.publisher.as_str(), entry.contents.state.to_string()));
    }
    assert_eq!(claims.len(), log.len());
    let replica = Replica::of(stream.clone(), dir.path().join("replica"), ReplicaOptions::default());
    let pulled = replica.pull().await.unwrap();
    assert_eq!(Some(pulled.contents.state), log.last().map(|entry| entry.contents.state));
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_works_on_s3() {
    if let Some(store) = moto() {
        everything(store.clone()).await;
        patch_in_parts(store).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_works_through_a_gateway_that_redirects() {
    if let Some(store) = hub() {
        everything(store.clone()).await;
        patch_in_parts(store).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_works_on_azure() {
    if let Some(store) = azurite() {
        everything(store.clone()).await;
        patch_in_parts(store).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_publishers_one_wins_each_version_on_s3() {
    if let Some(store) = moto() {
        race(store, 100).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_publishers_one_wins_each_version_on_azure() {
    if let Some(store) = azurite() {
        race(store, 100).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_publishers_one_wins_each_version_in_a_local_directory() {
    let dir = tempfile::tempdir().unwrap();
    race(Arc::new(LocalFileSystem::new_with_prefix(dir.path()).unwrap()), 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_ignores_conditions_is_refused_unless_there_is_a_single_writer() {
    let Some(endpoint) = endpoint("TENSORPATCH_TEST_LYING_S3") else { return };
    let store = s3(&endpoint, "S3RVER");
    let error = Stream::create(store.clone(), prefix(), CreateOptions::default()).await.unwrap_err();
    assert!(matches!(error, StoreError::NoConditionalCreate(_)), "{error}");
    let place = prefix();
    let options = CreateOptions::default().for_single_writer();
    let stream = Stream::create(store, place, options).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let publisher =
        Publisher::on(stream.clone(), dir.path().join("baseline"), PublishOptions::default()).await.unwrap();
    for step in 1..=3 {
        write_single(&dir.path().join("checkpoint"), step);
        publisher.publish(&dir.path().join("checkpoint")).await.unwrap();
    }
    let replica = Replica::of(stream, dir.path().join("replica"), ReplicaOptions::default());
    replica.pull().await.unwrap();
    assert_same(replica.dir(), &dir.path().join("checkpoint"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_cannot_be_reached_is_an_error_that_names_it() {
    let store = AmazonS3Builder::new()
        .with_endpoint("http://127.0.0.1:9")
        .with_bucket_name("tensorpatch")
        .with_access_key_id("k")
        .with_secret_access_key("k")
        .with_allow_http(true)
        .with_retry(object_store::RetryConfig {
            max_retries: 0,
            retry_timeout: Duration::from_secs(1),
            ..object_store::RetryConfig::default()
        })
        .build()
        .unwrap();
    let error = Stream::open(Arc::new(store), prefix()).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("stream.json"), "{error}");
}
