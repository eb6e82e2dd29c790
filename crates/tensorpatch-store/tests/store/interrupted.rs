//! A replica whose update stops half-way, at an instant that the test chooses: the state file says so, and
//! the next call ends it.

use std::path::Path;
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use crate::support::{World, assert_same, v};
use tensorpatch_delta::Durability;
use tensorpatch_store::{ApplyMode, Event, ObjectDigest, Observer, Phase, Replica, ReplicaOptions, Target};

fn condition(replica: &Replica) -> String {
    let text = std::fs::read_to_string(replica.dir().join(".tensorpatch/state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_str(&text).unwrap();
    state["condition"].as_object().unwrap().keys().next().unwrap().clone()
}

fn away(file: &Path) -> std::path::PathBuf {
    file.with_file_name("away")
}

/// A replica that writes beside and syncs nothing: to sync what is staged would find what is wrong with
/// it before the switch begins.
fn unsynced(world: &World) -> Replica {
    let options = ReplicaOptions::default().with_mode(ApplyMode::Beside).with_durability(Durability::None);
    Replica::of(world.stream.clone(), world.path("r"), options)
}

/// Puts a link in the place of the staged weights, which no switch follows. Says where they belong.
fn staged_away(replica: &Replica) -> std::path::PathBuf {
    let staged = replica.dir().join(".tensorpatch/staging/model.safetensors");
    std::fs::rename(&staged, away(&staged)).unwrap();
    std::os::unix::fs::symlink(away(&staged), &staged).unwrap();
    staged
}

/// A replica at version 1 whose activation of version 2 in place has failed, as its weights were not to be
/// found.
async fn stopped(world: &World) -> Replica {
    world.publish_steps(2).await;
    let replica = world.replica("r", ApplyMode::InPlace);
    replica.pull_version(v(1)).await.unwrap();
    let prepared = replica.prepare(Target::Latest).await.unwrap();
    let weights = replica.dir().join("model.safetensors");
    std::fs::rename(&weights, away(&weights)).unwrap();
    assert!(replica.activate(prepared).await.is_err());
    assert_eq!(condition(&replica), "applying");
    std::fs::rename(away(&weights), &weights).unwrap();
    replica
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_was_begun_is_finished_from_its_journal() {
    let world = World::new().await;
    let replica = stopped(&world).await;
    assert_eq!(replica.held().await.unwrap().unwrap().version, v(2));
    assert_eq!(condition(&replica), "held");
    assert_same(replica.dir(), &world.step(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_journal_the_digest_says_which_of_the_two_versions_is_there() {
    let world = World::new().await;
    let replica = stopped(&world).await;
    std::fs::remove_file(replica.dir().join(".tensorpatch/journal")).unwrap();
    assert_eq!(replica.held().await.unwrap().unwrap().version, v(1));
    assert_same(replica.dir(), &world.step(1));

    let world = World::new().await;
    let replica = stopped(&world).await;
    std::fs::remove_file(replica.dir().join(".tensorpatch/journal")).unwrap();
    let weights = "model.safetensors";
    std::fs::copy(world.step(2).join(weights), replica.dir().join(weights)).unwrap();
    assert_eq!(replica.held().await.unwrap().unwrap().version, v(2));
    assert_same(replica.dir(), &world.step(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_between_two_versions_are_called_damaged_and_are_repaired() {
    let world = World::new().await;
    let replica = stopped(&world).await;
    std::fs::remove_file(replica.dir().join(".tensorpatch/journal")).unwrap();
    let weights = replica.dir().join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    assert!(replica.held().await.unwrap().is_none());
    assert_eq!(condition(&replica), "damaged");
    replica.pull().await.unwrap();
    assert_same(replica.dir(), &world.step(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_cut_short_while_an_application_waits_are_repaired() {
    let world = World::new().await;
    let replica = stopped(&world).await;
    let weights = replica.dir().join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() - 1]).unwrap();
    replica.pull().await.unwrap();
    assert_same(replica.dir(), &world.step(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_whose_journal_is_gone_before_it_begins_does_not_pass_for_done() {
    let world = World::new().await;
    world.publish_steps(2).await;
    let replica = world.replica("r", ApplyMode::InPlace);
    replica.pull_version(v(1)).await.unwrap();
    let prepared = replica.prepare(Target::Latest).await.unwrap();
    std::fs::remove_file(replica.dir().join(".tensorpatch/journal")).unwrap();
    assert!(replica.activate(prepared).await.is_err());
    assert_eq!(replica.held().await.unwrap().unwrap().version, v(1));
    replica.pull().await.unwrap();
    assert_same(replica.dir(), &world.step(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_that_was_begun_is_finished() {
    let world = World::new().await;
    world.publish_steps(2).await;
    let replica = unsynced(&world);
    replica.pull_version(v(1)).await.unwrap();
    let prepared = replica.prepare(Target::Latest).await.unwrap();
    let staged = staged_away(&replica);
    assert!(replica.activate(prepared).await.is_err());
    assert_eq!(condition(&replica), "switching");
    std::fs::remove_file(&staged).unwrap();
    std::fs::rename(away(&staged), &staged).unwrap();
    assert_eq!(replica.held().await.unwrap().unwrap().version, v(2));
    assert_same(replica.dir(), &world.step(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_whose_files_have_vanished_is_not_called_finished() {
    let world = World::new().await;
    world.publish_steps(2).await;
    let replica = unsynced(&world);
    replica.pull_version(v(1)).await.unwrap();
    let prepared = replica.prepare(Target::Latest).await.unwrap();
    staged_away(&replica);
    assert!(replica.activate(prepared).await.is_err());
    // Somebody makes room.
    std::fs::remove_dir_all(replica.dir().join(".tensorpatch/staging")).unwrap();
    assert_eq!(replica.held().await.unwrap(), None);
    replica.pull().await.unwrap();
    assert_same(replica.dir(), &world.step(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_goes_on_after_its_caller_gave_up_keeps_the_replica_locked() {
    let world = World::new().await;
    world.publish_steps(2).await;
    world.replica("r", ApplyMode::InPlace).pull_version(v(1)).await.unwrap();
    let (begun, has_begun) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let may_go_on = Mutex::new(may_go_on);
    let observer = Observer::new(move |event| {
        if let Event::Advanced(Phase::Apply, _) = event {
            let _ = begun.send(());
            let _ = may_go_on.lock().unwrap().recv();
        }
    });
    let options = ReplicaOptions::default().with_observer(observer);
    let slow = Replica::of(world.stream.clone(), world.path("r"), options);
    let pulling = tokio::spawn(async move { slow.pull().await });
    tokio::task::spawn_blocking(move || has_begun.recv()).await.unwrap().unwrap();
    pulling.abort();
    assert!(pulling.await.unwrap_err().is_cancelled());
    let other = world.replica("r", ApplyMode::InPlace);
    let early = tokio::time::timeout(Duration::from_millis(400), other.held()).await;
    assert!(early.is_err(), "somebody else may work on files that are still being worked on");
    drop(go_on);
    assert_eq!(other.pull().await.unwrap().to, v(2));
    assert_same(other.dir(), &world.step(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_was_altered_on_disk_is_fetched_again() {
    let world = World::new().await;
    world.publish_steps(2).await;
    for mode in [ApplyMode::InPlace, ApplyMode::Beside] {
        let replica = world.replica(&format!("{mode:?}"), mode);
        replica.pull_version(v(1)).await.unwrap();
        let delta = world.stream.tip().await.unwrap().unwrap().record.delta.unwrap();
        let digest: ObjectDigest = delta.patches[0].object.blake3;
        let kept = replica.dir().join(format!(".tensorpatch/downloads/{digest}"));
        std::fs::write(&kept, "not a patch").unwrap();
        assert_eq!(replica.pull().await.unwrap().to, v(2));
        assert_same(replica.dir(), &world.step(2));
    }
}
