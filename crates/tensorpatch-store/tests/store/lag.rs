//! A baseline that stays behind: the next version is made from the checkpoint that was published last, as
//! long as that is there and is what it was.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::support::{World, assert_same, files, v, write_sharded, write_single};
use tensorpatch_store::{AnchorPolicy, ApplyMode, Event, Observer, PublishOptions, Publisher, StoreError};

impl World {
    /// Publishes a step as a process of its own does, which ends then.
    async fn publish_alone(&self, checkpoint: &Path) -> u64 {
        let publisher = self.publisher().await;
        let published = publisher.publish(checkpoint).await.unwrap();
        publisher.settle().await;
        published.version.get()
    }

    /// The patches that the baseline keeps, and the files beside the weights that were published last.
    fn kept(&self) -> Vec<PathBuf> {
        let downloads = fs::read_dir(self.path("baseline/.tensorpatch/downloads")).unwrap();
        downloads.map(|entry| entry.unwrap().path()).collect()
    }

    async fn assert_pulls(&self, checkpoint: &Path) {
        let replica = self.replica("replica", ApplyMode::InPlace);
        replica.pull().await.unwrap();
        assert_same(replica.dir(), checkpoint);
    }

    fn lag(&self) -> serde_json::Value {
        let bytes = fs::read(self.path("baseline/.tensorpatch/lag.json")).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }
}

