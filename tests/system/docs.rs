//! What the pages of `docs/` show is what happens: their blocks of shell are run, and their tables are
//! computed.

use std::path::{Path, PathBuf};
use std::process::Command;

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

/// The blocks of a page that are marked as shell, joined: each goes on where the one before has ended.
fn script(page: &str) -> String {
    let mut script = String::new();
    let mut inside = false;
    for line in page.lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            line if inside => script.extend([line, "\n"]),
            _ => {}
        }
    }
    script
}

#[test]
fn the_shell_of_every_page_runs_in_an_empty_directory() {
    let mut run = 0;
    for entry in std::fs::read_dir(docs()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let script = script(&std::fs::read_to_string(&path).unwrap());
        if script.is_empty() {
            continue;
        }
        let empty = tempfile::tempdir().unwrap();
        let binary = Path::new(env!("CARGO_BIN_EXE_tensorpatch")).parent().unwrap();
        let search = std::env::var_os("PATH").unwrap_or_default();
        let search = std::iter::once(binary.to_owned()).chain(std::env::split_paths(&search));
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &script])
            .current_dir(empty.path())
            .env("PATH", std::env::join_paths(search).unwrap())
            .env("XDG_CACHE_HOME", empty.path().join("cache"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {}: {said}", path.display(), output.status);
        run += 1;
    }
    assert!(run > 0);
}

#[test]
fn the_tables_of_how_it_scales_are_those_that_the_script_prints() {
    let checked = Command::new("python3")
        .arg(docs().join("scale.py"))
        .arg("--check")
        .arg(docs().join("scale.md"))
        .output();
    match checked {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "{error}");
            eprintln!("there is no python3: the tables are not checked");
        }
    }
}
