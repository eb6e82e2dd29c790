//! Publishers, replicas, folders and collectors at once, over a store that fails at random.

use std::collections::BTreeMap;
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::support::faulty_store::{Call, Fault, FaultyStore};
use crate::support::{assert_same, v, write_sharded, write_single};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use proptest::prelude::*;
use tempfile::TempDir;
use tensorpatch_store::{
    ApplyMode, CreateOptions, Folder, PublishOptions, Publisher, Replica, ReplicaOptions, StoreError, Stream,
    Version,
    upkeep::{self, CheckOptions, CollectOptions},
};

const STEPS: u64 = 8;

/// The checkpoints that are published; every third one is sharded.
fn steps() -> &'static FilePath {
    static DIR: OnceLock<TempDir> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        for step in 0..STEPS {
            let path = dir.path().join(step.to_string());
            if step % 3 == 2 { write_sharded(&path, step) } else { write_single(&path, step) }
        }
        dir
    })
    .path()
}

fn step(number: u64) -> PathBuf {
    steps().join((number % STEPS).to_string())
}

#[derive(Debug, Clone, Copy)]
enum Action {
    Publish {
        publisher: usize,
        step: u64,
    },
    CatchUp {
        publisher: usize,
    },
    /// The process dies between two calls.
    Restart {
        publisher: usize,
    },
    Anchor {
        publisher: usize,
    },
    Pull {
        replica: usize,
        version: Option<u64>,
    },
    Fold {
        from: u64,
        length: u64,
    },
    Collect {
        keep: u64,
    },
}

fn actions() -> impl Strategy<Value = Vec<(Action, Action)>> {
    let action = prop_oneof![
        6 => (0..2_usize, 0..STEPS).prop_map(|(publisher, step)| Action::Publish { publisher, step }),
        2 => (0..2_usize).prop_map(|publisher| Action::CatchUp { publisher }),
        1 => (0..2_usize).prop_map(|publisher| Action::Restart { publisher }),
        1 => (0..2_usize).prop_map(|publisher| Action::Anchor { publisher }),
        4 => (0..2_usize, prop::option::of(1..8_u64))
            .prop_map(|(replica, version)| Action::Pull { replica, version }),
        1 => (1..6_u64, 1..4_u64).prop_map(|(from, length)| Action::Fold { from, length }),
        1 => (1..4_u64).prop_map(|keep| Action::Collect { keep }),
    ];
    prop::collection::vec((action.clone(), action), 4..10)
}

/// A small generator, so that a case can be repeated from its seed.
fn faults(seed: u64, rate: u64) -> impl FnMut(&Call) -> Fault + Send + 'static {
    let mut state = seed | 1;
    move |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if state % 100 >= rate {
            return Fault::None;
        }
        match (state >> 32) % 5 {
            0 => Fault::BeforeEffect,
            1 => Fault::AfterEffect,
            2 => Fault::Slow(Duration::from_millis((state >> 40) % 5)),
            3 => Fault::Stale,
            _ => Fault::Broken(((state >> 40) % 4000) as usize),
        }
    }
}

struct Case {
    dir: TempDir,
    /// The stream as the actors see it, through faults.
    stream: Stream,
    /// The stream as it is.
    truth: Stream,
    publishers: [tokio::sync::Mutex<Option<Publisher>>; 2],
    replicas: [Replica; 2],
}

impl Case {
    async fn new(seed: u64, rate: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let truth = Stream::create(inner.clone(), "s".into(), CreateOptions::default()).await.unwrap();
        let store = Arc::new(FaultyStore::new(inner.clone(), faults(seed, rate)));
        let stream = loop {
            if let Ok(stream) = Stream::open(store.clone(), "s".into()).await {
                break stream;
            }
        };
        let replica = |name: &str, mode| {
            let options = ReplicaOptions::default().with_mode(mode);
            Replica::of(stream.clone(), dir.path().join(name), options)
        };
        let replicas = [replica("r0", ApplyMode::InPlace), replica("r1", ApplyMode::Beside)];
        Self { publishers: Default::default(), replicas, truth, stream, dir }
    }

