//! Writing into the files of a checkpoint that exists, and when that is refused.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use crate::support::{contents, file_of, one_tensor, open, put, sharded};
use tensorpatch_checkpoint::{CheckpointError, CheckpointPatcher, ConfinedPath, Obstacle};
use tensorpatch_format::TensorIndex;

/// The refusal to patch the checkpoint at `path`, and the file it names.
fn obstacle(path: &Path) -> (std::path::PathBuf, Obstacle) {
    match CheckpointPatcher::open(&open(path).unwrap(), None) {
        Err(CheckpointError::NotInPlace { path, obstacle }) => (path, obstacle),
        other => panic!("{other:?}"),
    }
}

#[test]
fn writes_change_those_bytes_and_no_others() {
    let directory = tempfile::tempdir().unwrap();
    sharded(directory.path());
    let before = open(directory.path()).unwrap();
    let patcher = CheckpointPatcher::open(&before, None).unwrap();
    patcher.write(TensorIndex(1), 2, &[77, 78]).unwrap();
    patcher.sync().unwrap();
    let mut bytes = [0; 4];
    patcher.read(TensorIndex(1), 1, &mut bytes).unwrap();
    assert_eq!(bytes, [1, 77, 78, 4]);
    let after = open(directory.path()).unwrap();
    assert_eq!(contents(&after), [("x".to_owned(), vec![0, 1, 2]), ("y".to_owned(), vec![0, 1, 77, 78, 4]),]);
    assert_eq!(after.layout(), before.layout());
}

#[test]
fn reads_and_writes_outside_of_a_tensor_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    sharded(directory.path());
    let patcher = CheckpointPatcher::open(&open(directory.path()).unwrap(), None).unwrap();
    for (tensor, offset, len) in [(0, 0, 4), (0, 3, 1), (0, u64::MAX, 2), (2, 0, 1)] {
        let error = patcher.write(TensorIndex(tensor), offset, &vec![9; len]).unwrap_err();
        assert!(matches!(error, CheckpointError::OutOfRange { .. }), "{error}");
        let error = patcher.read(TensorIndex(tensor), offset, &mut vec![9; len]).unwrap_err();
        assert!(matches!(error, CheckpointError::OutOfRange { .. }), "{error}");
    }
}

#[test]
fn a_header_of_the_same_length_can_be_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let with = |step: u32| {
        file_of(
            &format!(
                r#"{{"__metadata__":{{"step":"{step}"}},"t":{{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}}}"#
            ),
            2,
        )
    };
    let path = put(directory.path(), "t.safetensors", &with(1));
    let patcher = CheckpointPatcher::open(&open(&path).unwrap(), None).unwrap();
    let header = |step| with(step)[..with(step).len() - 2].to_vec();
    patcher.write_header(0, &header(2)).unwrap();
    for (file, header) in [(0, header(10)), (1, header(3))] {
        let error = patcher.write_header(file, &header).unwrap_err();
        assert!(matches!(error, CheckpointError::HeaderReplaced { .. }), "{error}");
    }
    assert_eq!(fs::read(&path).unwrap(), with(2));
}

#[test]
fn links_into_a_shared_cache_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let blob = put(directory.path(), "blob", &one_tensor("t", 3));
    let link = directory.path().join("model.safetensors");
    symlink(&blob, &link).unwrap();
    assert_eq!(obstacle(&link), (link.clone(), Obstacle::Symlink));
    assert_eq!(obstacle(directory.path()), (link, Obstacle::Symlink));
}

#[test]
fn a_file_with_a_second_name_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = put(directory.path(), "t.safetensors", &one_tensor("t", 3));
    fs::hard_link(&path, directory.path().join("copy")).unwrap();
    assert_eq!(obstacle(&path), (path.clone(), Obstacle::HardLinks(2)));
}

#[test]
fn a_read_only_file_is_refused_for_root_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = put(directory.path(), "t.safetensors", &one_tensor("t", 3));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    assert_eq!(obstacle(&path), (path.clone(), Obstacle::ReadOnly));
}

