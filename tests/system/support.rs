//! Running the binary, and checkpoints to run it on.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::{Map, Value, json};

/// How a run of the binary ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Outcome {
    /// Fails the test unless the run succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "stderr: {}", self.stderr);
        self
    }

    /// Fails the test unless the run ended with `code` and said all of `words`.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, code, "stderr: {}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not said in: {}", self.stderr);
        }
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        match serde_json::from_slice(&self.stdout) {
            Ok(value) => value,
            Err(error) => panic!("{error}: {}", String::from_utf8_lossy(&self.stdout)),
        }
    }
}

/// The binary, with nothing of the user's about it.
pub(crate) fn command<A: AsRef<OsStr>>(arguments: &[A]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tensorpatch"));
    command.args(arguments).stdin(Stdio::null()).env_remove("TENSORPATCH_LOG");
    command.env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
    command
        .env("XDG_CONFIG_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("config"))
        .env_remove("TENSORPATCH_CONFIG");
    command
}

/// Runs the binary.
#[track_caller]
pub(crate) fn run<A: AsRef<OsStr>>(arguments: &[A]) -> Outcome {
    finish(&mut command(arguments))
}

/// Runs a prepared command.
#[track_caller]
pub(crate) fn finish(command: &mut Command) -> Outcome {
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => panic!("{command:?}: {error}"),
    };
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!stderr.contains("panicked"), "{stderr}");
    Outcome { code: output.status.code().unwrap_or(-1), stdout: output.stdout, stderr }
}

/// Runs a prepared command: how it ended, and the most bytes of anonymous memory that it was seen to have,
/// every 5 ms.
pub(crate) fn peak_of(command: &mut Command) -> (ExitStatus, u64) {
    let mut child = command.spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        if let Some(ended) = child.try_wait().unwrap() {
            return (ended, peak);
        }
        // It may have ended between the two.
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0) << 10);
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A snapshot of the fixture: 4, 5 or 6.
pub(crate) fn fixture(number: u32) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/minilm-grpo");
    root.join(format!("snapshot_{number:06}.safetensors"))
}

/// A temporary directory.
pub(crate) fn temporary() -> tempfile::TempDir {
    match tempfile::tempdir() {
        Ok(directory) => directory,
        Err(error) => panic!("{error}"),
    }
}

pub(crate) fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(crate) fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Every file below `directory` by its path, with its bytes; hidden ones too.
pub(crate) fn tree(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn visit(root: &Path, directory: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) -> std::io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                visit(root, &path, found)?;
            } else {
                found.insert(path.strip_prefix(root).unwrap_or(&path).to_owned(), fs::read(&path)?);
            }
        }
        Ok(())
    }
    let mut found = BTreeMap::new();
    visit(directory, directory, &mut found)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    found
}

/// Fails the test unless two directories hold the same files, the hidden ones of a replica left out.
#[track_caller]
pub(crate) fn same_checkpoint(found: &Path, expected: &Path) {
    if expected.is_file() {
        let found = if found.is_dir() { found.join("model.safetensors") } else { found.to_owned() };
        assert!(read(&found) == read(expected), "{} is not {}", found.display(), expected.display());
        return;
    }
    let visible = |directory: &Path| {
        let mut files = tree(directory);
        files.retain(|path, _| !path.starts_with(".tensorpatch"));
        files
    };
    let (found_files, expected_files) = (visible(found), visible(expected));
    assert_eq!(
        found_files.keys().collect::<Vec<_>>(),
        expected_files.keys().collect::<Vec<_>>(),
        "{} against {}",
        found.display(),
        expected.display()
    );
    for (path, bytes) in &expected_files {
        assert!(found_files[path] == *bytes, "{} differs", path.display());
    }
}

/// A safetensors file in parts: the JSON header, and the bytes behind it.
pub(crate) fn parse(file: &[u8]) -> (Map<String, Value>, &[u8]) {
    let length = file.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let start = 8 + usize::try_from(length).unwrap_or(usize::MAX);
    match serde_json::from_slice(&file[8..start]) {
        Ok(header) => (header, &file[start..]),
        Err(error) => panic!("{error}"),
    }
}

/// A safetensors file from its parts. The metadata stand last, which no other writer does: so a test sees
/// whether header bytes are kept.
pub(crate) fn assemble(header: &Map<String, Value>, data: &[u8]) -> Vec<u8> {
    let mut entries: Vec<String> = header
        .iter()
        .filter(|(name, _)| *name != "__metadata__")
        .map(|(name, info)| format!("{}:{info}", Value::from(name.as_str())))
        .collect();
    entries.push("\"__metadata__\":{\"z\":\"1\",\"a\":\"2\",\"format\":\"pt\"}".into());
    let mut text = format!("{{{}}}", entries.join(", "));
    while text.len() % 8 != 0 {
        text.push(' ');
    }
    [&(text.len() as u64).to_le_bytes(), text.as_bytes(), data].concat()
}

/// Writes the tensors of a single file as a sharded Hugging Face directory, with a configuration beside them.
pub(crate) fn shard(file: &Path, directory: &Path, shards: usize) {
    let bytes = read(file);
    let (header, data) = parse(&bytes);
    let tensors: Vec<(&String, &Value)> = header.iter().filter(|(name, _)| *name != "__metadata__").collect();
    fs::create_dir_all(directory).unwrap_or_else(|error| panic!("{error}"));
    let mut map = Map::new();
    for (number, part) in tensors.chunks(tensors.len().div_ceil(shards)).enumerate() {
        let name = format!("model-{:05}-of-{shards:05}.safetensors", number + 1);
        let mut shard_header = Map::new();
        let mut shard_data = Vec::new();
        for (tensor, info) in part {
            let offset =
                |end: usize| usize::try_from(info["data_offsets"][end].as_u64().unwrap_or(0)).unwrap_or(0);
            let start = shard_data.len();
            shard_data.extend_from_slice(&data[offset(0)..offset(1)]);
            let mut info = (*info).clone();
            info["data_offsets"] = json!([start, shard_data.len()]);
            shard_header.insert((*tensor).clone(), info);
            map.insert((*tensor).clone(), name.clone().into());
        }
        write(&directory.join(&name), &assemble(&shard_header, &shard_data));
    }
    let index = json!({"metadata": {"total_size": data.len()}, "weight_map": map});
    write(&directory.join("model.safetensors.index.json"), format!("{index:#}\n").as_bytes());
    write(&directory.join("config.json"), b"{\"model_type\": \"bert\"}\n");
}

/// Arguments of several kinds in one list.
macro_rules! arguments {
    ($($argument:expr),* $(,)?) => {
        [$(std::ffi::OsString::from(&$argument)),*]
    };
}
pub(crate) use arguments;
