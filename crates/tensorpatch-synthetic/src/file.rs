//! Synthetic checkpoints as safetensors files.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::model::{Model, Tensor};
use crate::piece::{Piece, pieces};
use crate::run::join;
use crate::{Config, Dtype, Run};

/// Writes the current step of a run as one safetensors file.
///
/// # Errors
/// Whatever the file system reports.
pub fn write_run(run: &Run, path: &Path) -> io::Result<()> {
    let tensors: Vec<usize> = (0..run.model().tensors.len()).collect();
    write_file(run, &tensors, path)
}

/// Writes the current step of a run as a Hugging Face directory: shards of about `shard_bytes` bytes of
/// tensor data, each tensor whole, and `model.safetensors.index.json`. The directory is created if need be.
///
/// # Errors
/// Whatever the file system reports.
pub fn write_run_sharded(run: &Run, directory: &Path, shard_bytes: u64) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let mut shards: Vec<Vec<usize>> = Vec::new();
    let mut room = 0_u64;
    for (index, tensor) in run.model().tensors.iter().enumerate() {
        let size = byte_len(tensor, run.dtype());
        match shards.last_mut() {
            Some(shard) if size <= room => shard.push(index),
            _ => {
                shards.push(vec![index]);
                room = shard_bytes;
            }
        }
        room = room.saturating_sub(size);
    }
    let total: u64 = run.model().tensors.iter().map(|tensor| byte_len(tensor, run.dtype())).sum();
    let mut map = Vec::new();
    for (number, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", number + 1, shards.len());
        write_file(run, shard, &directory.join(&name))?;
        map.extend(
            shard.iter().map(|&index| format!("    \"{}\": \"{name}\"", run.model().tensors[index].name)),
        );
    }
    map.sort();
    let index = format!(
        "{{\n  \"metadata\": {{\n    \"total_size\": {total}\n  }},\n  \"weight_map\": {{\n{}\n  }}\n}}\n",
        map.join(",\n")
    );
    std::fs::write(directory.join("model.safetensors.index.json"), index)
}

/// Writes two checkpoints that lie `steps` steps apart, as [`write_series`] does.
///
/// # Errors
/// Whatever the file system reports.
pub fn write_pair(config: &Config, steps: u64, base: &Path, target: &Path) -> io::Result<()> {
    write_series(config, steps, &[base, target])
}

/// Writes checkpoints of one run, each `steps` steps behind the one before, without ever holding more
/// than a few pieces of 256 Ki elements, so that checkpoints of any size can be made. The bytes are
/// those of [`Run`] with the same configuration.
///
/// # Errors
/// Whatever the file system reports.
pub fn write_series(config: &Config, steps: u64, paths: &[&Path]) -> io::Result<()> {
    let model = Model::new(config);
    let tensors: Vec<&Tensor> = model.tensors.iter().collect();
    let header = header(&tensors, config.dtype);
    let mut files =
        paths.iter().map(|path| File::create(path).map(BufWriter::new)).collect::<io::Result<Vec<_>>>()?;
    for file in &mut files {
        file.write_all(&header)?;
    }

    let plan: Vec<_> = model
        .tensors
        .iter()
        .enumerate()
        .flat_map(|(index, tensor)| pieces(tensor).map(move |rows| (index, tensor, rows)))
        .collect();
    for group in plan.chunks(config.threads.get()) {
        let done = std::thread::scope(|scope| {
            let workers: Vec<_> = group
                .iter()
                .map(|(index, tensor, rows)| {
                    scope.spawn(move || {
                        let mut piece = Piece::new(config.seed, *index, tensor, rows.clone());
                        let cast = |piece: &Piece| {
                            let mut bytes = Vec::new();
                            config.dtype.cast(piece.weights(), piece.row(), &mut bytes);
                            bytes
                        };
                        let mut all = vec![cast(&piece)];
                        for _ in 1..paths.len() {
                            for _ in 0..steps {
                                piece.step(config.learning_rate);
                            }
                            all.push(cast(&piece));
                        }
                        all
                    })
                })
                .collect();
            workers.into_iter().map(join).collect::<Vec<_>>()
        });
        for all in done {
            for (file, bytes) in files.iter_mut().zip(all) {
                file.write_all(&bytes)?;
            }
        }
    }
    files.iter_mut().try_for_each(Write::flush)
}

