//! How the text of a record may be written, and how not: types, integers, digits, escapes, names that occur
//! twice.

use serde_json::{Value, json};

use crate::records::{Maker, base, digest, edge, first, joined, named, second, with};

/// Records that say what they say in an odd way.
pub(crate) fn written(maker: &mut Maker) {
    types(maker);
    members(maker);
    integers(maker);
    digits(maker);
    names(maker);
    ways(maker);
}

fn taken(maker: &mut Maker, id: &str, section: &'static str, comment: &str, record: &Value) {
    maker.add(true, id, "commit", section, comment, record.to_string().into_bytes());
}

fn types(maker: &mut Maker) {
    for (id, pointer, value, comment) in [
        ("requires", "/requires", json!({}), "An object for a list"),
        ("feature", "/requires", json!([1]), "A number for the name of a feature"),
        ("companions", "/companions", json!({}), "An object for a list"),
        ("companion", "/companions/0", json!(["config.json"]), "A list for an object"),
        ("label", "/label", json!(7), "A number for a text"),
        ("publisher", "/publisher", json!(["trainer"]), "A list for a text"),
        ("tensors", "/tensors", json!("2"), "A text for an integer"),
        ("anchor", "/anchor", json!([]), "A list for an object"),
        ("leaves", "/anchor/leaves", json!("anchors/x"), "A text for an object"),
        ("state", "/state", json!(1), "A number for a digest"),
        ("companions-null", "/companions", json!(null), "null for a list"),
        ("created-null", "/created", json!(null), "null for an integer"),
    ] {
        maker.commit(&format!("type-{id}"), "4", comment, &with(first(), pointer, value));
    }
}

