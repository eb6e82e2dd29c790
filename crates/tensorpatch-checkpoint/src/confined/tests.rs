//! What is followed and what is not.

use std::fmt;
use std::os::unix::fs::symlink;

use super::*;

fn refused<T: fmt::Debug>(result: io::Result<T>) -> Misplaced {
    Misplaced::of(&result.unwrap_err()).unwrap().clone()
}

#[test]
fn no_link_below_the_root_is_followed_and_the_root_may_be_one() {
    let dir = tempfile::tempdir().unwrap();
    let (real, other) = (dir.path().join("real"), dir.path().join("other"));
    std::fs::create_dir(&real).unwrap();
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("theirs"), "theirs").unwrap();
    symlink(&real, dir.path().join("link")).unwrap();
    symlink(&other, real.join("planted")).unwrap();
    symlink(other.join("theirs"), real.join("file")).unwrap();

    let root = ConfinedPath::root(&dir.path().join("link")).unwrap();
    let (planted, file) = (root.join("planted"), root.join("file"));
    for place in [planted.join("theirs"), planted.join("new")] {
        assert_eq!(refused(place.open()).found, FileKind::Link);
        assert_eq!(refused(place.create_new()).path, planted.path());
        assert_eq!(refused(place.remove()).path, planted.path());
        assert_eq!(refused(place.find()).path, planted.path());
        assert_eq!(refused(place.create_dir()).path, planted.path());
        assert_eq!(refused(root.join("x").rename(&place)).path, planted.path());
        assert_eq!(refused(place.link(&root.join("x"))).path, planted.path());
    }
    assert_eq!(refused(planted.entries()).expected, FileKind::Directory);
    assert_eq!(refused(planted.enter()).found, FileKind::Link);
    assert_eq!(refused(planted.create_dir()).found, FileKind::Link);
    assert_eq!(refused(file.open()).found, FileKind::Link);
    assert_eq!(refused(file.open_to_alter()).found, FileKind::Link);
    assert_eq!(refused(file.open_or_create()).found, FileKind::Link);
    assert!(file.create_new().is_err());
    file.resume().unwrap();
    planted.remove().unwrap();
    assert_eq!(std::fs::read(other.join("theirs")).unwrap(), b"theirs");
    assert_eq!(std::fs::read_dir(&other).unwrap().count(), 1);
    for name in ["..", "../other", "a/../../other/theirs", "/etc/passwd", "."] {
        assert!(root.join(name).find().is_err(), "{name}");
        assert!(root.join(name).create_new().is_err(), "{name}");
    }
}

#[test]
fn a_tree_is_removed_with_its_links_and_without_what_they_lead_to() {
    let dir = tempfile::tempdir().unwrap();
    let root = ConfinedPath::root(dir.path()).unwrap();
    root.join("outside").create_dir().unwrap();
    root.join("outside/kept").create_new().unwrap();
    root.join("tree/a/b").create_dir().unwrap();
    root.join("tree/a/file").create_new().unwrap();
    symlink(dir.path().join("outside"), dir.path().join("tree/a/b/link")).unwrap();
    symlink(dir.path().join("outside/kept"), dir.path().join("tree/kept")).unwrap();
    root.join("tree").remove().unwrap();
    assert_eq!(root.join("tree").find().unwrap(), None);
    assert!(root.join("outside/kept").open().is_ok());
    root.join("tree").remove().unwrap();
}

#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let root = ConfinedPath::root(dir.path()).unwrap();
    let pipe = root.join("pipe");
    let made = pipe.at(|parent, name| fs::mkfifoat(parent, name, Mode::from_raw_mode(0o666)));
    made.unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    root.join("directory").create_dir().unwrap();
    for (name, kind) in
        [("pipe", FileKind::Pipe), ("socket", FileKind::Socket), ("directory", FileKind::Directory)]
    {
        assert_eq!(refused(root.join(name).open()).found, kind);
        assert_eq!(refused(root.join(name).open_to_alter()).found, kind);
    }
    assert_eq!(refused(pipe.create_dir()).found, FileKind::Pipe);
    assert!(pipe.resume().unwrap().metadata().unwrap().is_file());
}

#[test]
fn only_a_file_that_nobody_else_holds_is_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let root = ConfinedPath::root(dir.path()).unwrap();
    let file = root.join("file");
    std::fs::write(file.path(), "mine").unwrap();
    assert_eq!(file.resume().unwrap().metadata().unwrap().len(), 4);
    std::fs::hard_link(file.path(), dir.path().join("kept")).unwrap();
    assert_eq!(file.resume().unwrap().metadata().unwrap().len(), 0);
    assert_eq!(std::fs::read(dir.path().join("kept")).unwrap(), b"mine");
    if rustix::process::geteuid().is_root() {
        std::fs::write(file.path(), "mine").unwrap();
        std::os::unix::fs::chown(file.path(), Some(12345), None).unwrap();
        assert_eq!(file.resume().unwrap().metadata().unwrap().len(), 0);
    } else {
        eprintln!("not run as root: a file of another user cannot be made");
    }
}

#[test]
fn a_tree_is_removed_however_deep_it_is() {
    const DEPTH: usize = 2000;
    let dir = tempfile::tempdir().unwrap();
    let root = ConfinedPath::root(dir.path()).unwrap();
    let mut at = root.clone();
    for _ in 0..DEPTH {
        let inner = at.join("d");
        inner.create_dir().unwrap();
        at = inner.enter().unwrap();
        at.join("file").create_new().unwrap();
    }
    drop(at);
    // On a thread with a small stack, and with fewer handles than directories where the usual limits hold.
    let tree = root.join("d");
    let removed = std::thread::Builder::new().stack_size(64 << 10).spawn(move || tree.remove()).unwrap();
    removed.join().unwrap().unwrap();
    assert_eq!(root.entries().unwrap(), Vec::<OsString>::new());
}

#[test]
fn a_file_that_is_made_to_be_locked_can_be_read_by_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let lock = ConfinedPath::root(dir.path()).unwrap().join("lock");
    lock.open_or_create().unwrap();
    // From the beginning: whoever opens it before it is closed to them can lock it ever after.
    assert_eq!(lock.find().unwrap().unwrap().mode & 0o044, 0);
}
