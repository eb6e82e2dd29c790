//! The names of a stream's objects (spec/stream.md section 3): made here, and checked here when a record
//! brings them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tensorpatch_format::ErrorKind;

const MAX_KEY_BYTES: usize = 900;
const MAX_SEGMENT_BYTES: usize = 255;
/// The most bytes of the path of a file below the directory of a checkpoint, so that its key is not too long.
const MAX_PATH_BYTES: usize = 512;
/// The most parts of such a path, the name of the file included.
const MAX_PATH_SEGMENTS: usize = 9;
/// The largest integer that every JSON reader holds exactly.
pub(crate) const MAX_INTEGER: u64 = (1 << 53) - 1;

/// The name of the stream record.
pub const STREAM: &str = "stream.json";
/// The name of the hint.
pub const LATEST: &str = "latest.json";
/// The folder of commit records.
pub const COMMITS: &str = "commits";
/// The folder of edge records.
pub const EDGES: &str = "edges";
/// The folder of leases.
pub const LEASES: &str = "leases";
/// The folder of pruning records.
pub const PRUNED: &str = "pruned";
/// The folder of handovers.
pub const HANDOVERS: &str = "handovers";
/// The folder of test objects.
pub const PROBE: &str = "probe";

/// The number of a version in its stream: 1 and up, without gaps.
///
/// A number alone identifies nothing: two streams both have a version 7. See [`crate::VersionId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Version(u64);

/// A number that is no version's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a version number: they start at 1 and end at 2^53 - 1")]
pub struct VersionError(pub u64);

impl VersionError {
    /// Who must act on it.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Refused
    }
}

impl Version {
    /// The first version of every stream.
    pub const FIRST: Self = Self(1);

    /// The version with this number, or `None` if there can be none.
    pub const fn new(number: u64) -> Option<Self> {
        if number >= 1 && number <= MAX_INTEGER { Some(Self(number)) } else { None }
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The version after this one; `None` at the end of all numbers.
    pub const fn next(self) -> Option<Self> {
        Self::new(self.0.saturating_add(1))
    }

    /// The version before this one; `None` before the first.
    pub const fn previous(self) -> Option<Self> {
        Self::new(self.0.saturating_sub(1))
    }

    /// The 20 digits that order names as the numbers are ordered.
    pub fn digits(self) -> String {
        format!("{:020}", self.0)
    }

    /// Reads exactly 20 digits.
    pub fn from_digits(digits: &str) -> Option<Self> {
        if digits.len() != 20 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        Self::new(digits.parse().ok()?)
    }
}

impl TryFrom<u64> for Version {
    type Error = VersionError;

    fn try_from(number: u64) -> Result<Self, VersionError> {
        Self::new(number).ok_or(VersionError(number))
    }
}

impl From<Version> for u64 {
    fn from(version: Version) -> u64 {
        version.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 16]);

        impl $name {
            /// A new random one.
            pub fn random() -> Self {
                Self(rand::random())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let mut bytes = [0; 16];
                if text.bytes().any(|b| b.is_ascii_uppercase()) {
                    return Err(IdError);
                }
                hex::decode_to_slice(text, &mut bytes).map_err(|_| IdError)?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                crate::digest::text::deserialize(deserializer)
            }
        }
    };
}

random_id!(
    /// The identity of a stream, chosen at random when it is created: a new run in the same bucket is another
    /// stream.
    StreamId
);
random_id!(
    /// Tells one attempt to write something from every other.
    Nonce
);

/// A text that is no stream id or nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id: expected 32 lower-case hexadecimal digits")]
pub struct IdError;

impl IdError {
    /// Who must act on it.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Refused
    }
}

/// The name of a data object, relative to the stream's prefix; checked, so that it can name nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(String);

/// A text that is no name of a data object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of a data object of a stream")]
pub struct KeyError(String);

impl KeyError {
    /// Who must act on it.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Refused
    }
}

/// The folders in which a record may name objects.
pub const DATA_FOLDERS: [&str; 4] = ["patches", "companions", "anchors", "folds"];

impl Key {
    /// A checked key.
    ///
    /// # Errors
    /// If it is not of the form that section 3 allows.
    pub fn new(text: impl Into<String>) -> Result<Self, KeyError> {
        let text = text.into();
        let mut segments = text.split('/');
        let folder = segments.next().unwrap_or_default();
        let rest: Vec<&str> = segments.collect();
        let fits = text.len() <= MAX_KEY_BYTES
            && DATA_FOLDERS.contains(&folder)
            && !rest.is_empty()
            && rest.iter().all(|segment| is_plain_name(segment));
        if fits { Ok(Self(text)) } else { Err(KeyError(text)) }
    }

    /// The text of the key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Key {
    /// The folder, `patches` or another.
    pub fn folder(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }

    /// The version that the object was made for.
    pub fn version(&self) -> Option<Version> {
        self.0.split('/').nth(1).and_then(|segment| Version::from_digits(segment.get(..20)?))
    }
}

