//! Writing a target in one of the formats: beside its destination, and renamed into place when it is whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use tempfile::TempDir;
use tensorpatch_checkpoint::{
    AtomicFile, Checkpoint, CheckpointError, CheckpointWriter, Form, Placement, sync_dir, sync_open_dir,
};
use tensorpatch_delta::{Options, Progress, Snapshot, encode_diff, encode_full};
use tensorpatch_format::{Dtype, FileLayout, Layout, LayoutError, Limits, Schema, SchemaError, TensorSpec};

use crate::checksum::StateChecksum;
use crate::convert::{changed, tensors};
use crate::error::short;
use crate::index_delta::{self, DeltaEncoding, Dialect, Index, OVERWRITE_BYTES, most_encoded};
use crate::safetensors::{self, Entry};
use crate::trl::{self, ELEMENTS, Flavour, Metadata};
use crate::{ChecksumKind, FormatsError, Needed, TensorDelta, positions};

/// What was written.
pub(crate) struct Written {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

/// The versions to be written down, as far as they are known.
pub(crate) struct Versions<'a> {
    pub(crate) version: Option<&'a str>,
    pub(crate) base: Option<&'a str>,
}

/// How an index-delta directory is to be.
pub(crate) struct IndexDeltaStyle {
    pub(crate) dialect: Dialect,
    pub(crate) encoding: DeltaEncoding,
    pub(crate) checksum: ChecksumKind,
    pub(crate) file_bytes: u64,
}

/// A hidden directory beside `dest`.
pub(crate) fn staging(dest: &Path) -> Result<TempDir, FormatsError> {
    let parent = parent(dest);
    tempfile::Builder::new()
        .prefix(".tensorpatch-convert-")
        .tempdir_in(parent)
        .map_err(FormatsError::io("create a staging directory in", parent))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// What a checkpoint of this layout is on disk.
pub(crate) fn form(layout: &Layout) -> Form {
    if layout.files().len() > 1 || layout.index().is_some() { Form::Directory } else { Form::File }
}

/// The target as a checkpoint, with the companions of whichever of the two has any.
pub(crate) fn checkpoint(
    target: &Checkpoint,
    base: Option<&Checkpoint>,
    dest: &Path,
    limits: &Limits,
) -> Result<Written, FormatsError> {
    let named_file = dest.extension().is_some_and(|extension| extension == "safetensors");
    let form = if named_file { Form::File } else { Form::Directory };
    let (schema, layout) = (target.schema(), target.layout());
    let placement = Placement::new(schema, layout, limits)?;
    let writer = CheckpointWriter::create(dest, form, schema, layout, &placement)?;
    [Some(target), base].into_iter().flatten().try_for_each(|source| writer.no_more_open_than(source))?;
    for (index, _, bytes) in tensors(target) {
        writer.write(index, 0, bytes)?;
    }
    if form == Form::Directory {
        let mut companions = target.companions(&[])?.carried;
        if let Some(base) = base.filter(|_| companions.is_empty()) {
            companions = base.companions(&[])?.carried;
        }
        companions.iter().try_for_each(|companion| writer.copy_companion(companion))?;
    }
    writer.commit()?;
    let files = layout.files().len();
    let bytes = (0..files).map(|file| placement.file_len(file)).fold(0, u64::saturating_add);
    Ok(Written { files: files as u64, bytes })
}

/// The target as a patch of tensorpatch.
pub(crate) fn patch(
    target: &Checkpoint,
    base: Option<&Checkpoint>,
    dest: &Path,
    options: &Options,
) -> Result<Written, FormatsError> {
    let mut out = AtomicFile::create(dest)?;
    [Some(target), base].into_iter().flatten().try_for_each(|source| out.no_more_open_than(source))?;
    let report = match base {
        Some(base) => {
            encode_diff(&Snapshot::of(base)?, &Snapshot::of(target)?, options, Progress::none(), &mut out)?
        }
        None => encode_full(&Snapshot::of(target)?, options, Progress::none(), &mut out)?,
    };
    out.commit()?;
    Ok(Written { files: 1, bytes: report.patch_bytes })
}

/// Says that a delta that carries nothing but the bytes of tensors can be from `base` to `target`.
fn check_same_tensors(
    format: &'static str,
    base: &Checkpoint,
    target: &Checkpoint,
) -> Result<(), FormatsError> {
    let refuse = |tensor: &TensorSpec, what: &str| {
        Err(FormatsError::CannotExpress { format, tensor: Some(short(&tensor.name)), what: what.to_owned() })
    };
    for spec in target.schema().tensors() {
        match base.schema().find(&spec.name).and_then(|index| base.schema().get(index)) {
            None => return refuse(spec, "the base has no such tensor"),
            Some(old) if old != spec => return refuse(spec, "the base has another dtype or shape"),
            Some(_) => {}
        }
    }
    match base.schema().tensors().iter().find(|spec| target.schema().find(&spec.name).is_none()) {
        Some(spec) => refuse(spec, "the target has no such tensor"),
        None => Ok(()),
    }
}

/// The bytes that a tensor has in `base`; the same tensors are in both.
fn old<'b>(base: &'b Checkpoint, spec: &TensorSpec) -> &'b [u8] {
    base.schema().find(&spec.name).and_then(|index| base.tensor(index)).unwrap_or_default()
}

