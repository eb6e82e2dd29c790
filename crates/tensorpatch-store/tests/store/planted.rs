//! What others have put in the directories that replicas, publishers and streams work in: links, pipes, files
//! that they keep a hold of. Nothing outside is read, written or deleted, and nothing waits.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tensorpatch_format::ErrorKind;
use tensorpatch_store::upkeep::{self, CollectOptions, MirrorOptions};
use tensorpatch_store::{ApplyMode, Folder, PublishOptions, StoreError, Stream, open_store};

use crate::support::{World, assert_same, v};

/// A directory of somebody else's, with a file and a directory in it.
struct Foreign {
    path: PathBuf,
}

impl Foreign {
    fn new(world: &World) -> Self {
        let path = world.path("foreign");
        fs::create_dir_all(path.join("inner")).unwrap();
        fs::write(path.join("file"), "theirs").unwrap();
        fs::write(path.join("inner/file"), "theirs").unwrap();
        Self { path }
    }

    fn assert_untouched(&self) {
        assert_eq!(fs::read(self.path.join("file")).unwrap(), b"theirs");
        assert_eq!(fs::read(self.path.join("inner/file")).unwrap(), b"theirs");
        assert_eq!(fs::read_dir(&self.path).unwrap().count(), 2);
    }
}

/// Puts a link in the place of what is there.
fn symlink(to: impl AsRef<Path>, path: impl AsRef<Path>) {
    clear(path.as_ref());
    std::os::unix::fs::symlink(to, path).unwrap();
}

fn clear(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

/// Puts a named pipe in the place of what is there.
fn pipe(path: &Path) {
    use rustix::fs::{CWD, Mode, mkfifoat};
    clear(path);
    mkfifoat(CWD, path, Mode::from_raw_mode(0o666)).unwrap();
}

/// The hidden directory of a replica that is still to be made.
fn hidden(world: &World, replica: &str) -> PathBuf {
    let hidden = world.path(replica).join(".tensorpatch");
    fs::create_dir_all(&hidden).unwrap();
    hidden
}

fn is_about(error: &StoreError, path: &Path) -> bool {
    let text = error.to_string();
    matches!(error, StoreError::Misplaced(_)) && text.contains(&path.display().to_string())
}

async fn pull(world: &World, replica: &str) -> Result<(), StoreError> {
    let replica = world.replica(replica, ApplyMode::InPlace);
    // A pipe would hold it for ever.
    let pulled = tokio::time::timeout(Duration::from_secs(60), replica.pull());
    pulled.await.expect("it waits").map(|_| ())
}

#[tokio::test]
async fn a_hidden_directory_or_a_part_of_it_that_is_a_link_is_refused_by_name() {
    let world = World::new().await;
    world.publish_steps(1).await;
    let foreign = Foreign::new(&world);
    for (number, name) in ["", "downloads", "lock"].into_iter().enumerate() {
        let replica = format!("replica-{number}");
        let hidden = hidden(&world, &replica);
        let link = if name.is_empty() { hidden } else { hidden.join(name) };
        symlink(if name == "lock" { foreign.path.join("new") } else { foreign.path.clone() }, &link);
        let error = pull(&world, &replica).await.unwrap_err();
        assert!(is_about(&error, &link), "{name}: {error}");
        assert_eq!(error.kind(), ErrorKind::Refused);
        foreign.assert_untouched();
        fs::remove_file(&link).unwrap();
        pull(&world, &replica).await.unwrap();
    }
}

#[tokio::test]
async fn a_directory_that_the_user_has_linked_is_a_replica_as_any_other() {
    let world = World::new().await;
    world.publish_steps(2).await;
    fs::create_dir(world.path("disk")).unwrap();
    symlink(world.path("disk"), world.path("replica"));
    pull(&world, "replica").await.unwrap();
    assert_same(&world.path("disk"), &world.path("step-2"));
}

#[tokio::test]
async fn no_file_of_the_bookkeeping_is_written_or_read_through_a_link() {
    let world = World::new().await;
    world.publish_steps(2).await;
    let foreign = Foreign::new(&world);
    let replica = world.replica("replica", ApplyMode::InPlace);
    replica.pull_version(v(1)).await.unwrap();
    let hidden = hidden(&world, "replica");
    // The beginnings of every file that a pull writes.
    for name in ["state.json", "journal", "inverse", "inverse.next", "outgoing"] {
        let digest = blake3::hash(name.as_bytes()).to_hex();
        symlink(foreign.path.join("file"), hidden.join(format!(".{}.partial", &digest[..32])));
    }
    symlink(foreign.path.join("file"), hidden.join("journal.partial"));
    symlink(foreign.path.join("file"), hidden.join("inverse.next"));
    symlink(foreign.path.join("file"), hidden.join("inverse"));
    symlink(&foreign.path, hidden.join("staging"));
    for key in objects(&world) {
        let digest = blake3::hash(&fs::read(&key).unwrap()).to_hex().to_string();
        let partial = blake3::hash(digest.as_bytes()).to_hex();
        symlink(foreign.path.join("file"), hidden.join(format!("downloads/.{}.partial", &partial[..32])));
        symlink(foreign.path.join("new"), hidden.join("downloads").join(digest));
    }
    pull(&world, "replica").await.unwrap();
    assert_same(&world.path("replica"), &world.path("step-2"));
    foreign.assert_untouched();
    let back = replica.pull_version(v(1)).await.unwrap();
    assert_eq!(back.to, v(1));
    foreign.assert_untouched();

    let state = hidden.join("state.json");
    fs::rename(&state, foreign.path.join("state.json")).unwrap();
    symlink(foreign.path.join("state.json"), &state);
    assert!(is_about(&pull(&world, "replica").await.unwrap_err(), &state));
}

/// Every object of the stream.
fn objects(world: &World) -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    walk(&world.path("bucket"), &mut found);
    found
}

