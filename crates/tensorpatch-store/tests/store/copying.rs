//! Folds and mirrors that share a working directory, or whose files are altered under their hands.

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use crate::support::faulty_store::{Call, Fault, FaultyStore};
use crate::support::{World, assert_same, v};
use object_store::memory::InMemory;
use tensorpatch_store::{
    ApplyMode, Event, Folder, Observer, Phase, PublishOptions, StoreError, Stream,
    upkeep::{self, CheckOptions, MirrorOptions},
};

#[tokio::test(flavor = "multi_thread")]
async fn two_folds_in_one_working_directory_are_made_one_after_the_other() {
    let world = World::new().await;
    world.publish_steps(12).await;
    let (encoded, wait) = mpsc::channel();
    let (second_done, go_on) = mpsc::channel::<()>();
    let go_on = Mutex::new(go_on);
    // The first fold is encoded and not uploaded yet when the second one begins, and waits for it as long as
    // seems useful.
    let observer = Observer::new(move |event| {
        if let Event::Started(Phase::Upload, _) = event {
            let _ = encoded.send(());
            let _ = go_on.lock().unwrap().recv_timeout(Duration::from_secs(5));
        }
    });
    let options = PublishOptions::default().with_observer(observer);
    let first = Folder::new(world.stream.clone(), world.path("work"), options);
    let first = tokio::spawn(async move { first.fold(v(1), v(6)).await });
    tokio::task::spawn_blocking(move || wait.recv()).await.unwrap().unwrap();
    let second = Folder::new(world.stream.clone(), world.path("work"), PublishOptions::default());
    assert!(second.fold(v(6), v(12)).await.unwrap().added);
    let _ = second_done.send(());
    assert!(first.await.unwrap().unwrap().added);
    let replica = world.replica("r", ApplyMode::InPlace);
    replica.pull_version(v(1)).await.unwrap();
    assert_eq!(replica.pull().await.unwrap().edges.len(), 2);
    assert_same(replica.dir(), &world.step(12));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_altered_on_its_way_is_not_left_where_it_would_be_taken_for_the_object() {
    let world = World::new().await;
    let checkpoint = world.step(1);
    // Large enough that its upload begins before all of it was read.
    std::fs::write(checkpoint.join("notes.txt"), vec![7; 64 << 20]).unwrap();
    world.publisher().await.publish(&checkpoint).await.unwrap();
    let work = world.path("work");
    let (dir, inner) = (work.clone(), Arc::new(InMemory::new()));
    let store = FaultyStore::new(inner.clone(), move |call| {
        if let Call::Multipart(_) = call {
            for file in std::fs::read_dir(&dir).unwrap().map(|file| file.unwrap().path()) {
                if std::fs::metadata(&file).is_ok_and(|meta| meta.len() == 64 << 20) {
                    let file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
                    std::os::unix::fs::FileExt::write_all_at(&file, b"x", (64 << 20) - 1).unwrap();
                }
            }
        }
        Fault::None
    });
    let error = upkeep::mirror(&world.stream, Arc::new(store), "m".into(), &MirrorOptions::new(&work))
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    upkeep::mirror(&world.stream, inner.clone(), "m".into(), &MirrorOptions::new(&work)).await.unwrap();
    let copy = Stream::open(inner.clone(), "m".into()).await.unwrap();
    let checked = upkeep::check(&copy, &CheckOptions::default()).await.unwrap();
    assert!(checked.is_sound(), "{checked:?}");
}
