//! Over generated checkpoints and arbitrary bytes.

use crate::support::{contents, file_of, open, put};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use tensorpatch_checkpoint::{
    Checkpoint, CheckpointWriter, Form, Placement, SafetensorsHeader, dtype_to_safetensors, generate_layout,
    view_of,
};
use tensorpatch_format::{Dtype, FileLayout, Layout, Limits, Schema, TensorIndex, TensorSpec};

fn tensor() -> impl Strategy<Value = (Dtype, Vec<u64>, u64)> {
    let known =
        (prop::sample::select(vec!["BF16", "F32", "U8", "F64", "F8_E4M3", "BOOL"]), vec(0_u64..5, 0..4))
            .prop_map(|(dtype, shape)| (Dtype::new(dtype).unwrap(), shape));
    let packed =
        (prop::sample::select(vec!["F4", "F6_E2M3"]), vec(0_u64..5, 0..3)).prop_map(|(dtype, mut shape)| {
            shape.push(4);
            (Dtype::new(dtype).unwrap(), shape)
        });
    let sized = prop_oneof![4 => known, 1 => packed].prop_map(|(dtype, shape)| {
        let byte_len = TensorSpec::new("t", dtype.clone(), shape.clone()).unwrap().byte_len;
        (dtype, shape, byte_len)
    });
    let unknown = (vec(any::<u64>(), 0..3), 0_u64..40)
        .prop_map(|(shape, byte_len)| (Dtype::new("F3_NEXT_YEAR").unwrap(), shape, byte_len));
    prop_oneof![5 => sized, 1 => unknown]
}

fn schema() -> impl Strategy<Value = Schema> {
    btree_map("[ -~é☃\"\\\\\n]{0,12}", tensor(), 0..12).prop_map(|tensors| {
        let specs = tensors
            .into_iter()
            .filter(|(name, _)| name != "__metadata__")
            .map(|(name, (dtype, shape, byte_len))| TensorSpec { name, dtype, shape, byte_len });
        Schema::new(specs.collect()).unwrap()
    })
}

/// The tensors dealt out to `shards` files, with an index.
fn shard(schema: &Schema, shards: usize) -> Layout {
    let mut files = Vec::new();
    let mut weight_map = serde_json::Map::new();
    for shard in 0..shards {
        let dealt: Vec<_> = schema.tensors().iter().skip(shard).step_by(shards).cloned().collect();
        if dealt.is_empty() {
            continue;
        }
        let name = format!("model-{shard:05}.safetensors");
        for spec in &dealt {
            weight_map.insert(spec.name.clone(), name.clone().into());
        }
        let single = generate_layout(&Schema::new(dealt).unwrap()).unwrap();
        files.push(FileLayout { name, header: single.files()[0].header.clone() });
    }
    let index = serde_json::json!({ "metadata": {}, "weight_map": weight_map });
    Layout::new(files, Some(serde_json::to_vec_pretty(&index).unwrap())).unwrap()
}