#[tokio::test]
async fn a_planted_staging_directory_gives_up_no_files() {
    let world = World::new().await;
    world.publish_steps(1).await;
    let foreign = Foreign::new(&world);
    pull(&world, "replica").await.unwrap();
    let hidden = hidden(&world, "replica");
    // An update that was interrupted in the middle of its renames, as somebody would have it.
    let state = fs::read_to_string(hidden.join("state.json")).unwrap();
    let mut state: serde_json::Value = serde_json::from_str(&state).unwrap();
    let held = state["condition"]["held"].take();
    let install = serde_json::json!({"files": ["file"], "remove": []});
    state["condition"] = serde_json::json!({"switching": {"to": held, "install": install}});
    fs::write(hidden.join("state.json"), state.to_string()).unwrap();

    let staging = hidden.join("staging");
    symlink(&foreign.path, &staging);
    assert!(is_about(&pull(&world, "replica").await.unwrap_err(), &staging));
    foreign.assert_untouched();
    assert!(!world.path("replica/file").exists());

    // A staged file that is itself a link is not moved into the replica.
    fs::remove_file(&staging).unwrap();
    fs::create_dir(&staging).unwrap();
    symlink(foreign.path.join("file"), staging.join("file"));
    assert!(is_about(&pull(&world, "replica").await.unwrap_err(), &staging.join("file")));
    assert!(!world.path("replica/file").is_symlink());
    foreign.assert_untouched();
}

#[tokio::test]
async fn a_file_that_somebody_else_keeps_a_hold_of_does_not_become_a_file_of_the_replica() {
    let world = World::new().await;
    world.publish_steps(1).await;
    for (replica, partial) in [("a", true), ("b", false)] {
        let downloads = hidden(&world, replica).join("downloads");
        fs::create_dir(&downloads).unwrap();
        for (number, key) in objects(&world).into_iter().enumerate() {
            let bytes = fs::read(&key).unwrap();
            let mut name = blake3::hash(&bytes).to_hex().to_string();
            let mut len = bytes.len();
            if partial {
                name = format!(".{}.partial", &blake3::hash(name.as_bytes()).to_hex()[..32]);
                len /= 2;
            }
            let kept = world.path(&format!("kept-{replica}-{number}"));
            fs::write(&kept, &bytes[..len]).unwrap();
            // Two objects may have the same contents.
            let _ = fs::hard_link(&kept, downloads.join(name));
        }
        pull(&world, replica).await.unwrap();
        assert_same(&world.path(replica), &world.path("step-1"));
        for entry in fs::read_dir(world.path(replica)).unwrap() {
            let metadata = entry.unwrap().metadata().unwrap();
            assert!(metadata.is_dir() || metadata.nlink() == 1);
        }
    }
}

