//! Reading some tensors and rows of a version by byte ranges.

use std::path::{Path, PathBuf};

use crate::support::{World, safetensors, v, values};
use tensorpatch_store::{Publisher, StoreError};

/// Three tensors: one of several chunks, one of one chunk, one that never changes.
fn tensors(step: u64) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("big", values(1, step, 1_400_000)),
        ("small", values(2, step, 5_000)),
        ("frozen", values(3, 0, 700_000)),
    ]
}

fn write(dir: &Path, step: u64) -> PathBuf {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("model.safetensors"), safetensors(&tensors(step))).unwrap();
    dir.to_owned()
}

async fn published(steps: u64) -> (World, Publisher) {
    let world = World::new().await;
    let publisher = world.publisher().await;
    for step in 1..=steps {
        publisher.publish(&write(&world.path("checkpoint"), step)).await.unwrap();
    }
    (world, publisher)
}

#[tokio::test(flavor = "multi_thread")]
async fn tensors_rows_and_ranges_are_those_of_the_version_and_little_else_is_fetched() {
    let (world, publisher) = published(4).await;
    for version in [1, 2, 4] {
        let commit = world.stream.commit(v(version)).await.unwrap().unwrap();
        for (name, expected) in tensors(version) {
            let ranges = world.stream.range_reader(&commit, &Default::default()).await.unwrap();
            let opened = ranges.fetched_bytes();
            assert!(opened < 20_000, "{opened} bytes to open");
            assert!(ranges.read_tensor(name).await.unwrap() == expected, "{name} of version {version}");
            let half = expected.len() as u64 / 4;
            let rows = ranges.read_rows(name, 7..half).await.unwrap();
            assert!(rows == expected[14..expected.len() / 2], "rows of {name}");
            assert!(ranges.read(name, 5..5).await.unwrap().is_empty());
            let across = (1 << 20) - 3..(1 << 20) + 3;
            if expected.len() as u64 > across.end {
                let bytes = ranges.read(name, across.clone()).await.unwrap();
                assert_eq!(bytes, expected[(1 << 20) - 3..(1 << 20) + 3]);
            }
        }
        let ranges = world.stream.range_reader(&commit, &Default::default()).await.unwrap();
        let before = ranges.fetched_bytes();
        ranges.read_rows("small", 0..10).await.unwrap();
        assert!(ranges.fetched_bytes() - before < 120_000, "one chunk, and a block for each delta");
    }
    // From an anchor of the version itself, too.
    publisher.add_anchor().await.unwrap();
    let tip = world.stream.tip().await.unwrap().unwrap();
    let ranges = world.stream.range_reader(&tip, &Default::default()).await.unwrap();
    assert!(ranges.read_tensor("big").await.unwrap() == tensors(4)[0].1);
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_that_are_not_there_are_refused() {
    let (world, _) = published(1).await;
    let tip = world.stream.tip().await.unwrap().unwrap();
    let ranges = world.stream.range_reader(&tip, &Default::default()).await.unwrap();
    for result in [
        ranges.read_tensor("none").await,
        ranges.read("small", 0..10_001).await,
        ranges.read_rows("small", 0..5_001).await,
        ranges.read_rows("small", 0..u64::MAX).await,
    ] {
        assert!(matches!(result, Err(StoreError::NoSuchRange { .. })));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_anything_that_is_read_is_noticed() {
    let (world, _) = published(3).await;
    let tip = world.stream.tip().await.unwrap().unwrap();
    let mut files = Vec::new();
    let mut dirs = vec![world.path("bucket/anchors"), world.path("bucket/patches")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { dirs.push(path) } else { files.push(path) }
        }
    }
    assert_eq!(files.len(), 4);
    for path in files {
        let good = std::fs::read(&path).unwrap();
        for step in 0..40 {
            let mut bad = good.clone();
            let at = step * (bad.len() - 1) / 39;
            bad[at] ^= 1 << (step % 8);
            std::fs::write(&path, &bad).unwrap();
            let read = async {
                let ranges = world.stream.range_reader(&tip, &Default::default()).await?;
                let mut all = Vec::new();
                for (name, _) in tensors(3) {
                    all.push(ranges.read_tensor(name).await?);
                }
                Ok::<_, StoreError>(all)
            };
            // What is not read is not noticed, and does no harm.
            if let Ok(read) = read.await {
                let expected: Vec<_> = tensors(3).into_iter().map(|(_, bytes)| bytes).collect();
                assert!(read == expected, "byte {at} of {}", path.display());
            }
        }
        std::fs::write(&path, &good).unwrap();
    }
}