/// The target as an index-delta directory.
pub(crate) fn index_delta(
    target: &Checkpoint,
    base: Option<&Checkpoint>,
    dest: &Path,
    staging: &TempDir,
    style: &IndexDeltaStyle,
    versions: &Versions<'_>,
) -> Result<Written, FormatsError> {
    const FORMAT: &str = "an index-delta directory";
    let request = |what: &str, advice| FormatsError::Request { what: what.to_owned(), advice };
    let Some(base) = base else {
        let what = "there is no base, and a full version of this format is a checkpoint".to_owned();
        return Err(FormatsError::Unsaid { what, needed: Needed::Base });
    };
    if style.dialect == Dialect::ModelExpress
        && (style.encoding != DeltaEncoding::Xor || style.checksum != ChecksumKind::Adler32)
    {
        return Err(request(
            "ModelExpress reads xor with adler32 alone",
            "leave encoding and checksum as they are",
        ));
    }
    if style.checksum == ChecksumKind::Sha256 {
        return Err(request("readers do not know sha256", "take adler32, xxh3-128 or blake3"));
    }
    check_same_tensors(FORMAT, base, target)?;
    let unsaid = |what| FormatsError::Unsaid { what, needed: Needed::Versions };
    let version = |version: Option<&str>, what: &str| match (version, style.dialect) {
        (None | Some(""), _) => Err(unsaid(format!("the {what} is not known"))),
        (Some(version), Dialect::ModelExpress) => Ok(version.to_owned()),
        (Some(version), Dialect::Numbered) => match version.parse::<u64>() {
            Ok(number) => Ok(format!("{number:06}")),
            Err(_) => Err(unsaid(format!("the {what} {version:?} is no number"))),
        },
    };
    let (version, base_version) =
        (version(versions.version, "version")?, version(versions.base, "version of the base")?);
    let changed = changed(Some(base), target);
    if style.encoding == DeltaEncoding::Overwrite
        && let Some((spec, _)) = changed.iter().find(|(spec, _)| spec.byte_len > OVERWRITE_BYTES)
    {
        let what = format!(
            "it has {} bytes, and positions of overwrite end at {OVERWRITE_BYTES}; take xor",
            spec.byte_len
        );
        return Err(FormatsError::CannotExpress { format: FORMAT, tensor: Some(short(&spec.name)), what });
    }
    let directory = staging.path().join("version");
    let io = |action| FormatsError::io(action, dest);
    fs::create_dir(&directory).map_err(io("create"))?;
    let groups = in_files(&changed, style.file_bytes);
    let mut weight_map = BTreeMap::new();
    let mut bytes = 0_u64;
    for (number, group) in groups.iter().enumerate() {
        let name = format!("model-{number:05}-of-{:05}.safetensors", groups.len());
        let written = delta_file(&directory.join(&name), group, base, style);
        bytes = bytes.saturating_add(written.map_err(io("write"))?);
        weight_map.extend(group.iter().map(|(spec, _)| (spec.name.clone(), name.clone())));
    }
    let index =
        Index { version, base_version, encoding: style.encoding, checksum: style.checksum, weight_map };
    let json = index.to_json(style.dialect);
    let write_index = || {
        let mut file = File::create_new(directory.join(Layout::INDEX_FILE))?;
        file.write_all(&json)?;
        file.sync_all()?;
        sync_dir(&directory)
    };
    write_index().map_err(io("write"))?;
    // Until here it lies in a directory of its own that nobody else may enter.
    for entry in fs::read_dir(&directory).map_err(io("list"))? {
        let file = entry.and_then(|entry| File::open(entry.path())).map_err(io("open"))?;
        [target, base].into_iter().try_for_each(|source| source.restrict(&file))?;
    }
    let opened = File::open(&directory).map_err(io("open"))?;
    [target, base].into_iter().try_for_each(|source| source.restrict_directory(&opened))?;
    let parent = File::open(parent(dest)).map_err(io("write"))?;
    // A directory takes the place of an empty one, and of nothing else.
    fs::rename(&directory, dest).map_err(io("rename the new version to"))?;
    sync_open_dir(&parent).map_err(|source| CheckpointError::NotDurable { path: dest.to_owned(), source })?;
    let files = (groups.len() as u64).saturating_add(1);
    Ok(Written { files, bytes: bytes.saturating_add(json.len() as u64) })
}

