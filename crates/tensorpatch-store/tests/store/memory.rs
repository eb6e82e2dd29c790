//! Publishing from memory: byte for byte what files with the same state give, behind the same checks.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use crate::support::{World, assert_same, files, v, values};
use proptest::prelude::*;
use tensorpatch_checkpoint::view_of;
use tensorpatch_delta::safetensors::{Dtype, SafeTensors, View, serialize, tensor::TensorView};
use tensorpatch_delta::{DiffError, Others, TensorsError};
use tensorpatch_store::{AnchorPolicy, ApplyMode, Published, StoreError};
use tensorpatch_testkit::{Model, Size, Tensor, pairs};

/// A tensor that owns its bytes, and counts itself while it is alive.
struct Owned {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
    alive: Arc<AtomicUsize>,
}

impl Owned {
    fn of(view: &TensorView<'_>) -> Self {
        let (dtype, shape, bytes) = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        Self { dtype, shape, bytes, alive: Arc::default() }
    }
}

impl View for Owned {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

fn views(model: &Model) -> Vec<(&str, TensorView<'_>)> {
    let tensors = model.tensors().iter();
    tensors.map(|Tensor { spec, bytes }| (spec.name.as_str(), view_of(spec, bytes).unwrap())).collect()
}

fn owned(model: &Model) -> Vec<(String, Owned)> {
    views(model).iter().map(|(name, view)| ((*name).to_owned(), Owned::of(view))).collect()
}

/// The file that the crate makes of a model.
fn put(dir: &Path, model: &Model) {
    std::fs::create_dir_all(dir).unwrap();
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let file = serialize(views(model), Some(metadata)).unwrap();
    std::fs::write(dir.join("model.safetensors"), file).unwrap();
}

/// The model that the checkpoints of the test support hold, in memory.
fn step(step: u64) -> Model {
    let tensor = |name, seed, elements: usize| {
        Tensor::new(name, "BF16", &[elements as u64], values(seed, step, elements))
    };
    Model::new(vec![tensor("a", 1, 3000), tensor("b.weight", 2, 5000)])
}

/// Everything in a bucket by its name, but for what names an attempt.
fn objects(world: &World, folder: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = world.path("bucket").join(folder);
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let (version, rest) = name.split_at(20);
        let inside = if path.is_dir() {
            files(&path)
        } else {
            let kind = rest.split_once('.').map_or("", |(_nonce, kind)| kind);
            BTreeMap::from([(kind.to_owned(), std::fs::read(&path).unwrap())])
        };
        found.extend(inside.into_iter().map(|(file, bytes)| (format!("{version} {file}"), bytes)));
    }
    found
}