fn members(maker: &mut Maker) {
    let record = first().to_string();
    let leaves = r#""bytes":16"#;
    assert_eq!(record.matches(leaves).count(), 1);
    for (valid, id, comment, written) in [
        (
            false,
            "escaped-twice",
            "A member twice, once with an escape in its name",
            r#""bytes":16,"byt\u0065s":16"#,
        ),
        (true, "escaped", "A member with an escape in its name", r#""byt\u0065s":16"#),
        (true, "unknown-twice", "A member that nobody knows, twice", r#""bytes":16,"x":1,"x":2"#),
        (
            true,
            "known-in-unknown",
            "Within a member that nobody knows, one of this section's names twice",
            r#""bytes":16,"x":{"bytes":1,"bytes":2}"#,
        ),
    ] {
        let bytes = record.replace(leaves, written).into_bytes();
        maker.add(valid, &format!("member-{id}"), "commit", "4", comment, bytes);
    }
    let marked = [b"\xef\xbb\xbf".as_slice(), record.as_bytes()].concat();
    maker.add(false, "byte-order-mark", "commit", "4", "A byte order mark before the record", marked);
}

fn integers(maker: &mut Maker) {
    let record = first().to_string();
    for (id, digits, comment) in [
        ("point", "2.0", "An integer with a point"),
        ("exponent", "2e0", "An integer with an exponent"),
        ("minus-zero", "-0", "A zero with a sign"),
        ("leading-zero", "02", "An integer with a leading zero, which is no JSON"),
    ] {
        let record = record.replace(r#""tensors":2"#, &format!(r#""tensors":{digits}"#));
        maker.add(false, &format!("integer-{id}"), "commit", "4", comment, record.into_bytes());
    }
    let most = json!((1_u64 << 53) - 1);
    let anchor = with(first(), "/anchor/files/0/bytes", most.clone());
    maker.commit("sizes-of-files-over", "4", "Sizes of an anchor that add up to more than 2^53 - 1", &anchor);
    let companions = json!([
        first()["companions"][0],
        with(named("tokenizer.json", "companions/x/tokenizer.json"), "/bytes", most),
    ]);
    let companions = with(first(), "/companions", companions);
    maker.commit(
        "sizes-of-companions-over",
        "4",
        "Sizes of companions that add up to more than 2^53 - 1",
        &companions,
    );
}

/// Upper-case digits where no other vector has them.
fn digits(maker: &mut Maker) {
    for (id, pointer) in [
        ("state", "/state"),
        ("layout", "/layout"),
        ("commit", "/previous/commit"),
        ("blake3", "/delta/patches/0/blake3"),
    ] {
        let record = second();
        let found = record.pointer(pointer).and_then(Value::as_str).expect("a text");
        let (hash, digits) = found.split_at(found.find(':').map_or(0, |colon| colon + 1));
        let value = json!(format!("{hash}{}", digits.to_uppercase()));
        let comment = format!("Upper-case digits in {pointer}");
        maker.commit(&format!("{id}-upper-case"), "4", &comment, &with(record.clone(), pointer, value));
    }
    let record = with(first(), "/state", json!(format!("XXH3:{}", digest("state 1"))));
    maker.commit("leaf-hash-upper-case", "4.2", "The leaf hash in upper case", &record);
}

fn names(maker: &mut Maker) {
    let named = |name: &str| with(first()["anchor"]["files"][1].clone(), "/name", json!(name));
    let files = |names: [&str; 2]| {
        let files = json!([first()["anchor"]["files"][0], named(names[0]), named(names[1])]);
        with(first(), "/anchor/files", files)
    };
    let comment = "Two names that differ in the case of a letter beyond ASCII";
    taken(maker, "file-names-beyond-ascii", "3", comment, &files(["é.json", "É.json"]));
    let deep = format!("{}/x", ["d"; 8].join("/"));
    let comment = "Files in directories, 9 plain names deep";
    taken(maker, "file-names-in-directories", "3", comment, &files(["1_Pooling/config.json", &deep]));
    let comment = "Two files of one name in different directories";
    taken(maker, "file-names-same-in-two-directories", "3", comment, &files(["a/x.json", "b/x.json"]));
    let long = format!("{0}/{0}/{1}", "d".repeat(200), "d".repeat(110));
    taken(maker, "file-name-512", "3", "A file name of 512 bytes", &files(["x", &long]));
    for (id, comment, names) in [
        ("absolute", "A file name that begins with a slash", ["x", "/a"]),
        ("empty-part", "A file name with an empty part", ["x", "a//b"]),
        ("ends-in-slash", "A file name that ends in a slash", ["x", "a/"]),
        ("dot-part", "A file name with the part .", ["x", "a/./b"]),
        ("dots-part", "A file name with the part ..", ["x", "a/../b"]),
        ("hidden-part", "A file name with a hidden part", ["x", "a/.b/c"]),
        ("of-10-parts", "A file name of 10 plain names", ["x", &format!("d/{deep}")]),
        ("513", "A file name of 513 bytes", ["x", &format!("{long}d")]),
        ("is-directory", "A file name that is a directory of another", ["a", "a/b"]),
        ("is-directory-by-case", "A file name that is a directory of another but for case", ["A/b", "a"]),
        ("directory-in-two-ways", "A directory that is spelled in two ways", ["a/b", "A/c"]),
        ("weights-in-directory", "Weights in a directory", ["x", "a/model.safetensors"]),
    ] {
        maker.commit(&format!("file-name-{id}"), "3", comment, &files(names));
    }
    let comment = "A companion that is weights in a directory";
    let record = with(first(), "/companions/0/name", json!("a/model.SafeTensors"));
    maker.commit("companion-weights-in-directory", "4.2", comment, &record);
    for (id, name) in [
        ("weights", "model.safetensors"),
        ("weights-by-case", "Other.SafeTensors"),
        ("index", "model.safetensors.index.json"),
        ("index-by-case", "Model.safetensors.index.JSON"),
    ] {
        let comment = format!("A companion called {name}");
        let record = with(first(), "/companions/0/name", json!(name));
        maker.commit(&format!("companion-{id}"), "4.2", &comment, &record);
    }
    let record = with(first(), "/companions/0/name", json!("other.safetensors.index.json"));
    taken(maker, "companion-like-index", "4.2", "A companion called other.safetensors.index.json", &record);
    let halves = json!("é".repeat(128));
    let record = with(with(first(), "/label", halves.clone()), "/publisher", halves);
    taken(maker, "texts-256-bytes", "4", "Texts of 256 bytes and half as many characters", &record);
    maker.commit(
        "texts-257-bytes",
        "4",
        "A label of 257 bytes and fewer characters",
        &with(first(), "/label", json!("é".repeat(128) + "x")),
    );
}

fn ways(maker: &mut Maker) {
    let delta = second()["delta"].clone();
    maker.commit(
        "first-with-delta",
        "4.2",
        "Version 1 with a delta",
        &joined(first(), json!({"delta": delta})),
    );
    for (id, comment, pointer, value) in [
        (
            "edge-base-leaf-hash",
            "A fold from a state digest of the other leaf hash",
            "/delta/base/state",
            json!(format!("blake3:{}", digest("state 1"))),
        ),
        ("edge-no-patches", "A fold without patches", "/delta/patches", json!([])),
        ("edge-version-0", "An edge to version 0", "/target/version", json!(0)),
        (
            "edge-and-same-state",
            "A fold to the same state that is not called empty",
            "/target/state",
            base()["state"].clone(),
        ),
    ] {
        let record = with(edge(), pointer, value).to_string().into_bytes();
        maker.add(false, id, "edge", "4.3", comment, record);
    }
}