    /// Does what is asked, and checks what must hold whatever the outcome.
    async fn act(&self, action: Action) {
        match action {
            Action::Publish { publisher, step: number } => {
                let mut slot = self.publishers[publisher].lock().await;
                if slot.is_none() {
                    *slot = self.open(publisher).await;
                }
                let Some(open) = slot.as_ref() else { return };
                match open.publish(&step(number)).await {
                    Ok(published) => {
                        let commit = self.truth.commit(published.version).await.unwrap().unwrap();
                        assert_eq!(commit.digest, published.commit, "what was claimed is what is there");
                        assert_eq!(commit.record.publisher, format!("p{publisher}"));
                    }
                    Err(StoreError::LostRace { version, .. }) => {
                        let commit = self.truth.commit(version).await.unwrap().unwrap();
                        assert_ne!(commit.record.publisher, format!("p{publisher}"));
                    }
                    Err(error) => assert_expected(&error),
                }
            }
            Action::CatchUp { publisher } => {
                if let Some(open) = self.publishers[publisher].lock().await.as_ref()
                    && let Err(error) = open.catch_up().await
                {
                    assert_expected(&error);
                }
            }
            Action::Restart { publisher } => *self.publishers[publisher].lock().await = None,
            Action::Anchor { publisher } => {
                if let Some(open) = self.publishers[publisher].lock().await.as_ref()
                    && let Err(error) = open.add_anchor().await
                {
                    assert_expected(&error);
                }
            }
            Action::Pull { replica, version } => {
                let replica = &self.replicas[replica];
                let pulled = match version {
                    None => replica.pull().await,
                    Some(number) => replica.pull_version(v(number)).await,
                };
                match pulled {
                    Ok(pulled) => self.assert_holds(replica, pulled.to).await,
                    Err(error) => {
                        let is_collected = matches!(error, StoreError::Collected { .. });
                        assert!(!is_collected || version.is_some(), "the newest is never collected: {error}");
                        assert_expected(&error);
                        if let Some(held) = replica.held().await.unwrap() {
                            self.assert_holds(replica, held.version).await;
                        }
                    }
                }
            }
            Action::Fold { from, length } => {
                let folder =
                    Folder::new(self.stream.clone(), self.dir.path().join("fold"), PublishOptions::default());
                if let Err(error) = folder.fold(v(from), v(from + length)).await {
                    assert_expected(&error);
                }
            }
            Action::Collect { keep } => {
                let policy = CollectOptions::default().keeping(keep).with_grace(Duration::ZERO).deleting();
                if let Err(error) = upkeep::collect(&self.stream, &policy).await {
                    assert_expected(&error);
                }
            }
        }
    }

    async fn open(&self, publisher: usize) -> Option<Publisher> {
        let options = PublishOptions::default().with_publisher(format!("p{publisher}")).allowing_unchanged();
        let baseline = self.dir.path().join(format!("b{publisher}"));
        match Publisher::on(self.stream.clone(), baseline, options).await {
            Ok(open) => Some(open),
            Err(error) => {
                assert_expected(&error);
                None
            }
        }
    }

    /// The files of the replica are those of the version, byte for byte.
    async fn assert_holds(&self, replica: &Replica, version: Version) {
        let commit = self.truth.commit(version).await.unwrap().unwrap();
        let mut expected = None;
        for number in 0..STEPS {
            if digests().get(&number)
                == Some(&(
                    commit.record.contents.state.to_string(),
                    commit.record.contents.layout.to_string(),
                ))
            {
                expected = Some(step(number));
            }
        }
        assert_same(replica.dir(), &expected.expect("the version is one of the checkpoints"));
    }

    /// The end, without faults: everything that must be reachable is, and everybody gets to the tip.
    async fn settle(&self) {
        let Some(tip) = self.truth.tip().await.unwrap() else { return };
        let checked = upkeep::check(&self.truth, &CheckOptions::default()).await.unwrap();
        assert!(checked.is_sound(), "{checked:?}");
        for replica in &self.replicas {
            let replica = Replica::of(self.truth.clone(), replica.dir(), ReplicaOptions::default());
            let pulled = replica.pull().await.unwrap();
            assert_eq!(pulled.to, tip.record.version);
            self.assert_holds(&replica, pulled.to).await;
        }
        let options = PublishOptions::default().with_publisher("last").allowing_unchanged();
        let last = Publisher::on(self.truth.clone(), self.dir.path().join("b0"), options).await.unwrap();
        let published = last.publish(&step(1)).await.unwrap();
        assert_eq!(Some(published.version), tip.record.version.next());
    }
}

/// State and layout of each checkpoint, as published without faults.
fn digests() -> &'static BTreeMap<u64, (String, String)> {
    static DIGESTS: OnceLock<BTreeMap<u64, (String, String)>> = OnceLock::new();
    DIGESTS.get_or_init(|| {
        let work = async {
            let dir = tempfile::tempdir().unwrap();
            let store = Arc::new(InMemory::new());
            let stream = Stream::create(store, "s".into(), CreateOptions::default()).await.unwrap();
            let publisher =
                Publisher::on(stream.clone(), dir.path(), PublishOptions::default()).await.unwrap();
            let mut digests = BTreeMap::new();
            for number in 0..STEPS {
                let version = publisher.publish(&step(number)).await.unwrap().version;
                let record = stream.commit(version).await.unwrap().unwrap().record;
                digests
                    .insert(number, (record.contents.state.to_string(), record.contents.layout.to_string()));
            }
            digests
        };
        std::thread::spawn(|| tokio::runtime::Runtime::new().unwrap().block_on(work)).join().unwrap()
    })
}

/// What may be said when a store fails, another publisher is faster, or a collector was there before.
/// Everything else is a bug.
fn assert_expected(error: &StoreError) {
    let expected = match error {
        StoreError::LostRace { .. }
        | StoreError::NotAtTip { .. }
        | StoreError::OutcomeUnknown { .. }
        | StoreError::NoVersion { .. }
        | StoreError::Empty
        | StoreError::Missing { .. }
        | StoreError::Collected { .. }
        | StoreError::Plan(_) => true,
        error => error.is_transient(),
    };
    assert!(expected, "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("TENSORPATCH_TEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(12),
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_fails_replicas_hold_exact_versions_and_nothing_reachable_is_lost(
        seed in any::<u64>(),
        rate in 0_u64..40,
        pairs in actions(),
    ) {
        let _ = digests();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let case = Case::new(seed, rate).await;
            for (one, two) in pairs {
                tokio::join!(case.act(one), case.act(two));
            }
            case.settle().await;
        });
    }
}
