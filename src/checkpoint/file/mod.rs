//! The file of a checkpoint: safetensors, with a checksum as its last tensor.

mod reader;
mod writer;

use std::path::Path;

use safetensors::tensor::{Dtype, Metadata};

use crate::error::Error;

pub(crate) use reader::CheckpointFile;
pub(super) use writer::write;

/// The key of the header in the file's metadata.
const KEY: &str = "checkpoint";
const CHECKSUM: &str = "checksum";
const CHECKSUM_LEN: usize = 32;
const HISTORY: &str = "history.";
/// Before the name of a score, and what follows it: its steps and its values.
const SCORES: &str = "history.scores.";
const SCORE_STEPS: &str = ".step";
const SCORE_VALUES: &str = ".value";

fn ends_with_checksum(layout: &Metadata) -> bool {
    let end = layout.data_len();
    layout.info(CHECKSUM).is_some_and(|info| {
        info.dtype == Dtype::U8 && info.data_offsets == (end.wrapping_sub(CHECKSUM_LEN), end)
    })
}

fn damaged(path: &Path, problem: impl Into<String>) -> Error {
    Error::Format { path: path.to_path_buf(), problem: problem.into() }
}

pub(in crate::checkpoint) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use candle_core::{DType, Device, Tensor};
    use safetensors::tensor::View;

    use super::super::{Checkpoint, FORMAT_VERSION, Header, history_columns};
    use super::writer::to_bytes;
    use super::*;
    use crate::error::Result;
    use crate::files;

    fn checkpoint(rows: u64) -> Checkpoint {
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        let record = |step| history_columns::record(step, [0.1, f64::NAN, -0.0, 4.0, 5.0, 6.0]);
        Checkpoint {
            header: Header {
                format_version: FORMAT_VERSION,
                wgan_version: "0.1.0".into(),
                generator_steps: rows,
                critic_steps: 5 * rows,
                config: serde_json::json!({"seed": u64::MAX}),
                data: None,
            },
            tensors: BTreeMap::from([
                ("critic.b".to_owned(), tensor(&[f32::from_bits(0x7fc0_1234)])),
                ("generator.a".to_owned(), tensor(&[1.0, -0.0, 3.5])),
                ("generator.none".to_owned(), tensor(&[])),
            ]),
            history: (1..=rows).map(record).collect(),
        }
    }

    #[test]
    fn scores_come_back_at_their_steps() -> Result<()> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.safetensors");
        let mut written = checkpoint(9);
        let fid = "frechet_distance (mnist-cnn-1)".to_owned();
        for (step, name, value) in [
            (2, fid.clone(), 9.5),
            (4, fid.clone(), f64::NAN),
            (4, "a.step".into(), -0.0),
            (9, fid, 0.1),
        ] {
            written.history[step - 1].scores.insert(name, value);
        }
        written.write(&path)?;
        let read = Checkpoint::read(&path)?;
        let scores = |checkpoint: &Checkpoint| format!("{:?}", checkpoint.history);
        assert_eq!(scores(&read), scores(&written));
        assert_eq!(to_bytes(&read, &path)?, to_bytes(&written, &path)?, "the same bytes again");
        Ok(())
    }

    fn bits(checkpoint: &Checkpoint) -> Vec<Vec<u64>> {
        let row = |record| {
            let (step, figures) = history_columns::figures(record);
            std::iter::once(step).chain(figures.map(|(_, x)| x.to_bits())).collect()
        };
        checkpoint.history.iter().map(row).collect()
    }

    #[test]
    fn everything_comes_back() -> Result<()> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.safetensors");
        for rows in [0, 1, 1000] {
            let written = checkpoint(rows);
            written.write(&path)?;
            let read = Checkpoint::read(&path)?;
            assert_eq!(read.header, written.header);
            assert_eq!(bits(&read), bits(&written));
            assert_eq!(
                read.tensors.keys().collect::<Vec<_>>(),
                written.tensors.keys().collect::<Vec<_>>()
            );
            for (name, tensor) in &read.tensors {
                assert_eq!(View::data(tensor), View::data(&written.tensors[name]), "{name}");
                assert_eq!(tensor.dims(), written.tensors[name].dims());
            }
            assert_eq!(to_bytes(&read, &path)?, to_bytes(&written, &path)?, "the same bytes again");
        }
        Ok(())
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config {
            failure_persistence: None,
            ..Default::default()
        })]

        /// Whatever figures and values there are, each bit of them comes back.
        #[test]
        fn any_numbers_come_back(
            rows in proptest::collection::vec((1u64..1000, proptest::prelude::any::<[u64; 6]>()), 0..40),
            values in proptest::collection::vec(proptest::prelude::any::<u32>(), 0..50),
        ) {
            let mut step = 0;
            let mut written = checkpoint(0);
            written.history = (rows.into_iter())
                .map(|(more, bits)| {
                    step += more;
                    history_columns::record(step, bits.map(f64::from_bits))
                })
                .collect();
            written.header.generator_steps = step;
            let values: Vec<f32> = values.into_iter().map(f32::from_bits).collect();
            let tensor = Tensor::new(values.as_slice(), &Device::Cpu).unwrap();
            written.tensors.insert("generator.w".into(), tensor.clone());
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.safetensors");
            written.write(&path).unwrap();
            let read = Checkpoint::read(&path).unwrap();
            proptest::prop_assert_eq!(bits(&read), bits(&written));
            proptest::prop_assert_eq!(View::data(&read.tensors["generator.w"]), View::data(&tensor));
        }
    }

    /// A header of our own making under a checksum that fits it.
    fn forged(change: impl FnOnce(&mut Checkpoint)) -> Error {
        let mut checkpoint = checkpoint(3);
        change(&mut checkpoint);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.safetensors");
        checkpoint.write(&path).unwrap();
        Checkpoint::read(&path).unwrap_err()
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (error, expected) in [
            (
                forged(|c| c.header.format_version = 2),
                "format version 2, written by wgan \"0.1.0\"; expected 1",
            ),
            (forged(|c| c.header.format_version = 0), "its format version is 0"),
            (forged(|c| c.header.generator_steps = 2), "does not grow up to the 2 steps done"),
            (forged(|c| c.history.swap(0, 1)), "does not grow"),
        ] {
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn other_files_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.safetensors");
        let weights =
            BTreeMap::from([("w".to_owned(), Tensor::zeros(4, DType::F32, &Device::Cpu).unwrap())]);
        files::write_safetensors(&path, &weights).unwrap();
        let refused = |expected: &str| {
            let error = Checkpoint::read(&path).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("a.safetensors"), "{error}");
        };
        refused("not weights alone");
        std::fs::write(&path, "").unwrap();
        refused("has 0 bytes");
        std::fs::write(&path, u64::MAX.to_le_bytes()).unwrap();
        refused("promises a header of 18446744073709551615");
        let mut whole = to_bytes(&checkpoint(3), &path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        refused("was cut short");
        let middle = whole.len() - 100;
        whole[middle] ^= 1;
        std::fs::write(&path, &whole).unwrap();
        refused("was altered or damaged");
        let error = Checkpoint::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("is no file"), "{error}");
    }
}
