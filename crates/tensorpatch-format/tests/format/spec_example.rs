//! The worked example in the specification, made by the writer.

use std::fmt::Write;
use std::path::Path;

use tensorpatch_format::*;

use crate::plan::at;
use crate::read::{forward, random};

const START: &str = "<!-- made by the test spec_example -->\n";
const END: &str = "<!-- end of what the test made -->\n";

/// One tensor of two elements, of which one changes; leaf hash BLAKE3, so that one hash makes all digests.
struct Example {
    schema: Schema,
    layout: Layout,
    base: [u8; 4],
    target: [u8; 4],
}

impl Example {
    fn new() -> Self {
        let mut json = br#"{"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}"#.to_vec();
        json.resize(json.len().next_multiple_of(8), b' ');
        let header = [&(json.len() as u64).to_le_bytes(), &json[..]].concat();
        let spec = TensorSpec::new("w", Dtype::new("BF16").unwrap(), vec![2]).unwrap();
        Self {
            schema: Schema::new(vec![spec]).unwrap(),
            layout: Layout::new(vec![FileLayout { name: Layout::SINGLE_FILE.into(), header }], None).unwrap(),
            base: [0x80, 0x3f, 0x00, 0x40],   // 1.0, 2.0
            target: [0x80, 0x3f, 0x40, 0x40], // 1.0, 3.0
        }
    }

    fn leaf(bytes: &[u8]) -> LeafDigest {
        LeafDigest::Blake3(*blake3::hash(bytes).as_bytes())
    }

    fn state(&self, bytes: &[u8]) -> StateDigest {
        let leaves = [Self::leaf(bytes)];
        let tensor = TensorDigest::of_leaves(LeafHash::Blake3, bytes.len() as u64, &leaves);
        StateDigest::of_tensors(self.schema.digest(), &[tensor])
    }

    fn file(&self) -> Vec<u8> {
        let header = PatchHeader::new(Kind::Delta, Profile::Direct, LeafHash::Blake3);
        let mut block = BlockBuilder::new(&header);
        block.push(at(0, 0), Encoding::Raw, &self.target, Self::leaf(&self.target)).unwrap();
        let ends = Ends {
            base_state: self.state(&self.base),
            target_state: self.state(&self.target),
            target_schema: self.schema.digest(),
            base_layout: self.layout.digest(),
            target_layout: self.layout.digest(),
        };
        let (writer, header) = PatchWriter::start(&header);
        let (writer, schema) = writer.schema(&Listing::Same).unwrap();
        let (mut writer, layout) = writer.layout(&Listing::Same).unwrap();
        let block = writer.block(block.finish().unwrap()).unwrap();
        let (_, index_and_trailer) = writer.finish(&ends).unwrap();
        [header, schema, layout, block, index_and_trailer].concat()
    }
}

/// The fields of the file, in order: how many bytes, and what they are.
const FIELDS: &[(usize, &str)] = &[
    (8, "magic"),
    (2, "major 1"),
    (2, "minor 0"),
    (4, "required features"),
    (4, "optional features"),
    (1, "kind: delta"),
    (1, "profile: direct"),
    (1, "leaf hash: BLAKE3"),
    (5, "reserved"),
    (4, "crc of the header"),
    (4, "SCHEMA, reserved"),
    (4, "crc"),
    (8, "length 1"),
    (1, "mode: same"),
    (4, "LAYOUT, reserved"),
    (4, "crc"),
    (8, "length 1"),
    (1, "mode: same"),
    (4, "BLOCK, reserved"),
    (4, "crc"),
    (8, "length 9"),
    (1, "record_count 1"),
    (1, "tensor_step 0"),
    (1, "chunk 0"),
    (1, "encoding: raw"),
    (1, "payload_len 4"),
    (4, "payload: 1.0, 3.0"),
    (4, "INDEX, reserved"),
    (4, "crc"),
    (8, "length 38"),
    (1, "block_count 1"),
    (1, "gap 34: SCHEMA and LAYOUT"),
    (1, "length 25"),
    (1, "record_count 1"),
    (1, "tensor_step 0"),
    (1, "chunk 0"),
    (32, "leaf digest of the target's chunk"),
    (32, "base state digest"),
    (32, "target state digest"),
    (32, "target schema digest"),
    (32, "base layout digest"),
    (32, "target layout digest"),
    (8, "offset of INDEX: 91"),
    (8, "length of the file: 337"),
    (4, "reserved"),
    (4, "crc of header and trailer"),
    (8, "end magic"),
];