impl TryFrom<String> for Key {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        Self::new(text)
    }
}

impl From<Key> for String {
    fn from(key: Key) -> String {
        key.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name that is one segment of a key on every store and one plain visible file in every directory (section
/// 3).
pub fn is_plain_name(name: &str) -> bool {
    (1..=MAX_SEGMENT_BYTES).contains(&name.len())
        && !name.starts_with('.')
        && !name.chars().any(|c| c.is_control() || r#"/\{}^%`[]"><~#|*?"#.contains(c))
}

/// A path below the directory of a checkpoint, of a file that is no weights: plain names with `/` between
/// them (section 3).
pub fn is_file_path(path: &str) -> bool {
    path.len() <= MAX_PATH_BYTES
        && path.split('/').count() <= MAX_PATH_SEGMENTS
        && path.split('/').all(is_plain_name)
}

/// Two paths that cannot both be files of one directory on every file system.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} and {1:?} are in each other's way: names that differ in the case of letters alone count as the same"
)]
pub struct Collision(pub String, pub String);

impl Collision {
    /// Who must act on it.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Refused
    }
}

/// Checks that paths name different files on every file system (section 3): no path is another one or a
/// directory of another one, and a directory is spelled the same in all of them, where `fold` maps letters
/// that differ in case to the same one.
///
/// # Errors
/// With the first two that cannot both be there.
pub fn check_distinct<'a>(
    paths: impl IntoIterator<Item = &'a str>,
    fold: impl Fn(&str) -> String,
) -> Result<(), Collision> {
    // Every file and every directory on the way, folded: how it is spelled, and whether it is a file.
    let mut seen: BTreeMap<String, (&str, bool)> = BTreeMap::new();
    for path in paths {
        let ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
        for part in ends.filter_map(|end| path.get(..end)) {
            let is_file = part.len() == path.len();
            match seen.insert(fold(part), (part, is_file)) {
                Some(before) if before != (part, false) || is_file => {
                    return Err(Collision(before.0.to_owned(), path.to_owned()));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// A commit record.
pub fn commit(version: Version) -> String {
    format!("{COMMITS}/{}", commit_file(version))
}

/// The last segment of the name of a commit record.
pub fn commit_file(version: Version) -> String {
    format!("{}.json", version.digits())
}

/// The version of a commit record, by the last segment of its name.
pub fn commit_version(file: &str) -> Option<Version> {
    Version::from_digits(file.strip_suffix(".json")?)
}

/// The floor that a pruning record names, by the last segment of its name.
pub fn pruned_floor(file: &str) -> Option<Version> {
    let (digits, nonce) = file.strip_suffix(".json")?.split_once('-')?;
    nonce.parse::<Nonce>().ok()?;
    Version::from_digits(digits)
}

/// Whether a data object has a name as this protocol gives them: the version, and a nonce at the end of its
/// first segment. Others are strays of whoever else writes to the place.
pub fn is_made(key: &Key) -> bool {
    let folder = key.as_str().split('/').nth(1).unwrap_or_default();
    let folder = folder.strip_suffix(".leaves").unwrap_or(folder);
    key.version().is_some() && folder.rsplit('-').next().is_some_and(|nonce| nonce.parse::<Nonce>().is_ok())
}

/// Whether the last segment of a name in the folder of leases is that of a lease; others are files that
/// desktops, file servers and copies leave.
pub fn is_lease(file: &str) -> bool {
    file.strip_suffix(".json").is_some_and(|id| {
        !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    })
}

/// Target, base (`None` for an anchor) and nonce of an edge record, by the last segment of its name.
pub fn edge_ends(file: &str) -> Option<(Version, Option<Version>, Nonce)> {
    let mut fields = file.strip_suffix(".json")?.split('-');
    let target = Version::from_digits(fields.next()?)?;
    let base = fields.next()?;
    let base = if base == "0".repeat(20) { None } else { Some(Version::from_digits(base)?) };
    let nonce = fields.next()?.parse().ok()?;
    fields.next().is_none().then_some((target, base, nonce))
}

/// A patch of a commit, or what belongs to one.
///
/// # Errors
/// If `name` is no plain file name.
pub fn patch(version: Version, nonce: Nonce, name: &str) -> Result<Key, KeyError> {
    Key::new(format!("patches/{}-{nonce}/{name}", version.digits()))
}

/// A file beside the weights.
///
/// # Errors
/// If `name` is no path of plain names.
pub fn companion(version: Version, nonce: Nonce, name: &str) -> Result<Key, KeyError> {
    Key::new(format!("companions/{}-{nonce}/{name}", version.digits()))
}

/// A handover after `last`.
pub fn handover(last: Version, nonce: Nonce) -> String {
    format!("{HANDOVERS}/{}-{nonce}.json", last.digits())
}

/// A file of an anchor.
///
/// # Errors
/// If `name` is no path of plain names.
pub fn anchor(version: Version, nonce: Nonce, name: &str) -> Result<Key, KeyError> {
    Key::new(format!("anchors/{}-{nonce}/{name}", version.digits()))
}

/// The leaf table of an anchor, beside its directory so that the directory holds a checkpoint and nothing
/// else.
///
/// # Errors
/// Never: the name is a plain one.
pub fn leaves(version: Version, nonce: Nonce) -> Result<Key, KeyError> {
    Key::new(format!("anchors/{}-{nonce}.leaves", version.digits()))
}

/// The patch of a fold.
///
/// # Errors
/// Never: the name is a plain one.
pub fn fold(target: Version, base: Version, nonce: Nonce) -> Result<Key, KeyError> {
    Key::new(format!("folds/{}-{}-{nonce}/delta.tpatch", target.digits(), base.digits()))
}

/// An edge record.
pub fn edge(target: Version, base: Option<Version>, nonce: Nonce) -> String {
    format!("{EDGES}/{}-{:020}-{nonce}.json", target.digits(), base.map_or(0, Version::get))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ordered_as_their_versions_are() {
        let names: Vec<_> =
            [1, 2, 9, 10, 99, 100, MAX_INTEGER].map(|n| commit(Version::new(n).unwrap())).into();
        assert!(names.is_sorted());
        assert_eq!(commit_version(names[3].strip_prefix("commits/").unwrap()), Version::new(10));
    }

    #[test]
    fn names_that_are_no_commits_are_told_apart() {
        for name in [
            "1.json",
            "00000000000000000000.json",
            "00000000000000000001",
            "0000000000000000000a.json",
            "+0000000000000000001.json",
            "99999999999999999999.json",
        ] {
            assert_eq!(commit_version(name), None, "{name}");
        }
    }

    #[test]
    fn the_name_of_an_edge_tells_its_ends() {
        let nonce = Nonce::random();
        for base in [None, Version::new(3)] {
            let name = edge(Version::new(8).unwrap(), base, nonce);
            let ends = edge_ends(name.strip_prefix("edges/").unwrap()).unwrap();
            assert_eq!(ends, (Version::new(8).unwrap(), base, nonce));
        }
    }

    #[test]
    fn keys_that_leave_the_prefix_or_its_data_folders_are_refused() {
        for key in [
            "",
            "patches",
            "patches/",
            "patches/../stream.json",
            "/parts/a",
            "commits/00000000000000000001.json",
            "stream.json",
            "patches//a",
            "patches/a/../../b",
            "patches/.hidden",
            "patches/a\\b",
            "patches/a#1",
            "patches/a\nb",
            "patches/%2e%2e",
            &format!("patches/{}", "x".repeat(256)),
        ] {
            assert!(Key::new(key).is_err(), "{key:?}");
        }
        let seven = Version::new(7).unwrap();
        for key in [
            patch(seven, Nonce::random(), "delta.tpatch").unwrap(),
            leaves(seven, Nonce::random()).unwrap(),
            fold(seven, Version::FIRST, Nonce::random()).unwrap(),
        ] {
            assert_eq!(key.version(), Some(seven), "{key}");
        }
    }

    #[test]
    fn paths_that_leave_the_directory_or_have_no_bounds_are_refused() {
        let deep = ["a"; MAX_PATH_SEGMENTS].join("/");
        for path in ["config.json", "1_Pooling/config.json", &deep] {
            assert!(is_file_path(path), "{path:?}");
        }
        let (deeper, long) = (format!("{deep}/a"), format!("{0}/{0}/{0}", "x".repeat(200)));
        for path in
            ["", "/", "/a", "a/", "a//b", "./a", "a/./b", "../a", "a/../b", "a/.b", "a\\b", &deeper, &long]
        {
            assert!(!is_file_path(path), "{path:?}");
        }
    }

    #[test]
    fn paths_that_are_one_file_on_some_file_system_collide() {
        let check = |paths: &[&str]| check_distinct(paths.iter().copied(), str::to_ascii_lowercase);
        assert_eq!(check(&["a/b", "a/c", "b", "a.json"]), Ok(()));
        for paths in [["a/b", "a/B"], ["a", "a/b"], ["a/b", "a"], ["A/b", "a"], ["a", "a"]] {
            assert!(check(&paths).is_err(), "{paths:?}");
        }
        assert_eq!(check(&["a/b", "A/c"]), Err(Collision("a".into(), "A/c".into())));
    }

    #[test]
    fn version_numbers_outside_the_range_are_refused() {
        for number in [0, MAX_INTEGER + 1, u64::MAX] {
            assert_eq!(Version::try_from(number), Err(VersionError(number)));
        }
        assert_eq!(Version::new(MAX_INTEGER).unwrap().next(), None);
        assert_eq!(Version::FIRST.previous(), None);
    }
}