#[tokio::test]
async fn special_files_are_refused_by_name_and_nobody_waits_for_them() {
    let world = World::new().await;
    world.publish_steps(2).await;
    let replica = world.replica("replica", ApplyMode::InPlace);
    replica.pull_version(v(1)).await.unwrap();
    let hidden = hidden(&world, "replica");
    for name in ["state.json", "lock"] {
        let (path, kept) = (hidden.join(name), world.path(name));
        fs::rename(&path, &kept).unwrap();
        pipe(&path);
        let begun = std::time::Instant::now();
        assert!(is_about(&pull(&world, "replica").await.unwrap_err(), &path), "{name}");
        println!("a named pipe for {name}: {} ms", begun.elapsed().as_millis());
        clear(&path);
        fs::rename(&kept, &path).unwrap();
    }
    // What can be made again is.
    for name in ["journal", "inverse", "staging", "downloads/x", "outgoing"] {
        pipe(&hidden.join(name));
    }
    pipe(&world.path("replica/config.json"));
    pull(&world, "replica").await.unwrap();
    assert_same(&world.path("replica"), &world.path("step-2"));

    // An object of the stream.
    let commit = world.path("bucket/commits/00000000000000000003.json");
    pipe(&commit);
    let error = pull(&world, "replica").await.unwrap_err();
    assert!(error.to_string().contains("named pipe"), "{error}");
    fs::remove_file(&commit).unwrap();

    // A shard.
    pipe(&world.path("replica/model.safetensors"));
    pull(&world, "replica").await.unwrap();
    assert_same(&world.path("replica"), &world.path("step-2"));
}

#[tokio::test]
async fn a_directory_where_a_file_beside_the_weights_belongs_is_refused_with_advice_that_works() {
    let world = World::new().await;
    world.publish_steps(1).await;
    pull(&world, "replica").await.unwrap();
    let config = world.path("replica/config.json");
    fs::remove_file(&config).unwrap();
    fs::create_dir(&config).unwrap();
    fs::write(config.join("mine"), "mine").unwrap();
    let error = pull(&world, "replica").await.unwrap_err();
    assert!(matches!(&error, StoreError::Place { path, .. } if *path == config), "{error}");
    assert!(error.to_string().contains("move it away"), "{error}");
    assert_eq!(fs::read(config.join("mine")).unwrap(), b"mine");
    fs::rename(&config, world.path("moved")).unwrap();
    pull(&world, "replica").await.unwrap();
    assert_same(&world.path("replica"), &world.path("step-1"));
}

#[tokio::test]
async fn a_directory_of_files_beside_the_weights_that_is_a_link_is_refused() {
    let world = World::new().await;
    let checkpoint = world.step(1);
    fs::create_dir(checkpoint.join("1_Pooling")).unwrap();
    fs::write(checkpoint.join("1_Pooling/file"), "{}").unwrap();
    let foreign = Foreign::new(&world);
    let publisher = world.publisher().await;
    publisher.publish(&checkpoint).await.unwrap();
    fs::create_dir(world.path("replica")).unwrap();
    fs::create_dir(world.path("replica/.tensorpatch")).unwrap();
    symlink(&foreign.path, world.path("replica/1_Pooling"));
    let replica = world.replica("replica", ApplyMode::InPlace);
    let error = replica.pull().await.unwrap_err();
    assert!(error.to_string().contains("1_Pooling"), "{error}");
    foreign.assert_untouched();
}

#[tokio::test]
async fn a_collector_deletes_nothing_through_a_link_below_the_stream() {
    let world = World::new().await;
    world.publish_steps(2).await;
    let foreign = Foreign::new(&world);
    let bucket = world.path("bucket");
    fs::create_dir_all(bucket.join("probe")).unwrap();
    let nonce = "abababababababababababababababab";
    symlink(&foreign.path, bucket.join(format!("patches/00000000000000000002-{nonce}")));
    symlink(&foreign.path, bucket.join("probe/l"));
    symlink(foreign.path.join("file"), bucket.join("probe/file"));
    let options = CollectOptions::default().keeping(1).with_grace(Duration::ZERO).deleting();
    upkeep::collect(&world.stream, &options).await.unwrap();
    foreign.assert_untouched();
}

