//! What is not done twice: passes over the files of a replica that is behind, and the way back that it came.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::{World, assert_same, files, v, write_sharded};
use tensorpatch_delta::Durability;
use tensorpatch_store::{
    AnchorPolicy, ApplyMode, Event, Observer, Phase, PublishOptions, Publisher, Replica, ReplicaOptions,
    StoreError,
};

/// A replica that counts the bytes of model that patches are applied to.
fn counted(world: &World, mode: ApplyMode) -> (Replica, Arc<AtomicU64>) {
    let count = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&count);
    let observer = Observer::new(move |event| {
        if let Event::Advanced(Phase::Apply, bytes) = event {
            counter.fetch_add(bytes, Ordering::SeqCst);
        }
    });
    let options = ReplicaOptions::default().with_mode(mode).with_observer(observer);
    (Replica::of(world.stream.clone(), world.path(&format!("{mode:?}")), options), count)
}

#[tokio::test(flavor = "multi_thread")]
async fn however_far_a_replica_is_behind_it_goes_over_its_files_once() {
    let world = World::new().await;
    world.publish_steps(6).await;
    for mode in [ApplyMode::InPlace, ApplyMode::Beside] {
        let (replica, count) = counted(&world, mode);
        // From nothing: the anchor and two patches.
        let pulled = replica.pull_version(v(3)).await.unwrap();
        let once = pulled.contents.state_bytes;
        assert_eq!((pulled.edges.len(), count.swap(0, Ordering::SeqCst)), (3, once), "{mode:?}");
        assert_same(replica.dir(), &world.step(3));
        // Behind by three.
        let pulled = replica.pull().await.unwrap();
        assert_eq!((pulled.edges.len(), count.swap(0, Ordering::SeqCst)), (3, once), "{mode:?}");
        assert_same(replica.dir(), &world.step(6));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_goes_back_the_way_it_came_without_an_anchor() {
    let world = World::new().await;
    world.publish_steps(6).await;
    let (replica, _) = counted(&world, ApplyMode::InPlace);
    replica.pull_version(v(3)).await.unwrap();
    // In one step and in several, there and back and there again.
    for (from, to) in [(4, 3), (6, 3), (4, 3), (6, 3)] {
        replica.pull_version(v(from)).await.unwrap();
        assert_same(replica.dir(), &world.step(from));
        let back = replica.pull_version(v(to)).await.unwrap();
        assert_same(replica.dir(), &world.step(to));
        assert_eq!((back.to, back.edges.len(), back.edges[0].anchor), (v(to), 1, false));
        assert!(back.plan_bytes > 0 && back.plan_bytes * 2 < back.contents.state_bytes, "{back:?}");
        assert!(back.downloaded_bytes < back.plan_bytes, "{back:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_back_that_is_missing_damaged_or_of_another_version_costs_only_time() {
    let world = World::new().await;
    world.publish_steps(5).await;
    let (replica, _) = counted(&world, ApplyMode::InPlace);
    let inverse = replica.dir().join(".tensorpatch/inverse");
    let flip = |path: &Path| {
        let mut bytes = std::fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    for round in 0..4 {
        replica.pull_version(v(3)).await.unwrap();
        replica.pull_version(v(4)).await.unwrap();
        assert!(inverse.exists());
        match round {
            0 => std::fs::remove_file(&inverse).unwrap(),
            1 => flip(&inverse),
            2 => std::fs::write(&inverse, b"").unwrap(),
            _ => {}
        }
        let to = if round == 3 { 2 } else { 3 };
        let back = replica.pull_version(v(to)).await.unwrap();
        assert!(back.edges[0].anchor, "{round}");
        assert_same(replica.dir(), &world.step(to));
    }
    let without = ReplicaOptions::default().without_inverse();
    let replica = Replica::of(world.stream.clone(), world.path("without"), without);
    replica.pull_version(v(3)).await.unwrap();
    replica.pull_version(v(4)).await.unwrap();
    assert!(!replica.dir().join(".tensorpatch/inverse").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_with_a_base_keeps_no_copy_of_the_model_and_takes_no_other_base() {
    let world = World::new().await;
    world.publish_steps(1).await;
    let work = world.path("work");
    let over = async |base: &Path| {
        let options = PublishOptions::default().with_base(base);
        Publisher::on(world.stream.clone(), &work, options).await.unwrap()
    };
    for step in 2..=4 {
        let published = over(&world.step(step - 1)).await.publish(&world.step(step)).await.unwrap();
        assert_eq!(published.version, v(step));
        assert!(!work.join(".tensorpatch/staging").exists() && files(&work).is_empty());
    }
    let (replica, _) = counted(&world, ApplyMode::InPlace);
    replica.pull().await.unwrap();
    assert_same(replica.dir(), &world.step(4));

    // An older version, one with a flipped bit, and one in other files.
    let (flipped, sharded) = (world.path("flipped"), world.path("sharded"));
    crate::support::copy_dir(&world.step(4), &flipped);
    let weights = flipped.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    write_sharded(&sharded, 4);
    for base in [world.step(3), flipped, sharded] {
        let refused = over(&base).await.publish(&world.step(5)).await.unwrap_err();
        assert!(matches!(refused, StoreError::WrongBase { .. }), "{refused}");
    }
    assert_eq!(world.stream.tip().await.unwrap().unwrap().record.version, v(4));
    // With a baseline again it catches up.
    assert_eq!(world.publisher().await.publish(&world.step(5)).await.unwrap().version, v(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_publisher_makes_versions_from_the_checkpoints_before_and_from_its_baseline_in_turn() {
    let world = World::new().await;
    let publisher = world.publisher().await;
    for step in 1..=6 {
        let publisher = publisher.with_base((step % 3 > 0).then(|| world.step(step - 1)));
        assert_eq!(publisher.publish(&world.step(step)).await.unwrap().version, v(step));
    }
    let refused = publisher.with_base(Some(world.step(4))).publish(&world.step(7)).await.unwrap_err();
    assert!(matches!(refused, StoreError::WrongBase { .. }), "{refused}");
    publisher.catch_up().await.unwrap();
    assert_same(&world.path("baseline"), &world.step(6));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_background_has_not_done_the_next_publisher_does() {
    let world = World::new().await;
    for step in 1..=4 {
        // Dropped at once, and another one is there at once.
        world.publisher().await.publish(&world.step(step)).await.unwrap();
    }
    let publisher = world.anchoring(AnchorPolicy::every(2)).await;
    let published = publisher.publish(&world.step(5)).await.unwrap();
    assert_eq!((published.version, published.anchor.unwrap().version), (v(5), v(5)));
    publisher.catch_up().await.unwrap();
    assert_same(&world.path("baseline"), &world.step(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_not_synced_finds_out_what_a_power_cut_has_left() {
    let world = World::new().await;
    world.publish_steps(4).await;
    let options = ReplicaOptions::default().with_durability(Durability::None);
    let replica = Replica::of(world.stream.clone(), world.path("r"), options);
    let state = replica.dir().join(".tensorpatch/state.json");
    for version in 1..=4 {
        replica.pull_version(v(version)).await.unwrap();
        assert_same(replica.dir(), &world.step(version));
        match version {
            // The state file was not written yet.
            1 => std::fs::write(&state, b"").unwrap(),
            2 => std::fs::write(&state, vec![0; std::fs::read(&state).unwrap().len()]).unwrap(),
            // The weights were not.
            _ => {
                let weights = replica.dir().join("model.safetensors");
                let mut bytes = std::fs::read(&weights).unwrap();
                let len = bytes.len();
                bytes[len - 4096..].fill(0);
                std::fs::write(&weights, bytes).unwrap();
            }
        }
    }
    let fresh = world.replica("fresh", ApplyMode::InPlace);
    fresh.pull().await.unwrap();
    assert_same(fresh.dir(), &world.step(4));
}