fn write_file(run: &Run, tensors: &[usize], path: &Path) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let specs: Vec<&Tensor> = tensors.iter().map(|&index| &run.model().tensors[index]).collect();
    file.write_all(&header(&specs, run.dtype()))?;
    let mut buffer = Vec::new();
    for &index in tensors {
        for piece in run.tensor_pieces(index) {
            buffer.clear();
            run.dtype().cast(piece.weights(), piece.row(), &mut buffer);
            file.write_all(&buffer)?;
        }
    }
    file.flush()
}

/// The header of a safetensors file: the length, then JSON padded with spaces to a multiple of eight bytes.
/// The names need no escaping: this crate made them.
fn header(tensors: &[&Tensor], dtype: Dtype) -> Vec<u8> {
    let mut json = String::from("{\"__metadata__\":{\"format\":\"pt\"}");
    let mut offset = 0;
    for tensor in tensors {
        let end = offset + byte_len(tensor, dtype);
        let mut shape = tensor.shape.clone();
        if let Some(columns) = shape.last_mut() {
            *columns /= dtype.packed();
        }
        let shape: Vec<String> = shape.iter().map(usize::to_string).collect();
        let _ = write!(
            json,
            ",\"{}\":{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{offset},{end}]}}",
            tensor.name,
            dtype.name(),
            shape.join(",")
        );
        offset = end;
    }
    json.push('}');
    while json.len() % 8 != 0 {
        json.push(' ');
    }
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend_from_slice(json.as_bytes());
    header
}

fn byte_len(tensor: &Tensor, dtype: Dtype) -> u64 {
    tensor.elements() as u64 * dtype.bits() as u64 / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_written_in_pieces_is_the_pair_of_the_run() {
        let config = Config { bytes: 3 << 20, seed: 9, ..Config::default() };
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        write_pair(&config, 2, &path("a"), &path("b")).unwrap();
        let mut run = Run::new(&config);
        write_run(&run, &path("c")).unwrap();
        run.step();
        run.step();
        write_run(&run, &path("d")).unwrap();
        assert!(std::fs::read(path("a")).unwrap() == std::fs::read(path("c")).unwrap());
        assert!(std::fs::read(path("b")).unwrap() == std::fs::read(path("d")).unwrap());
        assert!(std::fs::read(path("a")).unwrap() != std::fs::read(path("b")).unwrap());
    }

    #[test]
    fn pairs_of_every_dtype_have_the_length_that_their_header_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for dtype in Dtype::ALL {
            let config = Config { bytes: 1 << 20, dtype, learning_rate: 1e-4, ..Config::default() };
            write_pair(&config, 1, &path("a"), &path("b")).unwrap();
            let (a, b) = (std::fs::read(path("a")).unwrap(), std::fs::read(path("b")).unwrap());
            assert!(a != b, "{dtype:?}");
            assert_eq!(a.len(), b.len());
            let header = usize::try_from(u64::from_le_bytes(a[..8].try_into().unwrap())).unwrap();
            let json = std::str::from_utf8(&a[8..8 + header]).unwrap();
            let end = json.rsplit_once(',').unwrap().1.trim_end().trim_end_matches(['}', ']']);
            assert_eq!(a.len(), 8 + header + end.parse::<usize>().unwrap(), "{dtype:?}");
        }
    }

    #[test]
    fn shards_hold_every_tensor_once_and_the_same_bytes() {
        let run = Run::new(&Config { bytes: 1 << 20, ..Config::default() });
        let dir = tempfile::tempdir().unwrap();
        write_run_sharded(&run, dir.path(), 300_000).unwrap();
        let index = std::fs::read_to_string(dir.path().join("model.safetensors.index.json")).unwrap();
        let mut total = 0;
        let mut shards = 0;
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "safetensors") {
                let bytes = std::fs::read(&path).unwrap();
                let json_len = u64::from_le_bytes(bytes[..8].try_into().unwrap());
                total += bytes.len() as u64 - 8 - json_len;
                shards += 1;
                assert!(index.contains(path.file_name().unwrap().to_str().unwrap()));
            }
        }
        assert_eq!(total, run.model().elements() as u64 * 2);
        assert!(shards > 2, "{shards} shards");
        for tensor in &run.model().tensors {
            assert_eq!(index.matches(&format!("\"{}\"", tensor.name)).count(), 1);
        }
    }
}
