//! Who may read a file: what a file inherits from the one that it replaces, and what a copy never exceeds.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{Gid, Mode, fchmod, fchown};

/// Reading, writing and executing, for owner, group and others: what is inherited and copied.
const BITS: u32 = 0o777;
/// The most bytes of the names of attributes, and of the value of one, that Linux allows.
#[cfg(target_os = "linux")]
const ATTRIBUTE_BYTES: usize = 1 << 16;
/// The access list, which is an attribute on Linux.
const ACCESS_LIST: &CStr = c"system.posix_acl_access";

/// Gives `new` the permissions of `old`, whose place it takes: its mode; and its group, access list and
/// extended attributes where the system allows it.
///
/// A file of another user may be one that they have put there: from it `new` takes over only what others may
/// not do.
///
/// # Errors
/// If one cannot be looked at, or the mode cannot be set.
pub fn inherit(old: &File, new: &File) -> io::Result<()> {
    let (from, to) = (old.metadata()?, new.metadata()?);
    if from.uid() != to.uid() {
        return restrict(new, old);
    }
    let has_group = from.gid() == to.gid() || fchown(new, None, Some(Gid::from_raw(from.gid()))).is_ok();
    // Those of another group get no more than anybody.
    let mode = if has_group { from.mode() } else { without_group(from.mode()) };
    fchmod(new, Mode::from_bits_truncate(mode & BITS))?;
    if has_group {
        copy_attributes(old, new);
    }
    Ok(())
}

/// Takes from `copy` what those who read it could not do with `source`.
///
/// # Errors
/// If one cannot be looked at, or the mode cannot be set.
pub fn restrict(copy: &File, source: &File) -> io::Result<()> {
    let (from, to) = (source.metadata()?, copy.metadata()?);
    // With an access list the bits of the group say what anybody named in it may do.
    let allowed = match from.gid() == to.gid() && !has_access_list(source) {
        true => from.mode(),
        false => without_group(from.mode()),
    };
    // The owner of the copy could read the source, and goes on writing to the copy.
    let mode = to.mode() & (allowed | 0o700) & BITS;
    if mode != to.mode() & BITS {
        fchmod(copy, Mode::from_bits_truncate(mode))?;
    }
    Ok(())
}

/// The mode with a group that may do no more than others.
fn without_group(mode: u32) -> u32 {
    (mode & !0o070) | (mode & ((mode & 0o007) << 3))
}

#[cfg(target_os = "linux")]
fn has_access_list(file: &File) -> bool {
    match rustix::fs::fgetxattr(file, ACCESS_LIST, &mut [0_u8; 64][..]) {
        Ok(bytes) => bytes > 0,
        // It is longer.
        Err(error) => error == rustix::io::Errno::RANGE,
    }
}

#[cfg(not(target_os = "linux"))]
fn has_access_list(_: &File) -> bool {
    false
}

/// Copies the extended attributes that this user may set; an access list that `old` does not have goes.
#[cfg(target_os = "linux")]
fn copy_attributes(old: &File, new: &File) {
    use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr};

    let (mut names, mut value) = (vec![0_u8; ATTRIBUTE_BYTES], vec![0_u8; ATTRIBUTE_BYTES]);
    let Ok(length) = flistxattr(old, &mut names[..]) else { return };
    if !has_access_list(old) {
        let _ = fremovexattr(new, ACCESS_LIST);
    }
    for name in names.get(..length).unwrap_or_default().split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        // What the system says of contents that are others now, or lets nobody else say, stays behind.
        if let Ok(length) = fgetxattr(old, name, &mut value[..]) {
            let value = value.get(..length).unwrap_or_default();
            let _ = fsetxattr(new, name, value, XattrFlags::empty());
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn copy_attributes(_: &File, _: &File) {}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;

    fn file(dir: &Path, name: &str, mode: u32) -> File {
        let path = dir.join(name);
        fs::write(&path, name).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        File::options().read(true).write(true).open(path).unwrap()
    }

    fn mode(file: &File) -> u32 {
        file.metadata().unwrap().mode() & 0o7777
    }

    #[test]
    fn a_file_that_takes_the_place_of_another_has_its_mode_and_no_special_bits() {
        let dir = tempfile::tempdir().unwrap();
        for (old, expected) in [(0o600, 0o600), (0o640, 0o640), (0o664, 0o664), (0o4755, 0o755)] {
            let (old, new) = (file(dir.path(), "old", old), file(dir.path(), "new", 0o644));
            inherit(&old, &new).unwrap();
            assert_eq!(mode(&new), expected);
        }
    }

    #[test]
    fn from_a_file_of_another_user_nothing_is_inherited_but_what_it_forbids() {
        let dir = tempfile::tempdir().unwrap();
        for (old, expected) in [(0o666, 0o644), (0o600, 0o600), (0o640, 0o600)] {
            let (old, new) = (file(dir.path(), "old", old), file(dir.path(), "new", 0o644));
            let own = new.metadata().unwrap().uid();
            if std::os::unix::fs::fchown(&old, Some(4321), Some(4321)).is_err() {
                eprintln!("LEFT OUT: not run as root, nothing can be given away");
                return;
            }
            inherit(&old, &new).unwrap();
            assert_eq!((mode(&new), new.metadata().unwrap().uid()), (expected, own));
        }
    }

    #[test]
    fn a_copy_has_no_bits_that_its_source_has_not_but_those_of_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        for (source, copy, expected) in
            [(0o600, 0o644, 0o600), (0o640, 0o644, 0o640), (0o444, 0o644, 0o644), (0o644, 0o600, 0o600)]
        {
            let (source, copy) = (file(dir.path(), "source", source), file(dir.path(), "copy", copy));
            restrict(&copy, &source).unwrap();
            assert_eq!(mode(&copy), expected);
        }
    }

    #[test]
    fn the_bits_of_a_group_mean_nothing_to_another() {
        for (of_group, without) in [(0o640, 0o600), (0o644, 0o644), (0o664, 0o644), (0o675, 0o655)] {
            assert_eq!(without_group(of_group), without);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn attributes_and_the_access_list_are_inherited_where_the_file_system_has_them() {
        use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (file(dir.path(), "old", 0o600), file(dir.path(), "new", 0o644));
        let mut list = 2_u32.to_le_bytes().to_vec();
        // Tag, permissions and id of: owner, a user, group, mask, others.
        for (tag, bits, id) in
            [(1_u16, 6_u16, u32::MAX), (2, 4, 12345), (4, 0, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)]
        {
            list.extend(tag.to_le_bytes());
            list.extend(bits.to_le_bytes());
            list.extend(id.to_le_bytes());
        }
        let attributes = [(c"user.origin", b"step 7".to_vec()), (ACCESS_LIST, list)];
        for (name, value) in &attributes {
            if let Err(error) = fsetxattr(&old, *name, value, XattrFlags::empty()) {
                eprintln!("LEFT OUT: no extended attributes here: {error}");
                return;
            }
        }
        inherit(&old, &new).unwrap();
        for (name, value) in &attributes {
            let mut found = vec![0; 256];
            let length = fgetxattr(&new, *name, &mut found[..]).unwrap();
            assert_eq!(&found[..length], value);
        }
        let copy = file(dir.path(), "copy", 0o644);
        restrict(&copy, &old).unwrap();
        assert_eq!(mode(&copy), 0o600, "the bits of the group are those of the user in the list");
    }
}