fn facts(published: &Published) -> impl PartialEq + std::fmt::Debug + use<> {
    let Published { contents, kind, bytes, changed_elements, total_elements, resumed, .. } = published;
    (*contents, *kind, *bytes, *changed_elements, *total_elements, *resumed)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn versions_from_memory_are_those_of_files(pair in pairs(Size::Small), reversed in any::<bool>()) {
        let known = |model: &Model| {
            let is_known = |tensor: &&Tensor| view_of(&tensor.spec, &tensor.bytes).is_ok();
            Model::new(model.tensors().iter().filter(is_known).cloned().collect())
        };
        let (base, target) = (known(&pair.base), known(&pair.target));
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let check = async {
            let (memory, disk) = (World::new().await, World::new().await);
            put(&disk.path("1"), &base);
            put(&disk.path("2"), &target);
            let from_disk = disk.publisher().await;
            let first = from_disk.publish(&disk.path("1")).await.unwrap();
            let second = from_disk.publish(&disk.path("2")).await.unwrap();

            let publisher = memory.publisher().await;
            let mut tensors = owned(&base);
            if reversed {
                tensors.reverse();
            }
            let published = publisher.publish_tensors(tensors).await.unwrap();
            prop_assert_eq!(facts(&published), facts(&first));
            let mut feed = publisher.feed(None).await.unwrap().with_others(Others::Removed);
            for (name, tensor) in views(&target) {
                feed.add(name, &tensor).unwrap();
            }
            let published = feed.finish().await.unwrap();
            prop_assert_eq!(facts(&published), facts(&second));

            for folder in ["anchors", "patches"] {
                prop_assert!(objects(&memory, folder) == objects(&disk, folder), "{folder}");
            }
            let replica = memory.replica("r", ApplyMode::Beside);
            replica.pull().await.unwrap();
            assert_same(replica.dir(), &disk.path("2"));
            publisher.settle().await;
            assert_same(&memory.path("baseline"), &disk.path("2"));
            Ok(())
        };
        runtime.block_on(check)?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn some_tensors_and_positions_with_values_change_and_everything_else_stays() {
    let world = World::new().await;
    let publisher = world.publisher().await;
    // Shards and companions, as a user has them.
    crate::support::write_sharded(&world.path("1"), 1);
    publisher.publish(&world.path("1")).await.unwrap();

    let weights = std::fs::read(world.step(2).join("model.safetensors")).unwrap();
    let new = SafeTensors::deserialize(&weights).unwrap();
    let mut feed = publisher.feed(None).await.unwrap().with_others(Others::Kept);
    feed.add("a", &new.tensor("a").unwrap()).unwrap();
    // Listed in full: unchanged elements may be.
    let rest = new.tensor("b.weight").unwrap();
    let positions: Vec<u64> = (0..5000).collect();
    feed.add_changes("b.weight", &positions, rest.data()).unwrap();
    let published = feed.finish().await.unwrap();
    crate::support::write_sharded(&world.path("2"), 2);
    let replica = world.replica("r", ApplyMode::InPlace);
    replica.pull().await.unwrap();
    assert_same(replica.dir(), &world.path("2"));
    let again = publisher.publish(&world.path("2")).await.unwrap();
    assert!(again.unchanged && again.version == published.version);

    // Given companions are all of them.
    let mut feed = publisher.feed(None).await.unwrap().with_others(Others::Kept);
    feed.add_companion("config.json", b"{}").unwrap();
    std::fs::write(world.path("vocab.txt"), b"a").unwrap();
    feed.add_companion_file(world.path("vocab.txt")).unwrap();
    for (name, bytes) in [("config.json", b"twice"), ("a.safetensors", b"bytes"), ("../up", b"bytes")] {
        assert!(matches!(feed.add_companion(name, bytes), Err(StoreError::Companion { .. })), "{name}");
    }
    feed.finish().await.unwrap();
    std::fs::write(world.path("2/config.json"), b"{}").unwrap();
    std::fs::write(world.path("2/vocab.txt"), b"a").unwrap();
    replica.pull().await.unwrap();
    assert_same(replica.dir(), &world.path("2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_baseline_is_verified_and_restored_before_the_first_tensor_is_asked_for() {
    let world = World::new().await;
    let publisher = world.publisher().await;
    publisher.publish(&world.step(1)).await.unwrap();
    damage(&world.path("baseline/model.safetensors"));
    let published = publisher.publish_tensors(owned(&step(2))).await.unwrap();
    assert_eq!(published.version, v(2));
    let replica = world.replica("r", ApplyMode::InPlace);
    replica.pull().await.unwrap();
    assert_same(replica.dir(), &world.step(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_of_a_baseline_that_was_altered_meanwhile_is_not_published() {
    let world = World::new().await;
    let publisher = world.publisher().await;
    publisher.publish(&world.step(1)).await.unwrap();
    let before = all_objects(&world);
    for later in [false, true] {
        let mut feed = publisher.feed(None).await.unwrap();
        let add = |feed: &mut tensorpatch_store::TensorFeed| {
            for (name, tensor) in views(&step(2)) {
                feed.add(name, &tensor).unwrap();
            }
        };
        if later {
            add(&mut feed);
            damage(&world.path("baseline/model.safetensors"));
        } else {
            damage(&world.path("baseline/model.safetensors"));
            add(&mut feed);
        }
        assert!(matches!(feed.finish().await, Err(StoreError::WrongState { .. })));
        assert_eq!(all_objects(&world), before);
    }
    // The next call restores it.
    publisher.publish_tensors(owned(&step(2))).await.unwrap();
    publisher.settle().await;
    assert_same(&world.path("baseline"), &world.step(2));
}

fn damage(weights: &Path) {
    let mut bytes = std::fs::read(weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(weights, bytes).unwrap();
}

fn all_objects(world: &World) -> Vec<std::path::PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![world.path("bucket")]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn an_iterator_that_fails_publishes_nothing() {
    let world = World::new().await;
    let publisher = world.publisher().await;
    for version in [1, 2] {
        let before = all_objects(&world);
        let broken = vec![Ok(("a", TensorView::new(Dtype::U8, vec![1], &[1]).unwrap())), Err("no memory")];
        let feed = publisher.feed(None).await.unwrap().with_others(Others::Kept);
        let error = feed.add_all(broken).await.unwrap_err();
        assert!(matches!(&error, StoreError::Tensors(why) if why.to_string() == "no memory"), "{error:?}");
        assert_eq!(all_objects(&world), before);
        let published = publisher.publish_tensors(owned(&step(version))).await.unwrap();
        assert_eq!(published.version, v(version));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_whole_version_is_refused() {
    let world = World::new().await;
    let publisher = world.publisher().await;
    let model = step(1);
    let tensors = views(&model);
    // Nothing could stay.
    let mut feed = publisher.feed(None).await.unwrap().with_others(Others::Kept);
    feed.add("a", &tensors[0].1).unwrap();
    assert!(matches!(feed.finish().await, Err(StoreError::Empty)));
    publisher.publish_tensors(owned(&model)).await.unwrap();
    let before = all_objects(&world);
    // A tensor that was forgotten.
    let mut feed = publisher.feed(None).await.unwrap();
    feed.add("a", &tensors[0].1).unwrap();
    let error = feed.finish().await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Diff(DiffError::Tensors(TensorsError::Missing { .. }))),
        "{error:?}"
    );
    // One that was refused does not count as one that stays.
    let mut feed = publisher.feed(None).await.unwrap().with_others(Others::Kept);
    assert!(feed.add_changes("a", &[3000], &[0, 0]).is_err());
    assert!(matches!(feed.finish().await, Err(StoreError::Tensors(_))));
    assert!(matches!(publisher.feed(Some("")).await, Err(StoreError::Text(_))));
    assert_eq!(all_objects(&world), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_state_with_the_same_label_is_published_once() {
    let world = World::new().await;
    let publisher = world.anchoring(AnchorPolicy::NEVER).await;
    for (number, version, resumed) in [(1, 1, false), (1, 1, true), (2, 2, false), (2, 2, true)] {
        let feed = publisher.feed(Some(&format!("step {number}"))).await.unwrap();
        let tensors = owned(&step(number)).into_iter().map(Ok::<_, StoreError>).collect::<Vec<_>>();
        let published = feed.add_all(tensors).await.unwrap().finish().await.unwrap();
        assert_eq!((published.version, published.resumed), (v(version), resumed));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn anchors_come_by_the_policy_as_for_files() {
    let world = World::new().await;
    let publisher = world.anchoring(AnchorPolicy::every(2)).await;
    let mut anchors = Vec::new();
    for number in 1..=3 {
        let published = publisher.publish_tensors(owned(&step(number))).await.unwrap();
        anchors.push(published.anchor.is_some());
    }
    assert_eq!(anchors, [false, false, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_iterator_makes_one_tensor_at_a_time_and_stops_when_its_caller_gives_up() {
    let world = World::new().await;
    let publisher = Arc::new(world.publisher().await);
    let (alive, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let tensors = |limit: usize, made: mpsc::Sender<usize>, go_on: mpsc::Receiver<()>| {
        let (alive, most) = (Arc::clone(&alive), Arc::clone(&most));
        (0..limit).map(move |number| {
            made.send(number).unwrap();
            go_on.recv().unwrap();
            most.fetch_max(alive.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let (dtype, shape, bytes) = (Dtype::U8, vec![4], vec![1; 4]);
            (format!("t{number}"), Owned { dtype, shape, bytes, alive: Arc::clone(&alive) })
        })
    };
    let (made, has_made) = mpsc::channel();
    let (let_go, go_on) = mpsc::channel();
    let iterator = tensors(20, made, go_on);
    let given_up = tokio::spawn({
        let publisher = Arc::clone(&publisher);
        async move { publisher.publish_tensors(iterator).await }
    });
    for number in 0..3 {
        let_go.send(()).unwrap();
        assert_eq!(has_made.recv_timeout(Duration::from_secs(60)), Ok(number));
    }
    assert_eq!(has_made.recv_timeout(Duration::from_secs(60)), Ok(3));
    given_up.abort();
    assert!(given_up.await.unwrap_err().is_cancelled());
    for _ in 0..20 {
        let_go.send(()).unwrap_or_default();
    }
    // The iterator is gone, after the tensor that it was making.
    let rest: Vec<usize> = has_made.iter().collect();
    assert!(rest.is_empty(), "{rest:?} were made for nobody");

    let (made, _has_made) = mpsc::channel();
    let (let_go, go_on) = mpsc::channel();
    (0..5).for_each(|_| let_go.send(()).unwrap());
    let published = publisher.publish_tensors(tensors(5, made, go_on)).await.unwrap();
    assert_eq!((published.version, published.contents.tensors), (v(1), 5));
    assert_eq!((alive.load(Ordering::SeqCst), most.load(Ordering::SeqCst)), (0, 1));
}
