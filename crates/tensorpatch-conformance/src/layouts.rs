//! Layouts as a reader that writes files sees them: those that a checkpoint can have, and those that break a
//! rule about the contents of headers and index (section 2.2). All are in empty patches, which any other
//! reader takes.

use tensorpatch_reference::LeafHash::Xxh3;

use crate::Vector;
use crate::patch::{Listing, Patch, frame, layout, layout_of, safetensors_header};
use crate::state::State;
use crate::vector::States;

const SINGLE: &str = "model.safetensors";
const ONE: &str = "model-00001-of-00002.safetensors";
const TWO: &str = "model-00002-of-00002.safetensors";

/// The entries of the tensors of `several`, whose bytes are one after the other in one file.
const A: &str = r#""a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}"#;
const B: &str = r#""b":{"dtype":"BF16","shape":[2,2],"data_offsets":[4,12]}"#;
const C: &str = r#""c":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}"#;
const D: &str = r#""d":{"dtype":"U8","shape":[0],"data_offsets":[16,16]}"#;

pub(crate) fn vectors(states: &States) -> Vec<Vector> {
    let several = states.get("several");
    let mut all = written(several);
    all.extend(headers(several));
    all.extend(indices(several));
    all.extend(texts(several));
    all
}

fn patch(several: &State, layout: Vec<u8>) -> Patch {
    let mut patch = Patch::empty(several, Xxh3);
    patch.list_layout(layout);
    patch
}

fn taken(id: &str, comment: &str, several: &State, layout: Vec<u8>) -> Vector {
    let file = patch(several, layout).file();
    Vector::valid(format!("files-{id}"), "2.2", comment, Some(several), several, file)
}

fn refused(id: &str, comment: &str, several: &State, layout: Vec<u8>) -> Vector {
    let raw = patch(several, layout).raw();
    // Behind mode, packing and `raw_len`, which is two bytes as soon as there are 128 to follow.
    let len = raw.sections[1].payload.len() as u64;
    let head = 2 + if len > 129 { 2 } else { 1 };
    let vector = Vector::valid(format!("files-{id}"), "2.2", comment, Some(several), several, raw.file());
    vector.unwritable(raw.payload_at(1) + head)
}

fn json(entries: &[&str]) -> Vec<u8> {
    safetensors_header(&format!("{{{}}}", entries.join(",")))
}

