//! A replica whose update stops half-way, at an instant that the test chooses: the state file says so, and the next call ends it.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::path::Path;

use support::{World, assert_same, v};
use tensorpatch_store::{ApplyMode, Replica, Target};

fn condition(replica: &Replica) -> String {
    let text = std::fs::read_to_string(replica.dir().join(".tensorpatch/state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_str(&text).unwrap();
    state["condition"].as_object().unwrap().keys().next().unwrap().clone()
}

fn away(file: &Path) -> std::path::PathBuf {
    file.with_file_name("away")
}

/// A replica at version 1 whose activation of version 2 in place has failed, as its weights were not to be found.
async fn stopped(world: &World) -> Replica {
    world.publish_steps(2).await;
    let replica = world.replica("r", ApplyMode::InPlace);
    replica.pull(Target::Version(v(1))).await.unwrap();
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
    replica.pull(Target::Latest).await.unwrap();
    assert_same(replica.dir(), &world.step(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_cut_short_while_an_application_waits_are_repaired() {
    let world = World::new().await;
    let replica = stopped(&world).await;
    let weights = replica.dir().join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() - 1]).unwrap();
    replica.pull(Target::Latest).await.unwrap();
    assert_same(replica.dir(), &world.step(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_whose_journal_is_gone_before_it_begins_does_not_pass_for_done() {
    let world = World::new().await;
    world.publish_steps(2).await;
    let replica = world.replica("r", ApplyMode::InPlace);
    replica.pull(Target::Version(v(1))).await.unwrap();
    let prepared = replica.prepare(Target::Latest).await.unwrap();
    std::fs::remove_file(replica.dir().join(".tensorpatch/journal")).unwrap();
    assert!(replica.activate(prepared).await.is_err());
    assert_eq!(replica.held().await.unwrap().unwrap().version, v(1));
    replica.pull(Target::Latest).await.unwrap();
    assert_same(replica.dir(), &world.step(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_that_was_begun_is_finished() {
    let world = World::new().await;
    world.publish_steps(2).await;
    let replica = world.replica("r", ApplyMode::Beside);
    replica.pull(Target::Version(v(1))).await.unwrap();
    let prepared = replica.prepare(Target::Latest).await.unwrap();
    // A directory with something in it cannot be renamed over.
    let weights = replica.dir().join("model.safetensors");
    std::fs::rename(&weights, away(&weights)).unwrap();
    std::fs::create_dir_all(weights.join("in-the-way")).unwrap();
    assert!(replica.activate(prepared).await.is_err());
    assert_eq!(condition(&replica), "switching");
    std::fs::remove_dir_all(&weights).unwrap();
    std::fs::rename(away(&weights), &weights).unwrap();
    assert_eq!(replica.held().await.unwrap().unwrap().version, v(2));
    assert_same(replica.dir(), &world.step(2));
}