type Tensor<'t> = (&'t TensorSpec, &'t [u8]);

/// The most bytes of a header, of which safetensors admits a little more.
const HEADER_BYTES: usize = 90_000_000;

/// Deals tensors out to files, each of at least one tensor, at most `file_bytes` of them, and a header that
/// readers admit.
fn in_files<'t>(tensors: &[Tensor<'t>], file_bytes: u64) -> Vec<Vec<Tensor<'t>>> {
    let mut files: Vec<Vec<Tensor<'t>>> = Vec::new();
    let (mut taken, mut header) = (0_u64, 0_usize);
    for tensor in tensors {
        // Each name stands there twice, and each of its bytes takes six at the most; dtype, shape, offsets
        // and checksum take the rest.
        let entry = tensor.0.name.len().saturating_mul(12).saturating_add(250);
        (taken, header) = (taken.saturating_add(tensor.0.byte_len), header.saturating_add(entry));
        match files.last_mut() {
            Some(file) if taken <= file_bytes && header <= HEADER_BYTES => file.push(*tensor),
            _ => {
                (taken, header) = (tensor.0.byte_len, entry);
                files.push(vec![*tensor]);
            }
        }
    }
    files
}

/// One file of a version. What a frame takes is known when it is made, so that the header comes last, into
/// room for the longest that it can be.
fn delta_file(
    path: &Path,
    tensors: &[Tensor<'_>],
    base: &Checkpoint,
    style: &IndexDeltaStyle,
) -> std::io::Result<u64> {
    let checksums: BTreeMap<String, String> =
        tensors.iter().map(|(spec, new)| (spec.name.clone(), style.checksum.of(new))).collect();
    let header = |lens: &[u64], len: usize| {
        let shapes: Vec<[u64; 1]> = lens.iter().map(|len| [*len]).collect();
        let mut begin = 0_u64;
        let entries = tensors.iter().zip(&shapes).map(|((spec, _), shape)| {
            let [len] = *shape;
            let entry = Entry { name: &spec.name, dtype: "U8", shape, begin, end: begin.saturating_add(len) };
            begin = entry.end;
            entry
        });
        safetensors::header(&entries.collect::<Vec<_>>(), &checksums, len)
    };
    let most: Vec<u64> =
        tensors.iter().map(|(spec, _)| most_encoded(style.encoding, spec.byte_len) as u64).collect();
    let room = header(&most, 0).len();
    let file = File::create_new(path)?;
    let mut end = room as u64;
    let mut lens = Vec::with_capacity(tensors.len());
    for (spec, new) in tensors {
        let frame = index_delta::encode(style.encoding, old(base, spec), new)?;
        file.write_all_at(&frame, end)?;
        end = end.saturating_add(frame.len() as u64);
        lens.push(frame.len() as u64);
    }
    file.write_all_at(&header(&lens, room), 0)?;
    file.sync_all()?;
    Ok(end)
}

/// The target as a file of TRL: what changes from the base, or all of it.
pub(crate) fn trl(
    target: &Checkpoint,
    base: Option<&Checkpoint>,
    dest: &Path,
    flavour: Flavour,
    versions: &Versions<'_>,
    limits: &Limits,
) -> Result<Written, FormatsError> {
    const FORMAT: &str = "a file of TRL";
    let number = |version: Option<&str>, what: &str| {
        let number = version.and_then(|version| version.parse::<u64>().ok());
        number.ok_or_else(|| FormatsError::Unsaid {
            what: match version {
                Some(version) => format!("the {what} {version:?} is no number"),
                None => format!("the {what} is not known"),
            },
            needed: Needed::Versions,
        })
    };
    let model_version = number(versions.version, "version")?;
    let base_version = match (base, flavour) {
        (None, _) => None,
        (Some(_), Flavour::A) => Some(number(versions.base, "version of the base")?),
        (Some(_), _) => Some(0),
    };
    if let Some(base) = base {
        check_same_tensors(FORMAT, base, target)?;
    }
    let changed = changed(base, target);
    let cannot = |spec: &TensorSpec, what: String| {
        Err(FormatsError::CannotExpress { format: FORMAT, tensor: Some(short(&spec.name)), what })
    };
    // The checksum of the first flavour is over all tensors as bf16.
    let all = flavour == Flavour::A;
    let specs = target.schema().tensors().iter();
    let needed: Vec<&TensorSpec> =
        if all { specs.collect() } else { changed.iter().map(|(spec, _)| *spec).collect() };
    if let Some(spec) = needed.iter().find(|spec| spec.dtype.as_str() != "BF16") {
        return cannot(spec, format!("it is {}, and only BF16 can be said", spec.dtype));
    }
    let elements = |spec: &TensorSpec| spec.byte_len / 2;
    if base.is_some()
        && let Some((spec, _)) = changed.iter().find(|(spec, _)| elements(spec) > ELEMENTS)
    {
        return cannot(spec, format!("it has {} elements, and positions end at {ELEMENTS}", elements(spec)));
    }
    let checksum = all.then(|| {
        let mut checksum = StateChecksum::default();
        tensors(target).for_each(|(_, _, bytes)| checksum.update(bytes));
        checksum.finish()
    });
    let mut metadata = Metadata {
        model_version,
        base_version,
        changed: changed.iter().map(|(spec, _)| spec.name.clone()).collect(),
        changed_elements: 0,
        // The other flavours count the tensors that change alone.
        total_elements: needed.iter().map(|spec| elements(spec)).fold(0, u64::saturating_add),
        checksum,
    };
    let Some(base) = base else {
        metadata.changed_elements = metadata.total_elements;
        let plan: Vec<Planned> =
            changed.iter().map(|(spec, _)| Planned::new(&spec.name, "BF16", &spec.shape)).collect();
        return plain_file((dest, &[target]), &plan, &metadata.of(flavour), limits, |put| {
            changed.iter().try_for_each(|(spec, new)| put(&spec.name, new))
        });
    };
    let mut plan = Vec::new();
    for (spec, new) in &changed {
        let delta = TensorDelta::between(old(base, spec), new, 2);
        let positions = delta.positions().unwrap_or_default();
        let count = positions.len() as u64;
        metadata.changed_elements = metadata.changed_elements.saturating_add(count);
        let dtype = match flavour {
            Flavour::CGaps if positions::are_wide(positions) => "U32",
            Flavour::CGaps => "U16",
            _ => "I32",
        };
        plan.push(Planned::new(&format!("{}{}", spec.name, flavour.index_suffix()), dtype, &[count]));
        plan.push(Planned::new(&format!("{}{}", spec.name, flavour.value_suffix()), "BF16", &[count]));
    }
    if changed.is_empty() {
        if flavour != Flavour::A {
            return Ok(Written { files: 0, bytes: 0 });
        }
        plan.push(Planned::new(trl::EMPTY, "I32", &[1]));
    }
    plain_file((dest, &[target, base]), &plan, &metadata.of(flavour), limits, |put| {
        for (spec, new) in &changed {
            let delta = TensorDelta::between(old(base, spec), new, 2);
            let listed = delta.positions().unwrap_or_default();
            let listed = match flavour {
                Flavour::CGaps => positions::to_gaps(listed, positions::are_wide(listed)),
                _ => positions::to_u32(listed),
            };
            put(&format!("{}{}", spec.name, flavour.index_suffix()), &listed)?;
            put(&format!("{}{}", spec.name, flavour.value_suffix()), &delta.values)?;
        }
        if changed.is_empty() { put(trl::EMPTY, &[0; 4]) } else { Ok(()) }
    })
}

/// A tensor of a file that is about to be written.
struct Planned {
    name: String,
    dtype: &'static str,
    shape: Vec<u64>,
}

impl Planned {
    fn new(name: &str, dtype: &'static str, shape: &[u64]) -> Self {
        Self { name: name.to_owned(), dtype, shape: shape.to_vec() }
    }
}

/// Puts the bytes of a tensor into a file.
type Put<'p> = dyn Fn(&str, &[u8]) -> Result<(), CheckpointError> + 'p;

/// A safetensors file of these tensors, which `fill` puts there by their names, made of `sources`.
fn plain_file(
    (dest, sources): (&Path, &[&Checkpoint]),
    plan: &[Planned],
    metadata: &BTreeMap<String, String>,
    limits: &Limits,
    fill: impl FnOnce(&Put<'_>) -> Result<(), CheckpointError>,
) -> Result<Written, FormatsError> {
    let schema = |source: SchemaError| CheckpointError::Schema { path: dest.to_owned(), source };
    let specs = plan.iter().map(|planned| {
        let dtype = Dtype::new(planned.dtype).ok_or(SchemaError::TooLarge)?;
        TensorSpec::new(planned.name.as_str(), dtype, planned.shape.clone())
    });
    let specs = specs.collect::<Result<Vec<_>, _>>().map_err(schema)?;
    let mut begin = 0_u64;
    let entries: Vec<Entry<'_>> = plan
        .iter()
        .zip(&specs)
        .map(|(planned, spec)| {
            let end = begin.saturating_add(spec.byte_len);
            let entry =
                Entry { name: &planned.name, dtype: planned.dtype, shape: &planned.shape, begin, end };
            begin = end;
            entry
        })
        .collect();
    let header = safetensors::header(&entries, metadata, 0);
    let bytes = begin.saturating_add(header.len() as u64);
    let schema = Schema::new(specs.clone()).map_err(schema)?;
    let file = FileLayout { name: Layout::SINGLE_FILE.to_owned(), header };
    let layout = Layout::new(vec![file], None)
        .map_err(|source: LayoutError| CheckpointError::Layout { path: dest.to_owned(), source })?;
    let placement = Placement::new(&schema, &layout, limits)?;
    let writer = CheckpointWriter::create(dest, Form::File, &schema, &layout, &placement)?;
    sources.iter().try_for_each(|source| writer.no_more_open_than(source))?;
    fill(&|name, bytes| match schema.find(name) {
        Some(index) => writer.write(index, 0, bytes),
        None => Ok(()),
    })?;
    writer.commit()?;
    Ok(Written { files: 1, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_ends_before_it_is_too_large_and_before_its_header_is() {
        let spec =
            |name: String, len: u64| TensorSpec::new(name, Dtype::new("U8").unwrap(), vec![len]).unwrap();
        let lens = |specs: &[TensorSpec], file_bytes| {
            let tensors: Vec<Tensor<'_>> = specs.iter().map(|spec| (spec, &[][..])).collect();
            in_files(&tensors, file_bytes).iter().map(Vec::len).collect::<Vec<_>>()
        };
        let specs: Vec<_> = [4, 6, 1, 20, 9].map(|len| spec(len.to_string(), len)).into();
        assert_eq!(lens(&specs, 10), [2, 1, 1, 1]);
        assert_eq!(lens(&specs, 0), [1; 5]);
        assert!(lens(&[], 10).is_empty());
        let specs: Vec<_> = (0..230).map(|number| spec(format!("{number:065535}"), 1)).collect();
        assert_eq!(lens(&specs, u64::MAX), [114, 114, 2]);
    }
}