/// Two files with the tensors of `several`.
fn shards() -> [(&'static str, Vec<u8>); 2] {
    let d = r#""d":{"dtype":"U8","shape":[0],"data_offsets":[4,4]}"#;
    let c = r#""c":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    [(ONE, json(&[A, B])), (TWO, json(&[c, d]))]
}

fn sharded(index: Option<&[u8]>) -> Vec<u8> {
    let [one, two] = shards();
    layout(&[(one.0, &one.1), (two.0, &two.1)], index)
}

/// An index whose map is given without its braces.
fn index(map: &str) -> Vec<u8> {
    format!(r#"{{"metadata":{{"total_size":16}},"weight_map":{{{map}}}}}"#).into_bytes()
}

fn whole_map() -> String {
    format!(r#""a":"{ONE}","b":"{ONE}","c":"{TWO}","d":"{TWO}""#)
}

fn written(several: &State) -> Vec<Vector> {
    let one = json(&[A, B, C, D]);
    let map =
        |name: &str| index(&["a", "b", "c", "d"].map(|tensor| format!(r#""{tensor}":"{name}""#)).join(","));
    let long = format!("{}.safetensors", "x".repeat(255 - 12));
    let members = br#"{"a":1,"weight_map":{"a":"model.safetensors","b":"model.safetensors","c":"model.safetensors","d":"model.safetensors"},"z":[{"weight_map":{}}]}"#;
    vec![
        taken("two", "Two files and an index", several, sharded(Some(&index(&whole_map())))),
        taken(
            "single-with-index",
            "One file and an index",
            several,
            layout(&[(SINGLE, &one)], Some(&map(SINGLE))),
        ),
        taken(
            "other-name",
            "One file of another name than model.safetensors, and no index",
            several,
            layout(&[("adapter_model.safetensors", &one)], None),
        ),
        taken(
            "other-name-with-index",
            "One file of another name and an index",
            several,
            layout(&[("größe-名.safetensors", &one)], Some(&map("größe-名.safetensors"))),
        ),
        taken(
            "name-255",
            "A file name of 255 bytes",
            several,
            layout(&[(long.as_str(), &one)], Some(&map(&long))),
        ),
        taken(
            "index-members",
            "An index with other members, which say nothing",
            several,
            layout(&[(SINGLE, &one)], Some(members)),
        ),
        taken(
            "order",
            "A header whose entries and data are in another order than the names",
            several,
            layout(
                &[(
                    SINGLE,
                    &json(&[
                        D,
                        r#""b":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}"#,
                        r#""a":{"dtype":"U8","shape":[4],"data_offsets":[8,12]}"#,
                        C,
                    ]),
                )],
                None,
            ),
        ),
    ]
}

fn headers(several: &State) -> Vec<Vector> {
    let whole = json(&[A, B, C, D]);
    let mut longer = whole.clone();
    longer[0] += 8;
    let deep = format!(r#""__metadata__":{}"#, "[".repeat(2000));
    let objects = format!(r#"{{"a":{}"#, r#"{"x":"#.repeat(400));
    let mut all = Vec::new();
    for (id, comment, header) in [
        ("header-empty", "A header without bytes", Vec::new()),
        ("header-cut", "A header that ends before its JSON does", whole[..20].to_vec()),
        ("header-length", "A header whose length is over what is there", longer),
        ("header-followed", "A header with a byte after it", [&whole[..], b" "].concat()),
        ("header-not-json", "A header that is not JSON", safetensors_header("{\"a\"")),
        ("header-list", "A header that is a list", safetensors_header("[]")),
        ("header-deep", "A header with two thousand brackets", json(&[deep.as_str()])),
        (
            "header-deep-objects",
            "A header with four hundred objects in each other",
            safetensors_header(&objects),
        ),
        ("tensor-missing", "A tensor in no file", json(&[A, B, C])),
        (
            "tensor-more",
            "A tensor that the state does not have",
            json(&[A, B, C, D, r#""e":{"dtype":"U8","shape":[0],"data_offsets":[16,16]}"#]),
        ),
        ("tensor-twice", "A tensor twice in one file", json(&[A, A, B, C, D])),
        (
            "tensor-dtype",
            "A tensor of another dtype",
            json(&[A, r#""b":{"dtype":"F16","shape":[2,2],"data_offsets":[4,12]}"#, C, D]),
        ),
        (
            "tensor-shape",
            "A tensor of another shape",
            json(&[A, r#""b":{"dtype":"BF16","shape":[4],"data_offsets":[4,12]}"#, C, D]),
        ),
        (
            "data-hole",
            "A byte of the data that is of no tensor",
            json(&[A, B, r#""c":{"dtype":"F32","shape":[1],"data_offsets":[13,17]}"#]),
        ),
        (
            "data-twice",
            "Data of two tensors",
            json(&[A, B, r#""c":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}"#, D]),
        ),
    ] {
        all.push(refused(id, comment, several, layout(&[(SINGLE, &header)], None)));
    }
    let mut packed = patch(several, sharded(None));
    let Listing::Plain(bytes) = packed.layout.clone() else { panic!("listed") };
    let head = 2 + crate::raw::varint(bytes.len() as u64).len() as u64;
    packed.layout = Listing::Zstd(bytes.clone());
    let raw = packed.raw();
    assert!(raw.sections[1].payload.ends_with(&frame(&bytes)));
    let comment = "Two files and no index, in a zstd frame";
    let vector =
        Vector::valid("files-index-missing-in-frame", "2.2", comment, Some(several), several, raw.file());
    all.push(vector.unwritable(raw.payload_at(1) + head));
    all
}

fn indices(several: &State) -> Vec<Vector> {
    let map = whole_map();
    let without_d = format!(r#""a":"{ONE}","b":"{ONE}","c":"{TWO}""#);
    let text = |text: &str| text.as_bytes().to_vec();
    let mut all = vec![refused("index-missing", "Two files and no index", several, sharded(None))];
    for (id, comment, bytes) in [
        ("index-empty", "An index without bytes", Vec::new()),
        ("index-not-json", "An index that is not JSON", text("{\"weight_map\"")),
        (
            "index-not-utf8",
            "An index that is not UTF-8",
            [b"{\"\xff\":1,".to_vec(), index(&map)[1..].to_vec()].concat(),
        ),
        ("index-list", "An index that is a list", text("[]")),
        ("index-followed", "Something after the index", [index(&map), text("{}")].concat()),
        ("map-missing", "An index without weight_map", text("{}")),
        (
            "map-twice",
            "Two members weight_map",
            format!(r#"{{"weight_map":{{{map}}},"weight_map":{{{map}}}}}"#).into_bytes(),
        ),
        ("map-empty", "A weight_map without members", index("")),
        ("map-list", "A weight_map that is a list", text(r#"{"weight_map":[]}"#)),
        (
            "map-number",
            "A file that is a number",
            index(&map.replace(&format!(r#""d":"{TWO}""#), r#""d":2"#)),
        ),
        ("map-tensor-missing", "A tensor that the index does not name", index(&without_d)),
        ("map-tensor-more", "A tensor that the state does not have", index(&format!(r#"{map},"e":"{TWO}""#))),
        ("map-tensor-twice", "A tensor twice in the index", index(&format!(r#"{map},"d":"{TWO}""#))),
        (
            "map-other-file",
            "A tensor that is said to be in the other file",
            index(&format!(r#"{without_d},"d":"{ONE}""#)),
        ),
        (
            "map-no-file",
            "A tensor that is said to be in a file that is not there",
            index(&format!(r#"{without_d},"d":"{SINGLE}""#)),
        ),
    ] {
        all.push(refused(id, comment, several, sharded(Some(&bytes))));
    }
    let [one, _] = shards();
    let both = [(ONE, &one.1[..]), (TWO, &json(&[A, B, C, D])[..])];
    let comment = "Tensors that are in two files";
    all.push(refused("tensor-in-two", comment, several, layout(&both, Some(&index(&map)))));
    let four = json(&[A, B, C, D]);
    let files = [(ONE, &four[..]), (TWO, &safetensors_header("{}")[..])];
    let all_in_one = index(&map.replace(TWO, ONE));
    let comment = "A file without tensors";
    all.push(refused("file-without-tensors", comment, several, layout(&files, Some(&all_in_one))));
    assert_eq!(layout_of(&several.tensors, ""), layout(&[(SINGLE, &four)], None));
    all
}

/// Section 1.5: how the JSON of headers and index may be written, and how not.
fn texts(several: &State) -> Vec<Vector> {
    let whole = format!("{{{A},{B},{C},{D}}}");
    let header = |json: &str| layout(&[(SINGLE, &safetensors_header(json))], None);
    let altered = |from: &str, to: &str| {
        assert_eq!(whole.matches(from).count(), 1, "{from}");
        header(&whole.replace(from, to))
    };
    let beside = |member: &str| header(&format!("{{{member},{A},{B},{C},{D}}}"));
    let in_b = r#""shape":[2,2],"#;
    let deep = format!("{in_b}\"x\":{}{},", "[".repeat(100), "]".repeat(100));
    let mut all = Vec::new();
    for (id, comment, bytes) in [
        ("white-space", "White space wherever it may stand", altered(in_b, "\t\"shape\" :\r\n[ 2 , 2 ] ,")),
        (
            "escapes",
            "A name and a member with escapes",
            altered("\"b\":{\"dtype\"", "\"\\u0062\":{\"d\\u0074ype\""),
        ),
        (
            "unknown-twice",
            "A member of a tensor that nobody knows, twice",
            altered(in_b, &format!("{in_b}\"x\":1,\"x\":null,")),
        ),
        (
            "known-in-unknown",
            "Within such a member, a known name twice",
            altered(in_b, &format!("{in_b}\"x\":{{\"dtype\":1,\"dtype\":2}},")),
        ),
        ("unknown-deep", "Such a member, which nests a hundred levels deep", altered(in_b, &deep)),
        ("metadata-null", "__metadata__ that is null", beside(r#""__metadata__":null"#)),
        ("metadata", "__metadata__ with texts", beside(r#""__metadata__":{"a":"","":"\ud83e\udd80"}"#)),
    ] {
        all.push(taken(&format!("json-{id}"), comment, several, bytes));
    }
    let marked = format!("\u{feff}{whole}");
    for (id, comment, bytes) in [
        ("dtype-twice", "A member of a tensor twice", altered(in_b, &format!("{in_b}\"dtype\":\"BF16\","))),
        (
            "shape-twice",
            "A member of a tensor twice, the values unlike",
            altered(in_b, &format!("{in_b}\"shape\":[4],")),
        ),
        (
            "offsets-twice",
            "A member of a tensor twice, once with an escape",
            altered(in_b, &format!("{in_b}\"data\\u005foffsets\":[4,12],")),
        ),
        ("metadata-twice", "Two members __metadata__", beside(r#""__metadata__":{},"__metadata__":{}"#)),
        ("metadata-name-twice", "A name twice in __metadata__", beside(r#""__metadata__":{"a":"","a":""}"#)),
        ("metadata-number", "A number in __metadata__", beside(r#""__metadata__":{"a":1}"#)),
        ("metadata-list", "__metadata__ that is a list", beside(r#""__metadata__":[]"#)),
        ("metadata-half", "Half a character in __metadata__", beside(r#""__metadata__":{"a":"\ud800"}"#)),
        ("point", "An integer with a point", altered(in_b, "\"shape\":[2.0,2],")),
        ("exponent", "An integer with an exponent", altered(in_b, "\"shape\":[2e0,2],")),
        ("minus-zero", "A zero with a sign", altered("\"shape\":[0]", "\"shape\":[-0]")),
        ("leading-zero", "An integer with a leading zero", altered(in_b, "\"shape\":[02,2],")),
        ("dtype-null", "A dtype that is null", altered("\"BF16\"", "null")),
        ("dtype-missing", "A tensor without a dtype", altered("\"dtype\":\"BF16\",", "")),
        ("offsets-three", "Three offsets", altered("[4,12]", "[4,12,12]")),
        ("offsets-back", "A second offset less than the first", altered("[16,16]", "[16,15]")),
        (
            "nan",
            "NaN in a member that nobody knows, which is no JSON",
            altered(in_b, &format!("{in_b}\"x\":NaN,")),
        ),
        ("control", "A line feed in a text, which is no JSON", beside("\"__metadata__\":{\"a\":\"\n\"}")),
        ("comma", "A comma after the last member", header(&format!("{{{A},{B},{C},{D},}}"))),
        ("byte-order-mark", "A byte order mark before the JSON", header(&marked)),
    ] {
        all.push(refused(&format!("json-{id}"), comment, several, bytes));
    }
    all
}
