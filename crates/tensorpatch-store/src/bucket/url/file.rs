//! Local directories by path and by file URL.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The directory that `text` names, unless it looks like the destination of another tool.
///
/// rsync, scp and restic write `HOST:PATH` and `s3:BUCKET`. Taken for a path, that makes a stream in a
/// directory which nobody ever looks for.
pub(super) fn path(text: &str) -> Result<&Path, String> {
    if text.is_empty() {
        return Err("an empty path names no store".into());
    }
    let first = text.split('/').next().unwrap_or(text);
    if let Some((scheme, _)) = first.split_once(':').filter(|(scheme, _)| !scheme.is_empty()) {
        return Err(match scheme {
            "s3" | "gs" | "az" | "hf" => format!("a URL has two slashes, as {scheme}://BUCKET/PREFIX"),
            "file" => "a file URL has three slashes and an absolute path, as file:///data/stream".into(),
            _ => format!(
                "this looks like HOST:PATH, which is no store; for a directory of that name write ./{text}"
            ),
        });
    }
    Ok(Path::new(text))
}

/// The path in a file URL, behind its `file://`, with what is escaped in it decoded.
pub(super) fn decode(rest: &str) -> Result<PathBuf, String> {
    let path = rest.strip_prefix("localhost").filter(|path| path.starts_with('/')).unwrap_or(rest);
    if !path.starts_with('/') {
        return Err("a file URL has three slashes and an absolute path, as file:///data/stream".into());
    }
    if let Some(mark) = path.chars().find(|c| matches!(c, '?' | '#')) {
        return Err(format!(
            "{mark} has a meaning in a URL: write it as %{:02X}, or give the path itself",
            u32::from(mark)
        ));
    }
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
        let value = digit().zip(digit()).and_then(|(high, low)| u8::try_from(high << 4 | low).ok());
        match value.filter(|value| *value != 0) {
            Some(value) => decoded.push(value),
            None => {
                return Err(
                    "% in a file URL is followed by two hexadecimal digits: write %25 for % itself".into()
                );
            }
        }
    }
    Ok(OsString::from_vec(decoded).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_the_destination_of_another_tool_is_no_path() {
        for text in
            ["s3:/b/run", "s3:b/run", "gpu1:/data/run", "user@gpu1:run", "file:/data", "sftp:host:x", ""]
        {
            assert!(path(text).is_err(), "{text}");
        }
        for text in ["./s3:/b", "/data/a:b", "runs/12:30", "a b", ":x"] {
            assert_eq!(path(text).unwrap(), Path::new(text));
        }
    }

    #[test]
    fn a_file_url_is_decoded() {
        for (rest, expected) in [
            ("/a%20b/c", "/a b/c"),
            ("/caf%C3%A9", "/caf\u{e9}"),
            ("localhost/x", "/x"),
            ("/a+b", "/a+b"),
            ("/100%25", "/100%"),
        ] {
            assert_eq!(decode(rest).unwrap(), Path::new(expected), "{rest}");
        }
        for rest in ["relative", "host/x", "/a%2", "/a%zz", "/a%00b", "/a?b", "/a#b"] {
            assert!(decode(rest).is_err(), "{rest}");
        }
    }
}