#[tokio::test]
async fn nothing_is_written_through_a_link_below_a_stream_or_its_copy() {
    let world = World::new().await;
    world.publish_steps(1).await;
    let foreign = Foreign::new(&world);
    let copy = world.path("copy");
    for folder in ["anchors", "commits", "probe"] {
        fs::create_dir_all(&copy).unwrap();
        symlink(&foreign.path, copy.join(folder));
        let (store, prefix) = open_store(copy.to_str().unwrap(), &Default::default()).unwrap();
        let options = MirrorOptions::new(world.path("work"));
        let error = upkeep::mirror(&world.stream, store, prefix, &options).await.unwrap_err();
        assert!(error.to_string().contains("symbolic link"), "{folder}: {error}");
        foreign.assert_untouched();
        fs::remove_dir_all(&copy).unwrap();
    }
    let patches = world.path("bucket/patches");
    assert!(!patches.exists());
    symlink(&foreign.path, &patches);
    let publisher = world.publisher().await;
    let error = publisher.publish(&world.step(2)).await.unwrap_err();
    assert!(error.to_string().contains("symbolic link"), "{error}");
    foreign.assert_untouched();
}

#[tokio::test]
async fn a_record_that_is_a_link_is_not_read() {
    let world = World::new().await;
    world.publish_steps(1).await;
    let secret = world.path("secret");
    fs::write(&secret, "\"a secret\"").unwrap();
    let record = world.path("bucket/stream.json");
    fs::remove_file(&record).unwrap();
    symlink(&secret, &record);
    let (store, prefix) = open_store(world.path("bucket").to_str().unwrap(), &Default::default()).unwrap();
    let error = Stream::open(store, prefix).await.unwrap_err();
    assert!(error.to_string().contains("symbolic link"), "{error}");
    assert!(!error.to_string().contains("a secret"), "{error}");
}

#[tokio::test]
async fn a_publisher_uploads_nothing_that_a_link_in_its_baseline_leads_to() {
    let world = World::new().await;
    world.publish_steps(1).await;
    let secret = world.path("secret");
    fs::write(&secret, "a secret").unwrap();
    let hidden = world.path("baseline/.tensorpatch");
    symlink(&secret, hidden.join("outgoing"));
    let publisher = world.publisher().await;
    publisher.publish(&world.step(2)).await.unwrap();
    publisher.settle().await;
    assert_eq!(fs::read(&secret).unwrap(), b"a secret");

    let config = world.path("baseline/config.json");
    fs::remove_file(&config).unwrap();
    symlink(&secret, &config);
    let _ = world.publisher().await.add_anchor().await;
    let uploaded = objects(&world).into_iter().any(|path| fs::read(path).unwrap() == b"a secret");
    assert!(!uploaded);
}

#[tokio::test]
async fn working_directories_lead_nowhere_else() {
    let world = World::new().await;
    world.publish_steps(3).await;
    let foreign = Foreign::new(&world);
    let before = objects(&world);
    for name in ["base", "target", "lock"] {
        let work = world.path("work");
        fs::create_dir_all(&work).unwrap();
        symlink(
            if name == "lock" { foreign.path.join("new") } else { foreign.path.clone() },
            work.join(name),
        );
        let folder = Folder::new(world.stream.clone(), &work, PublishOptions::default());
        let error = folder.fold(v(1), v(3)).await.unwrap_err();
        assert!(is_about(&error, &work.join(name)), "{error}");
        foreign.assert_untouched();
        fs::remove_dir_all(&work).unwrap();
    }
    let work = world.path("work");
    fs::create_dir_all(&work).unwrap();
    symlink(foreign.path.join("file"), work.join("fold.tpatch"));
    let folder = Folder::new(world.stream.clone(), &work, PublishOptions::default());
    folder.fold(v(1), v(3)).await.unwrap();
    foreign.assert_untouched();
    assert_eq!(objects(&world).len(), before.len() + 2);

    let work = world.path("mirror-work");
    fs::create_dir_all(&work).unwrap();
    for key in objects(&world) {
        let name = key.strip_prefix(world.path("bucket")).unwrap().to_str().unwrap().to_owned();
        let name = blake3::hash(name.as_bytes()).to_hex().to_string();
        let partial = format!(".{}.partial", &blake3::hash(name.as_bytes()).to_hex()[..32]);
        symlink(foreign.path.join("file"), work.join(partial));
    }
    let (store, prefix) = open_store(world.path("copy").to_str().unwrap(), &Default::default()).unwrap();
    upkeep::mirror(&world.stream, store, prefix, &MirrorOptions::new(&work)).await.unwrap();
    foreign.assert_untouched();
}