#[test]
fn a_second_patcher_is_refused_until_the_first_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    sharded(directory.path());
    let locks = ConfinedPath::root(directory.path()).unwrap();
    let patcher = |path: &Path| CheckpointPatcher::open(&open(path).unwrap(), Some(&locks));
    let is_busy =
        |patcher| matches!(patcher, Err(CheckpointError::NotInPlace { obstacle: Obstacle::Busy, .. }));
    let first = patcher(directory.path()).unwrap();
    assert!(is_busy(patcher(directory.path())));
    // Also of one of the files by itself.
    assert!(is_busy(patcher(&directory.path().join("a.safetensors"))));
    drop(first);
    drop(patcher(directory.path()).unwrap());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3, "a lock was left");
}

#[test]
fn whoever_holds_a_lock_on_the_weights_themselves_stops_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let path = put(directory.path(), "t.safetensors", &one_tensor("t", 3));
    let reader = fs::File::open(&path).unwrap();
    reader.lock().unwrap();
    let locks = ConfinedPath::root(directory.path()).unwrap();
    CheckpointPatcher::open(&open(&path).unwrap(), Some(&locks)).unwrap();
}

#[test]
fn a_file_that_others_may_write_to_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = put(directory.path(), "t.safetensors", &one_tensor("t", 3));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(obstacle(&path), (path.clone(), Obstacle::OthersWrite));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).unwrap();
    CheckpointPatcher::open(&open(&path).unwrap(), None).unwrap();
    if chown(&path, Some(4321), None).is_err() {
        eprintln!("LEFT OUT: not run as root, nothing can be given away");
        return;
    }
    assert_eq!(obstacle(&path), (path.clone(), Obstacle::OtherOwner(4321)));
}

#[test]
fn a_file_that_was_replaced_since_it_was_opened_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = put(directory.path(), "t.safetensors", &one_tensor("t", 3));
    let checkpoint = open(&path).unwrap();
    let other = put(directory.path(), "other", &one_tensor("t", 3));
    fs::rename(other, &path).unwrap();
    match CheckpointPatcher::open(&checkpoint, None) {
        Err(CheckpointError::NotInPlace { obstacle: Obstacle::Replaced, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_of_another_length_is_not_gone_on_with_and_both_lengths_are_said() {
    let directory = tempfile::tempdir().unwrap();
    sharded(directory.path());
    let checkpoint = open(directory.path()).unwrap();
    let path = directory.path().join("b.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let error =
        CheckpointPatcher::resume(directory.path(), checkpoint.layout(), checkpoint.placement(), None);
    let error = error.unwrap_err();
    assert!(matches!(&error, CheckpointError::Header { path: found, .. } if *found == path), "{error}");
    for len in [bytes.len(), bytes.len() - 1] {
        assert!(error.to_string().contains(&format!(" {len}")), "{error}");
    }
}

#[test]
fn a_file_is_not_taken_for_the_shards_of_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    sharded(directory.path());
    let checkpoint = open(directory.path()).unwrap();
    let file = directory.path().join("a.safetensors");
    let error =
        CheckpointPatcher::resume(&file, checkpoint.layout(), checkpoint.placement(), None).unwrap_err();
    assert!(matches!(error, CheckpointError::NeedsDirectory { files: 2, index: true, .. }), "{error}");
}

#[test]
fn the_placement_of_another_layout_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    sharded(directory.path());
    let sharded = open(directory.path()).unwrap();
    let long = open(&put(directory.path(), "long", &one_tensor("a-longer-name", 3))).unwrap();
    let short = open(&put(directory.path(), "short", &one_tensor("t", 3))).unwrap();
    for (path, layout, placement) in [
        (long.path(), long.layout(), sharded.placement()),
        (long.path(), long.layout(), short.placement()),
        (directory.path(), sharded.layout(), long.placement()),
    ] {
        let error = CheckpointPatcher::resume(path, layout, placement, None).unwrap_err();
        assert!(matches!(error, CheckpointError::OtherPlacement { .. }), "{error}");
    }
}