fn rows(out: &mut String, start: usize, bytes: &[u8], note: &str) {
    for (row, chunk) in bytes.chunks(16).enumerate() {
        let hex: Vec<_> = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
        let note = if row == 0 { note } else { "" };
        let line = format!("{:4}  {:47}  {note}", start + row * 16, hex.join(" "));
        writeln!(out, "{}", line.trim_end()).unwrap();
    }
}

fn block(bytes: &[u8], fields: &[(usize, &str)]) -> String {
    let mut out = String::from("```text\n");
    let mut at = 0;
    for (len, note) in fields {
        rows(&mut out, at, &bytes[at..at + len], note);
        at += len;
    }
    assert_eq!(at, bytes.len(), "the fields do not cover the bytes");
    out.push_str("```\n");
    out
}

fn text(example: &Example) -> String {
    let mut out = format!(
        "The canonical bytes of the schema of both states, which have one tensor `w` of two `BF16` elements; its digest is `{}`:\n\n",
        example.schema.digest()
    );
    let schema = [
        (8, "tensor_count 1"),
        (4, "name_len 1"),
        (1, "name"),
        (4, "dtype_len 4"),
        (4, "dtype"),
        (4, "rank 1"),
        (8, "dim 2"),
        (8, "byte_len 4"),
    ];
    out.push_str(&block(&example.schema.to_bytes(), &schema));
    let layout = [
        (4, "file_count 1"),
        (4, "name_len 17"),
        (17, "name: model.safetensors"),
        (8, "header_len 64"),
        (8, "header: its 8-byte length, 56"),
        (56, "then the JSON, padded with a space"),
        (1, "has_index 0"),
    ];
    let digest = example.layout.digest();
    write!(out, "\nThe canonical bytes of the layout, which has one file; its digest is `{digest}`:\n\n")
        .unwrap();
    out.push_str(&block(&example.layout.to_bytes(), &layout));
    write!(
        out,
        "\nThe base holds `80 3f 00 40` (1.0, 2.0) and has the state digest `blake3:{}`.\n\
         The target holds `80 3f 40 40` (1.0, 3.0) and has the state digest `blake3:{}`.\n\nThe patch:\n\n",
        example.state(&example.base),
        example.state(&example.target)
    )
    .unwrap();
    out.push_str(&block(&example.file(), FIELDS));
    out
}

#[test]
fn the_worked_example_in_the_specification_is_what_the_writer_makes() {
    let expected = text(&Example::new());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../spec/format.md");
    let spec = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = spec.split_once(START).unwrap();
    let (found, after) = rest.split_once(END).unwrap();
    if std::env::var_os("UPDATE_SPEC").is_some() {
        std::fs::write(&path, [before, START, &expected, END, after].concat()).unwrap();
        return;
    }
    assert_eq!(
        found, expected,
        "spec/format.md is stale: run `UPDATE_SPEC=1 cargo test -p tensorpatch-format spec_example`"
    );
}

#[test]
fn the_worked_example_is_a_sound_patch() {
    let example = Example::new();
    let file = example.file();
    let grid = Grid::new(&example.schema, Some(&example.schema));
    let told = forward(file.chunks(5), &grid).unwrap();
    assert_eq!(told.len(), 6);
    random(&file, &grid).unwrap();
    let patch = PatchView::parse(&file, &Limits::default()).unwrap();
    let record = patch.blocks()[0].records().next().unwrap();
    assert_eq!(record.payload, example.target);
    assert_eq!(patch.index().leaf(0), Some(Example::leaf(record.payload)));
}
