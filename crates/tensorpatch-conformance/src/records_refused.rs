//! Records that a reader must refuse, whoever has signed them. Each has one fault.

use serde_json::{Value, json};

use crate::records::{
    Maker, NONCE, base, digest, edge, first, joined, key_of, named, object, of_ranks, second, stream, with,
    without,
};

/// What is wrong with the JSON, or with which members there are.
pub(crate) fn shapes(maker: &mut Maker) {
    let text = first().to_string();
    let bad = |maker: &mut Maker, id: &str, comment: &str, bytes: Vec<u8>| {
        maker.add(false, id, "commit", "4", comment, bytes);
    };
    bad(maker, "none", "No bytes", Vec::new());
    bad(maker, "cut", "The last brace is missing", text.as_bytes()[..text.len() - 1].to_vec());
    bad(maker, "followed", "Something after the record", format!("{text}{{}}").into_bytes());
    bad(maker, "list", "A list", format!("[{text}]").into_bytes());
    bad(maker, "not-utf8", "Bytes that are not UTF-8", [b"\xff\xfe".as_slice(), text.as_bytes()].concat());
    bad(
        maker,
        "member-twice",
        "A member twice",
        text.replace(r#""tensors":2"#, r#""tensors":2,"tensors":2"#).into_bytes(),
    );
    bad(
        maker,
        "deep",
        "A hundred thousand brackets",
        text.replace(r#""tensors":2"#, &format!(r#""tensors":2,"x":{}"#, "[".repeat(100_000))).into_bytes(),
    );
    let twice = |maker: &mut Maker, place: &str, record: Value, member: &str| {
        let text = record.to_string();
        assert_eq!(text.matches(member).count(), 1, "{member}");
        let record = text.replace(member, &format!("{member},{member}")).into_bytes();
        maker.add(
            false,
            &format!("{place}-member-twice"),
            "commit",
            "4",
            "A member twice, further in",
            record,
        );
    };
    twice(maker, "delta", second(), r#""changed_elements":3"#);
    twice(maker, "patch", second(), r#""bytes":500"#);
    twice(maker, "named", second(), r#""name":"config.json""#);
    twice(maker, "requires", first(), r#""requires":[]"#);
    maker.commit("major-2", "4", "Another major version", &with(first(), "/major", json!(2)));
    maker.commit(
        "requires",
        "4",
        "A feature that nobody knows is required",
        &with(first(), "/requires", json!(["sharding"])),
    );
    maker.commit(
        "other-format",
        "4",
        "A record of another kind",
        &with(first(), "/format", json!("tensorpatch-edge")),
    );
    for member in [
        "format",
        "major",
        "minor",
        "requires",
        "stream",
        "version",
        "previous",
        "publisher",
        "nonce",
        "created",
        "state",
        "schema",
        "layout",
        "state_bytes",
        "tensors",
        "companions",
    ] {
        let comment = format!("No `{member}`");
        maker.commit(
            &format!("without-{member}").replace('_', "-"),
            "4.2",
            &comment,
            &without(first(), member),
        );
    }
    let second = second();
    for (pointer, members) in [
        ("/delta", &["base", "kind", "changed_elements", "total_elements", "patches"][..]),
        ("/delta/base", &["version", "commit", "state", "layout"]),
        ("/delta/patches/0", &["key", "bytes", "blake3"]),
        ("/previous", &["version", "commit"]),
        ("/companions/0", &["name", "key", "bytes", "blake3"]),
    ] {
        let place = pointer.trim_start_matches('/').replace("/0", "").replace('/', "-");
        for member in members {
            let mut record = second.clone();
            let inner = record.pointer_mut(pointer).and_then(Value::as_object_mut).expect("an object");
            inner.remove(*member).expect("a member");
            let (id, comment) = (format!("without-{place}-{member}"), format!("No `{member}` in {pointer}"));
            maker.commit(&id.replace('_', "-"), "4.2", &comment, &record);
        }
    }
}

/// Members whose values are not allowed.
pub(crate) fn rules(maker: &mut Maker) {
    for (id, pointer, value, comment) in [
        ("version-0", "/version", json!(0), "Version 0"),
        ("version-2-53", "/version", json!(1_u64 << 53), "A version over 2^53 - 1"),
        ("version-negative", "/version", json!(-1), "A negative version"),
        ("version-fraction", "/version", json!(1.5), "A version that is no integer"),
        ("tensors-2-53", "/tensors", json!(1_u64 << 53), "A count over 2^53 - 1"),
        ("bytes-2-64", "/anchor/leaves/bytes", json!(u64::MAX), "A size over 2^53 - 1"),
        ("sizes-over", "/anchor/leaves/bytes", json!((1_u64 << 53) - 14), "Sizes that add up to 2^53"),
        ("minor-2-53", "/minor", json!(1_u64 << 53), "A minor version over 2^53 - 1"),
        ("created-2-53", "/created", json!(1_u64 << 53), "A time over 2^53 - 1"),
        ("created-text", "/created", json!("1790000000"), "A number as a text"),
        ("tensors-fraction", "/tensors", json!(2.0), "An integer that is not written with digits alone"),
        ("requires-text", "/requires", json!("none"), "A text instead of a list"),
        ("label-null", "/label", json!(null), "An optional member that is null"),
        ("label-empty", "/label", json!(""), "A label without bytes"),
        ("label-257", "/label", json!("x".repeat(257)), "A label of 257 bytes"),
        ("label-control", "/label", json!("step\n1"), "A line feed in a label"),
        ("publisher-empty", "/publisher", json!(""), "A publisher without bytes"),
        ("publisher-257", "/publisher", json!("é".repeat(129)), "A publisher of 258 bytes"),
        (
            "publisher-control",
            "/publisher",
            json!("a\u{85}b"),
            "A control character beyond ASCII in a publisher",
        ),
        ("nonce-upper-case", "/nonce", json!("0123456789ABCDEF0123456789ABCDEF"), "A nonce in upper case"),
        ("nonce-long", "/nonce", json!("0".repeat(33)), "A nonce of 33 digits"),
        ("schema-upper-case", "/schema", json!(digest("schema").to_uppercase()), "A digest in upper case"),
        ("layout-not-hex", "/layout", json!("g".repeat(64)), "A digest with another letter"),
        ("files-none", "/anchor/files", json!([]), "An anchor without files"),
        ("anchor-null", "/anchor", json!(null), "An anchor that is null, of a version that has no other way"),
        ("stream-short", "/stream", json!("0011"), "A short stream id"),
        (
            "stream-upper-case",
            "/stream",
            json!("00112233445566778899AABBCCDDEEFF"),
            "A stream id in upper case",
        ),
        ("state-no-hash", "/state", json!(digest("state 1")), "A state digest without its leaf hash"),
        (
            "state-other-hash",
            "/state",
            json!(format!("md5:{}", digest("state 1"))),
            "A state digest of an unknown leaf hash",
        ),
        ("blake3-short", "/anchor/leaves/blake3", json!("00"), "A short digest"),
        (
            "previous-of-first",
            "/previous",
            json!({"version": 1, "commit": digest("x")}),
            "Version 1 with a record before it",
        ),
    ] {
        maker.commit(id, "4.2", comment, &with(first(), pointer, value));
    }
    for (id, key, comment) in [
        ("parent", "anchors/../secret", "A key that leads elsewhere"),
        ("absolute", "/anchors/x", "A key that begins with a slash"),
        ("one-segment", "anchors", "A key of one segment"),
        ("other-folder", "commits/00000000000000000001.json", "A key in a folder that holds no data"),
        ("hidden", "anchors/.x", "A hidden segment"),
        ("empty-segment", "anchors//x", "An empty segment"),
        ("backslash", "anchors/a\\b", "A backslash"),
        ("control", "anchors/a\nb", "A control character"),
        ("star", "anchors/*", "A character that stores do not like"),
        ("dots-first", "anchors/..x", "A segment that begins with a dot"),
        ("control-high", "anchors/a\u{9f}b", "A control character beyond ASCII"),
        ("delete", "anchors/a\u{7f}b", "The control character U+007F"),
        ("901", key_of(901).as_str(), "A key of 901 bytes"),
        ("ends-with-slash", "anchors/a/", "An empty segment at the end"),
        ("case", "Anchors/a", "A folder in upper case"),
    ] {
        maker.commit(&format!("key-{id}"), "3", comment, &with(first(), "/anchor/leaves/key", json!(key)));
    }
    // The others that a key may not have, each for itself.
    for (number, bad) in "{}^%[]\"><~#|?`".chars().enumerate() {
        let key = json!(format!("anchors/a{bad}b"));
        let comment = format!("The character {bad} in a key");
        maker.commit(
            &format!("key-character-{number}"),
            "3",
            &comment,
            &with(first(), "/anchor/leaves/key", key),
        );
    }
    let long = format!("anchors/{}", "x".repeat(256));
    maker.commit(
        "key-long-segment",
        "3",
        "A segment of 256 bytes",
        &with(first(), "/anchor/leaves/key", json!(long)),
    );
    maker.commit(
        "file-name-parent",
        "3",
        "A file name that leads elsewhere",
        &with(first(), "/anchor/files/0/name", json!("../x")),
    );
    maker.commit(
        "file-name-twice",
        "3",
        "A file name twice",
        &with(first(), "/anchor/files/1/name", json!("model.safetensors")),
    );
    maker.commit(
        "file-name-case",
        "4",
        "Two file names that differ only in case",
        &with(first(), "/anchor/files/1/name", json!("Model.Safetensors")),
    );
    maker.commit(
        "file-name-256",
        "3",
        "A file name of 256 bytes",
        &with(first(), "/anchor/files/1/name", json!("x".repeat(256))),
    );
    maker.commit(
        "companion-name-twice",
        "3",
        "A companion twice",
        &with(
            first(),
            "/companions",
            json!([
                named("config.json", &format!("companions/{NONCE}/config.json")),
                named("config.json", &format!("companions/{NONCE}/other.json")),
            ]),
        ),
    );
    maker.commit(
        "companion-name-hidden",
        "3",
        "A hidden companion",
        &with(first(), "/companions/0/name", json!(".netrc")),
    );
    maker.commit("first-without-anchor", "4.2", "Version 1 without an anchor", &without(first(), "anchor"));
    maker.commit("no-way", "4.2", "Neither a delta nor an anchor", &without(second(), "delta"));
    maker.commit(
        "base-later",
        "4.2",
        "A base that is not an earlier version",
        &with(second(), "/delta/base/version", json!(2)),
    );
    maker.commit(
        "base-not-previous",
        "4.2",
        "A base that is the version before, by another digest than `previous` has",
        &with(second(), "/delta/base/commit", json!("12".repeat(32))),
    );
    maker.commit(
        "previous-missing",
        "4.2",
        "Version 2 without the record before it",
        &with(second(), "/previous", json!(null)),
    );
    maker.commit(
        "previous-other",
        "4.2",
        "The record before has another number",
        &with(second(), "/previous/version", json!(2)),
    );
    maker.commit(
        "no-patches",
        "4.2",
        "A delta without patches",
        &with(second(), "/delta/patches", json!([])),
    );
    maker.commit(
        "kind-unknown",
        "4.2",
        "A delta of an unknown kind",
        &with(second(), "/delta/kind", json!("full")),
    );
    maker.commit(
        "empty-and-other-state",
        "4.2",
        "A delta that is said to be empty, between different states",
        &with(second(), "/delta/kind", json!("empty")),
    );
    maker.commit(
        "delta-and-same-state",
        "4.2",
        "A delta that is not said to be empty, between equal states",
        &with(second(), "/state", base()["state"].clone()),
    );
    maker.commit(
        "base-leaf-hash",
        "4.2",
        "A base whose state digest has another leaf hash",
        &with(second(), "/delta/base/state", json!(format!("blake3:{}", digest("state 1")))),
    );
    maker.commit("delta-null", "4.2", "A delta that is null", &with(second(), "/delta", json!(null)));
    maker.commit(
        "patch-twice",
        "4.2",
        "Two patches with the same key",
        &with(of_ranks(), "/delta/patches/1/key", of_ranks()["delta"]["patches"][0]["key"].clone()),
    );
    let mut lacking = of_ranks();
    lacking["delta"]["patches"][1].as_object_mut().expect("a patch").remove("schema").expect("a schema");
    maker.commit("patch-without-schema", "8", "One of several patches without its schema", &lacking);
    maker.commit(
        "patch-schema-null",
        "8",
        "One of several patches with a schema that is null",
        &with(of_ranks(), "/delta/patches/1/schema", json!(null)),
    );
    let mut single = second();
    single["delta"]["patches"][0]["schema"] = object("patches/x/schema", 40);
    maker.commit("patch-alone-with-schema", "8", "A single patch with a schema", &single);
    maker.commit(
        "sizes-of-patches-over",
        "4",
        "Sizes of patches that add up to 2^53",
        &with(of_ranks(), "/delta/patches/1/bytes", json!((1_u64 << 53) - 580)),
    );
    let edge_text = |record: Value| record.to_string().into_bytes();
    maker.add(
        false,
        "edge-both",
        "edge",
        "4.3",
        "An edge with a fold and an anchor",
        edge_text(joined(edge(), json!({"anchor": first()["anchor"]}))),
    );
    maker.add(
        false,
        "edge-neither",
        "edge",
        "4.3",
        "An edge without a way",
        edge_text(without(edge(), "delta")),
    );
    maker.add(
        false,
        "edge-base-later",
        "edge",
        "4.3",
        "An edge whose base is not an earlier version",
        edge_text(with(edge(), "/delta/base/version", json!(3))),
    );
    for member in ["publisher", "nonce", "created", "target", "stream"] {
        let comment = format!("No `{member}`");
        let record = edge_text(without(edge(), member));
        maker.add(false, &format!("edge-without-{member}"), "edge", "4.3", &comment, record);
    }
    for member in ["leaf_hash", "writers", "stream", "created"] {
        let (id, comment) = (format!("stream-without-{member}").replace('_', "-"), format!("No `{member}`"));
        maker.add(false, &id, "stream", "4.1", &comment, edge_text(without(stream(), member)));
    }
    maker.add(
        false,
        "stream-writers",
        "stream",
        "4.1",
        "Writers of an unknown kind",
        edge_text(with(stream(), "/writers", json!("some"))),
    );
    maker.add(
        false,
        "stream-leaf-hash",
        "stream",
        "4.1",
        "An unknown leaf hash",
        edge_text(with(stream(), "/leaf_hash", json!("md5"))),
    );
}