fn modified(path: &Path) -> std::time::SystemTime {
    fs::metadata(path).unwrap().modified().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_baseline_is_not_written_while_the_checkpoints_that_were_published_are_there() {
    let world = World::new().await;
    let first = world.step(1);
    world.publish_alone(&first).await;
    let weights = world.path("baseline/model.safetensors");
    let written = modified(&weights);
    for step in 2..=6 {
        assert_eq!(world.publish_alone(&world.step(step)).await, step);
        assert!(modified(&weights) == written && files(&world.path("baseline")) == files(&first));
    }
    world.assert_pulls(&world.path("step-6")).await;
    // When that is wanted, it comes all the way with the patches that it has, though the stream lost its own.
    let (patches, aside) = (world.path("bucket/patches"), world.path("aside"));
    fs::rename(&patches, &aside).unwrap();
    world.publisher().await.catch_up().await.unwrap();
    assert_same(&world.path("baseline"), &world.path("step-6"));
    fs::rename(&aside, &patches).unwrap();
    assert_eq!(world.publish_alone(&world.step(7)).await, 7);
    world.assert_pulls(&world.path("step-7")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_one_pass_over_the_checkpoint_before_and_its_own_and_no_other() {
    let world = World::new().await;
    let passes: Arc<Mutex<BTreeMap<String, u64>>> = Arc::default();
    let counter = Arc::clone(&passes);
    let observer = Observer::new(move |event| {
        if let Event::Advanced(phase, bytes) = event {
            *counter.lock().unwrap().entry(format!("{phase:?}")).or_default() += bytes;
        }
    });
    for step in 1..=5 {
        let options = PublishOptions::default().with_anchors(AnchorPolicy::NEVER);
        let options = options.with_observer(observer.clone());
        let publisher = Publisher::on(world.stream.clone(), world.path("baseline"), options).await.unwrap();
        passes.lock().unwrap().clear();
        let published = publisher.publish(world.step(step)).await.unwrap();
        publisher.settle().await;
        if step > 1 {
            let expected = [("Encode", published.contents.state_bytes), ("Upload", published.bytes)];
            let expected = expected.map(|(phase, bytes)| (phase.to_owned(), bytes));
            assert_eq!(*passes.lock().unwrap(), BTreeMap::from(expected));
        }
    }
}

/// Writes a checkpoint of 80 kB in which each step alters one element.
fn write_large(dir: &Path, step: u64) {
    let mut bytes = vec![0; 80_000];
    (0..step).for_each(|step| bytes[usize::try_from(step).unwrap() * 8] = 1);
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("model.safetensors"), crate::support::safetensors(&[("a", bytes)])).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_baseline_does_not_stay_behind_for_ever() {
    for (write, model_bytes, most_patches) in
        [(write_single as fn(&Path, u64), 16_000, 12), (write_large, 80_000, 16)]
    {
        let world = World::new().await;
        let (mut most, mut written, mut before) = (0, 0, None);
        for step in 1..=40 {
            let path = world.path(&format!("step-{step}"));
            write(&path, step);
            world.publish_alone(&path).await;
            let kept = world.kept();
            let bytes: u64 = kept.iter().map(|path| fs::metadata(path).unwrap().len()).sum();
            assert!(bytes <= model_bytes / 4 + 100, "{bytes}");
            most = most.max(kept.len());
            let now = modified(&world.path("baseline/model.safetensors"));
            written += u32::from(before.replace(now) != Some(now));
        }
        // With the files beside the weights that were published last, and the patch that was too much.
        assert!(most <= most_patches + 3, "{most}");
        assert!((2..=8).contains(&written), "{written}");
        world.assert_pulls(&world.path("step-40")).await;
    }
}

/// What becomes of a checkpoint after it was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Removed,
    Overwritten,
    Sharded,
    CutShort,
    OneBit,
    OneBitUnnoticed,
    HeaderUnnoticed,
    AnotherStateUnnoticed,
    UnderALink,
}

fn alter(checkpoint: &Path, fate: Fate) {
    let weights = checkpoint.join("model.safetensors");
    let (before, bytes) = (modified(&weights), fs::read(&weights).unwrap());
    let patched = |at: usize, with: u8| {
        let mut bytes = bytes.clone();
        bytes[at] ^= with;
        fs::write(&weights, bytes).unwrap();
    };
    let unnoticed = || File::options().write(true).open(&weights).unwrap().set_modified(before).unwrap();
    match fate {
        Fate::Removed => fs::remove_dir_all(checkpoint).unwrap(),
        Fate::Overwritten => write_single(checkpoint, 77),
        Fate::Sharded => {
            fs::remove_dir_all(checkpoint).unwrap();
            write_sharded(checkpoint, 77);
        }
        Fate::CutShort => fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap(),
        Fate::OneBit => patched(bytes.len() - 1, 1),
        Fate::OneBitUnnoticed => {
            patched(bytes.len() - 1, 1);
            unnoticed();
        }
        Fate::HeaderUnnoticed => {
            patched(10, 1);
            unnoticed();
        }
        Fate::AnotherStateUnnoticed => {
            write_single(checkpoint, 77);
            unnoticed();
        }
        Fate::UnderALink => {
            let aside = checkpoint.with_extension("aside");
            fs::rename(checkpoint, &aside).unwrap();
            std::os::unix::fs::symlink(&aside, checkpoint).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_is_not_what_it_was_costs_only_time() {
    for fate in [
        Fate::Removed,
        Fate::Overwritten,
        Fate::Sharded,
        Fate::CutShort,
        Fate::OneBit,
        Fate::OneBitUnnoticed,
        Fate::HeaderUnnoticed,
        Fate::AnotherStateUnnoticed,
        Fate::UnderALink,
    ] {
        let world = World::new().await;
        for step in 1..=4 {
            world.publish_alone(&world.step(step)).await;
        }
        alter(&world.path("step-4"), fate);
        assert_eq!(world.publish_alone(&world.step(5)).await, 5, "{fate:?}");
        world.assert_pulls(&world.path("step-5")).await;
        if fate != Fate::UnderALink {
            assert_same(&world.path("baseline"), &world.path("step-5"));
        }
        // What looked as it was and was not is not tried again at once.
        let unnoticed =
            matches!(fate, Fate::OneBitUnnoticed | Fate::HeaderUnnoticed | Fate::AnotherStateUnnoticed);
        assert_eq!(world.lag()["source"].is_null(), unnoticed, "{fate:?}");
        assert_eq!(world.publish_alone(&world.step(6)).await, 6, "{fate:?}");
        world.assert_pulls(&world.path("step-6")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_of_the_lag_is_not_believed() {
    let world = World::new().await;
    for step in 1..=3 {
        world.publish_alone(&world.step(step)).await;
    }
    let place = world.path("baseline/.tensorpatch/lag.json");
    let kept = fs::read_to_string(&place).unwrap();
    let other = world.step(50);
    let elsewhere = kept.replace(world.path("step-3").to_str().unwrap(), other.to_str().unwrap());
    let mut step = 4;
    for text in ["", "{}", "null", &"[".repeat(100_000), &elsewhere, &kept] {
        fs::write(&place, text).unwrap();
        assert_eq!(world.publish_alone(&world.step(step)).await, step);
        world.assert_pulls(&world.path(&format!("step-{step}"))).await;
        step += 1;
    }
    // Patches that are gone, or are others.
    for damage in
        [|_: PathBuf| (), |path| fs::remove_file(path).unwrap(), |path| fs::write(path, b"x").unwrap()]
    {
        for entry in fs::read_dir(world.path("baseline/.tensorpatch/downloads")).unwrap() {
            damage(entry.unwrap().path());
        }
        fs::remove_dir_all(world.path(&format!("step-{}", step - 1))).unwrap();
        for _ in 0..3 {
            assert_eq!(world.publish_alone(&world.step(step)).await, step);
            world.assert_pulls(&world.path(&format!("step-{step}"))).await;
            step += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_lacks_what_was_published_last_is_refused_though_the_baseline_is_behind() {
    let world = World::new().await;
    for step in 1..=4 {
        world.publish_alone(&world.step(step)).await;
    }
    let aside = world.path("aside");
    crate::support::copy_dir(&world.path("bucket"), &aside);
    let opened = async || {
        let options = PublishOptions::default();
        Publisher::on(world.stream.clone(), world.path("baseline"), options).await
    };
    // Hidden, and then made by another, who goes on.
    let commit = |version: u64| world.path("bucket/commits").join(format!("{version:020}.json"));
    fs::remove_file(commit(4)).unwrap();
    let missing = opened().await.unwrap_err();
    assert!(matches!(missing, StoreError::HistoryRewritten(_)), "{missing}");
    let other = Publisher::on(world.stream.clone(), world.path("other"), PublishOptions::default());
    let other = other.await.unwrap();
    for step in [14, 15] {
        other.publish(world.step(step)).await.unwrap();
        let another = opened().await.unwrap_err();
        assert!(matches!(another, StoreError::HistoryRewritten(_)), "{another}");
    }
    fs::remove_file(commit(5)).unwrap();
    crate::support::copy_dir(&aside, &world.path("bucket"));
    assert_eq!(world.publish_alone(&world.step(5)).await, 5);
    world.assert_pulls(&world.path("step-5")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_layout_or_other_publishers_bring_the_baseline_along() {
    let world = World::new().await;
    for step in 1..=3 {
        world.publish_alone(&world.step(step)).await;
    }
    let sharded = world.path("sharded");
    write_sharded(&sharded, 4);
    world.publish_alone(&sharded).await;
    assert_same(&world.path("baseline"), &sharded);
    world.publish_alone(&world.step(5)).await;
    assert_same(&world.path("baseline"), &world.path("step-5"));
    world.publish_alone(&world.step(6)).await;
    let options = PublishOptions::default().with_anchors(AnchorPolicy::NEVER);
    let other = Publisher::on(world.stream.clone(), world.path("other"), options).await.unwrap();
    other.publish(&world.step(7)).await.unwrap();
    other.settle().await;
    assert_eq!(world.publish_alone(&world.step(8)).await, 8);
    assert_same(&world.path("baseline"), &world.path("step-8"));
    // The checkpoint was not taken for the version of another, which would have told against it.
    assert_eq!(world.lag()["wary"], 0);
    // An anchor is made of the baseline, which comes along for it.
    world.publish_alone(&world.step(9)).await;
    let publisher = world.publisher().await;
    assert_eq!(publisher.add_anchor().await.unwrap().version, v(9));
    assert_same(&world.path("baseline"), &world.path("step-9"));
    // And so it does for tensors from memory.
    world.publish_alone(&world.step(10)).await;
    drop(world.publisher().await.feed(None).await.unwrap());
    assert_same(&world.path("baseline"), &world.path("step-10"));
}
