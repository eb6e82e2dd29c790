//! What `TENSORPATCH_LOG` tells an operator.

use std::fs;

use crate::support::{Outcome, arguments, command, finish, fixture, run, temporary};

fn logged(arguments: &[std::ffi::OsString], level: &str) -> Outcome {
    finish(command(arguments).env("TENSORPATCH_LOG", level)).ok()
}

#[test]
fn each_command_tells_what_it_opens_plans_transfers_and_commits() {
    let dir = temporary();
    let (stream, replica) = (dir.path().join("stream"), dir.path().join("replica"));
    let publish = |number: u32| {
        arguments![
            "publish",
            fixture(number),
            "--to",
            stream,
            "--baseline",
            dir.path().join("b"),
            "--publisher",
            "me"
        ]
    };
    let said = logged(&publish(4), "info").stderr;
    for words in
        ["opened the stream", "uploaded anchors/", "bytes in", " ms", "committed version 1 as \"me\""]
    {
        assert!(said.contains(words), "{words:?} is not said in: {said}");
    }
    run(&publish(5)).ok();
    let pull = arguments!["pull", stream, replica];
    let said = logged(&pull, "info").stderr;
    for words in [
        "holds nothing, the target is version 2: a plan of 2 edges",
        "downloaded patches/",
        "downloaded anchors/",
    ] {
        assert!(said.contains(words), "{words:?} is not said in: {said}");
    }
    let said = logged(&pull, "info").stderr;
    assert!(
        said.contains("holds version 2, the target is version 2: a plan of 0 edges with 0 bytes"),
        "{said}"
    );
    assert_eq!(run(&pull).ok().stderr, "", "nothing is said where nothing is asked for");
}

#[test]
fn a_follower_tells_where_it_starts_and_how_far_behind_it_was() {
    let dir = temporary();
    let (stream, replica) = (dir.path().join("stream"), dir.path().join("replica"));
    let publish = |number: u32| {
        run(&arguments!["publish", fixture(number), "--to", stream, "--baseline", dir.path().join("b")]).ok()
    };
    publish(4);
    run(&arguments!["pull", stream, replica]).ok();
    publish(5);
    publish(6);
    let outcome = logged(&arguments!["follow", stream, replica, "--until", "3"], "info");
    assert!(outcome.stderr.contains("is at version 3, from version 1, 2 behind, in"), "{}", outcome.stderr);
    let shown = String::from_utf8(outcome.stdout).unwrap();
    assert!(shown.starts_with("following ") && shown.contains("version 3 from 1 (2 behind)"), "{shown}");
}

#[test]
fn a_warning_is_a_sentence_and_given_once() {
    let dir = temporary();
    let (stream, replica) = (dir.path().join("stream"), dir.path().join("replica"));
    let baseline = dir.path().join("b");
    for number in [4, 5] {
        run(&arguments!["publish", fixture(number), "--to", stream, "--baseline", baseline]).ok();
    }
    run(&arguments!["pull", stream, replica, "--version", "1"]).ok();
    run(&arguments!["anchor", stream, "--baseline", baseline]).ok();
    let patches = stream.join("patches");
    fs::remove_dir_all(&patches).unwrap();
    let outcome = run(&arguments!["pull", stream, replica]).ok();
    let warnings: Vec<&str> = outcome.stderr.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 1, "{}", outcome.stderr);
    assert!(warnings[0].contains("planning again") && !warnings[0].contains('{'), "{}", outcome.stderr);
}

#[test]
fn a_filter_of_the_log_that_cannot_be_read_is_refused() {
    let dir = temporary();
    for filter in ["requests=loud", "info,=debug", "["] {
        let outcome = finish(command(&arguments!["log", dir.path()]).env("TENSORPATCH_LOG", filter));
        assert_eq!(outcome.code, 2, "{filter}: {}", outcome.stderr);
        let told = outcome.stderr.contains("TENSORPATCH_LOG") && outcome.stderr.contains(filter);
        assert!(told, "{filter}: {}", outcome.stderr);
    }
}