/// Writes a state of counted bytes in pieces of `step` bytes and says what it wrote.
fn write(
    schema: &Schema,
    layout: &Layout,
    dest: &std::path::Path,
    form: Form,
    step: usize,
) -> Vec<(String, Vec<u8>)> {
    let placement = Placement::new(schema, layout, &Limits::default()).unwrap();
    let writer = CheckpointWriter::create(dest, form, schema, layout, &placement).unwrap();
    let mut written = Vec::new();
    for (spec, index) in schema.tensors().iter().zip(0_u32..) {
        let bytes: Vec<u8> = (0..spec.byte_len).map(|at| (at as u8).wrapping_add(17 * index as u8)).collect();
        for (piece, at) in bytes.chunks(step).zip((0_u64..).step_by(step)) {
            writer.write(TensorIndex(index), at, piece).unwrap();
        }
        written.push((spec.name.clone(), bytes));
    }
    writer.commit().unwrap();
    written
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_what_is_opened(schema in schema(), shards in 0_usize..5, step in 1_usize..9) {
        let out = tempfile::tempdir().unwrap();
        let dest = out.path().join("dest");
        let (layout, form) = match shards {
            _ if schema.tensors().is_empty() => (generate_layout(&schema).unwrap(), Form::File),
            0 => (generate_layout(&schema).unwrap(), Form::File),
            _ => (shard(&schema, shards), Form::Directory),
        };
        let written = write(&schema, &layout, &dest, form, step);
        let checkpoint = open(&dest).unwrap();
        prop_assert_eq!(checkpoint.schema(), &schema);
        prop_assert_eq!(checkpoint.layout(), &layout);
        prop_assert_eq!(checkpoint.placement(), &Placement::new(&schema, &layout, &Limits::default()).unwrap());
        prop_assert_eq!(contents(&checkpoint), written);
    }

    #[test]
    fn a_generated_layout_has_the_header_that_the_safetensors_crate_writes(schema in schema()) {
        let is_known = |spec: &&TensorSpec| dtype_to_safetensors(&spec.dtype).is_some();
        let known = Schema::new(schema.tensors().iter().filter(is_known).cloned().collect()).unwrap();
        let bytes: Vec<_> = known.tensors().iter().map(|spec| vec![0; spec.byte_len as usize]).collect();
        let tensors = known.tensors().iter().zip(&bytes);
        let views = tensors.map(|(spec, bytes)| (spec.name.as_str(), view_of(spec, bytes).unwrap()));
        let metadata = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let file = safetensors::serialize(views, Some(metadata)).unwrap();
        let layout = generate_layout(&known).unwrap();
        let header = &layout.files()[0].header;
        prop_assert_eq!(String::from_utf8_lossy(&file[8..header.len()]), String::from_utf8_lossy(&header[8..]));
        prop_assert_eq!(file.len() as u64, header.len() as u64 + known.state_bytes());
    }

    #[test]
    fn tensors_of_a_generated_layout_are_aligned_to_their_elements(schema in schema()) {
        let layout = generate_layout(&schema).unwrap();
        let placement = Placement::new(&schema, &layout, &Limits::default()).unwrap();
        for (spec, index) in schema.tensors().iter().zip(0..) {
            let (_, range) = placement.locate(TensorIndex(index)).unwrap();
            if spec.dtype.bits().is_some_and(|bits| bits >= 8) {
                prop_assert_eq!(range.start % spec.dtype.element_format().width() as u64, 0);
            }
        }
    }
}

/// Text that is nearly a header: the tokens of one in any order.
fn nearly_json() -> impl Strategy<Value = String> {
    let token = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"t\"",
        "\"dtype\"",
        "\"shape\"",
        "\"data_offsets\"",
        "\"BF16\"",
        "0",
        "2",
        "-1",
        "1e400",
        "18446744073709551615",
        "18446744073709551616",
        "null",
        "\"__metadata__\"",
        "\"\\u0061\"",
        " ",
        "\"weight_map\"",
        "\"a.safetensors\"",
        "\"t\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}",
    ]);
    vec(token, 0..40).prop_map(|tokens| format!("{{{}", tokens.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_bytes_make_the_header_parser_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = SafetensorsHeader::parse(&bytes, &Limits::default());
    }

    #[test]
    fn no_json_makes_the_header_parser_panic(json in nearly_json()) {
        if let Ok(header) = SafetensorsHeader::parse(&file_of(&json, 0), &Limits::default()) {
            let mut at = header.header_len();
            for (spec, range) in header.tensors() {
                prop_assert_eq!(range.start, at);
                prop_assert_eq!(range.end - range.start, spec.byte_len);
                at = range.end;
            }
            prop_assert_eq!(at, header.file_len());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_files_make_opening_panic(index in nearly_json(), shard in nearly_json(), data in 0_usize..4) {
        let directory = tempfile::tempdir().unwrap();
        put(directory.path(), "a.safetensors", &file_of(&shard, data));
        let _ = open(&directory.path().join("a.safetensors"));
        put(directory.path(), "model.safetensors.index.json", index.as_bytes());
        let _ = Checkpoint::open(directory.path(), &Limits::default());
    }
}
