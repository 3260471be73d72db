//! The file of a checkpoint: safetensors, with a checksum as its last tensor.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, Metadata, TensorInfo, View};
use sha2::{Digest, Sha256};

use super::{Checkpoint, FORMAT_VERSION, Header, history_columns};
use crate::error::{Error, Result};
use crate::files;
use crate::history::History;

/// The key of the header in the file's metadata.
const KEY: &str = "checkpoint";
const CHECKSUM: &str = "checksum";
const CHECKSUM_LEN: usize = 32;
const HISTORY: &str = "history.";
/// What JSON's readers agree on; a step a microsecond comes to it in 285 years.
const MAX_STEPS: u64 = 1 << 53;
/// Before the header: its length.
const PREFIX: u64 = 8;
/// Some 100,000 tensors; far above any model's, and what a header may at most cost in memory.
const MAX_HEADER: u64 = 16 << 20;

/// One tensor of a file that is to be written.
enum Column {
    Tensor(Tensor),
    Bytes { dtype: Dtype, len: usize, bytes: Vec<u8> },
}

impl View for Column {
    fn dtype(&self) -> Dtype {
        match self {
            Self::Tensor(tensor) => View::dtype(tensor),
            Self::Bytes { dtype, .. } => *dtype,
        }
    }

    fn shape(&self) -> &[usize] {
        match self {
            Self::Tensor(tensor) => View::shape(tensor),
            Self::Bytes { len, .. } => std::slice::from_ref(len),
        }
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Tensor(tensor) => View::data(tensor),
            Self::Bytes { bytes, .. } => bytes.into(),
        }
    }

    fn data_len(&self) -> usize {
        match self {
            Self::Tensor(tensor) => View::data_len(tensor),
            Self::Bytes { bytes, .. } => bytes.len(),
        }
    }
}

/// Writes a checkpoint, whole or not at all.
pub(super) fn write(checkpoint: &Checkpoint, path: &Path) -> Result<()> {
    files::write_atomically(path, &to_bytes(checkpoint, path)?)
}

fn to_bytes(checkpoint: &Checkpoint, path: &Path) -> Result<Vec<u8>> {
    let fail = |error: &dyn std::fmt::Display| Error::Format {
        path: path.to_path_buf(),
        problem: format!("the checkpoint cannot be written as safetensors: {error}"),
    };
    let mut columns: Vec<(String, Column)> = history_to_columns(&checkpoint.history);
    for (name, tensor) in &checkpoint.tensors {
        // Serialising panics where a copy from the device fails: it is made here, where it returns an error.
        columns.push((name.clone(), Column::Tensor(tensor.to_device(&Device::Cpu)?)));
    }
    let empty = vec![0; CHECKSUM_LEN];
    let checksum = Column::Bytes { dtype: Dtype::U8, len: CHECKSUM_LEN, bytes: empty };
    columns.push((CHECKSUM.into(), checksum));

    let header = serde_json::to_string(&checkpoint.header).map_err(|e| fail(&e))?;
    let metadata = HashMap::from([(KEY.to_owned(), header)]);
    let mut bytes = safetensors::serialize(columns, Some(metadata)).map_err(|e| fail(&e))?;
    // The format puts the widest types first, so that the only tensor of single bytes is the last.
    let (_, layout) = safetensors::SafeTensors::read_metadata(&bytes).map_err(|e| fail(&e))?;
    if !ends_with_checksum(&layout) {
        return Err(fail(&"the checksum is not the last tensor: another one is of type U8"));
    }
    let end = bytes.len() - CHECKSUM_LEN;
    let digest = Sha256::digest(&bytes[..end]);
    bytes[end..].copy_from_slice(&digest);
    Ok(bytes)
}

fn history_to_columns(history: &History) -> Vec<(String, Column)> {
    let column = |dtype, numbers: &mut dyn Iterator<Item = [u8; 8]>| Column::Bytes {
        dtype,
        len: history.len(),
        bytes: numbers.flatten().collect(),
    };
    let mut steps = history.iter().map(|record| record.step.to_le_bytes());
    let mut columns = vec![(format!("{HISTORY}step"), column(Dtype::U64, &mut steps))];
    for (index, name) in history_columns::names().into_iter().enumerate() {
        let mut numbers = history
            .iter()
            .map(|record| history_columns::figures(record).1[index].1.to_le_bytes());
        columns.push((format!("{HISTORY}{name}"), column(Dtype::F64, &mut numbers)));
    }
    columns
}

/// A file that is whole, unaltered and of a format that is known; its tensors are not read yet.
#[derive(Debug)]
pub(crate) struct CheckpointFile {
    path: PathBuf,
    file: File,
    header: Header,
    layout: Metadata,
    /// Where the tensors begin.
    data_start: u64,
}

impl CheckpointFile {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let io = |e| Error::io(path, "reading the file", e);
        // Not a pipe, which might never end, nor a folder.
        let kind = std::fs::metadata(path).map_err(io)?;
        if !kind.is_file() {
            return Err(damaged(path, "is no file; expected a checkpoint"));
        }
        let mut file = File::open(path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();

        let sum = Checksum::of(&mut file, len).map_err(io)?;
        let parsed = parse(path, &mut file, len);
        let intact = sum.is_some_and(|sum| sum.stored == sum.computed);
        let (header, layout, data_start) = match (intact, parsed) {
            (true, Ok(parsed)) => parsed,
            // Whatever else is wrong with it comes from that.
            (false, Ok(_)) => {
                let Checksum { stored, computed } = sum.unwrap_or_default();
                return Err(damaged(
                    path,
                    format!(
                        "was altered or damaged: its checksum is {}..., that of its content {}...; expected a \
                         checkpoint as it was written",
                        hex(&stored[..8]),
                        hex(&computed[..8])
                    ),
                ));
            }
            (_, Err(error)) => return Err(error),
        };
        Ok(Self { path: path.to_path_buf(), file, header, layout, data_start })
    }

    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    pub(crate) fn layout(&self) -> &Metadata {
        &self.layout
    }

    /// Whether a tensor belongs to the file and not to the run.
    pub(crate) fn is_bookkeeping(name: &str) -> bool {
        name == CHECKSUM || name.starts_with(HISTORY)
    }

    /// Reads the tensors, onto the CPU.
    pub(crate) fn load(mut self) -> Result<Checkpoint> {
        let history = self.history()?;
        let mut tensors = BTreeMap::new();
        let stored: Vec<(String, TensorInfo)> = (self.layout.tensors().into_iter())
            .filter(|(name, _)| !Self::is_bookkeeping(name))
            .map(|(name, info)| (name, info.clone()))
            .collect();
        for (name, info) in stored {
            let dtype = match info.dtype {
                Dtype::F64 => DType::F64,
                Dtype::F32 => DType::F32,
                Dtype::F16 => DType::F16,
                Dtype::BF16 => DType::BF16,
                Dtype::I64 => DType::I64,
                Dtype::I32 => DType::I32,
                Dtype::U32 => DType::U32,
                Dtype::U8 => DType::U8,
                other => {
                    let problem = format!("{name} is of type {other}, which no tensor here has");
                    return Err(damaged(&self.path, problem));
                }
            };
            let bytes = self.bytes(&info)?;
            let tensor = Tensor::from_raw_buffer(&bytes, dtype, &info.shape, &Device::Cpu)?;
            tensors.insert(name, tensor);
        }
        Ok(Checkpoint { header: self.header, tensors, history })
    }

    /// The bytes of one tensor, whose place the layout holds to be inside the file.
    fn bytes(&mut self, info: &TensorInfo) -> Result<Vec<u8>> {
        let (first, end) = info.data_offsets;
        let mut bytes = vec![0; end - first];
        let start = SeekFrom::Start(self.data_start + first as u64);
        (self.file.seek(start).and_then(|_| self.file.read_exact(&mut bytes)))
            .map_err(|e| Error::io(&self.path, "reading the file", e))?;
        Ok(bytes)
    }

    fn history(&mut self) -> Result<History> {
        let steps = self.column("step", Dtype::U64)?;
        let mut figures = Vec::new();
        for name in history_columns::names() {
            let column = self.column(name, Dtype::F64)?;
            if column.len() != steps.len() {
                let problem = format!(
                    "history.{name} has {} rows; expected {}, as history.step has",
                    column.len(),
                    steps.len()
                );
                return Err(damaged(&self.path, problem));
            }
            figures.push(column);
        }
        let history: History = steps
            .iter()
            .enumerate()
            .map(|(row, &step)| {
                let figure = |index: usize| f64::from_bits(figures[index][row]);
                history_columns::record(step, std::array::from_fn(figure))
            })
            .collect();
        let done = self.header.generator_steps;
        let grows = history.windows(2).all(|pair| pair[0].step < pair[1].step);
        if !grows || history.last().is_some_and(|last| last.step > done) {
            let problem = format!("history.step does not grow up to the {done} steps done");
            return Err(damaged(&self.path, problem));
        }
        Ok(history)
    }

    fn column(&mut self, name: &str, dtype: Dtype) -> Result<Vec<u64>> {
        let name = format!("{HISTORY}{name}");
        match self.layout.info(&name).cloned() {
            Some(info) if info.dtype == dtype && info.shape.len() == 1 => {
                let bytes = self.bytes(&info)?;
                let (numbers, _) = bytes.as_chunks::<8>();
                Ok(numbers.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect())
            }
            other => {
                let got = other.map_or("absent".into(), |info| {
                    format!("{:?} of {}", info.shape, info.dtype)
                });
                Err(damaged(&self.path, format!("{name} is {got}; expected one row of {dtype}")))
            }
        }
    }
}

/// What the last bytes say and what those before them come to.
#[derive(Clone, Copy, Default)]
struct Checksum {
    stored: [u8; CHECKSUM_LEN],
    computed: [u8; CHECKSUM_LEN],
}

impl Checksum {
    /// Goes over the whole file in little memory; nothing where it is too short.
    fn of(file: &mut File, len: u64) -> std::io::Result<Option<Self>> {
        let Some(content) = len.checked_sub(CHECKSUM_LEN as u64) else {
            return Ok(None);
        };
        file.seek(SeekFrom::Start(0))?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; (1 << 20).min(content) as usize];
        let mut left = content;
        while left > 0 {
            let part = &mut buffer[..(1 << 20).min(left) as usize];
            file.read_exact(part)?;
            hash.update(&*part);
            left -= part.len() as u64;
        }
        let mut stored = [0; CHECKSUM_LEN];
        file.read_exact(&mut stored)?;
        Ok(Some(Self { stored, computed: hash.finalize().into() }))
    }
}

/// The header, the places of the tensors and where they begin.
fn parse(path: &Path, file: &mut File, len: u64) -> Result<(Header, Metadata, u64)> {
    let io = |e| Error::io(path, "reading the file", e);
    let fail = |problem: String| Err(damaged(path, problem));
    let mut prefix = [0; PREFIX as usize];
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    let mut reader = BufReader::new(file);
    if len < PREFIX {
        return fail(format!("has {len} bytes; expected a checkpoint"));
    }
    reader.read_exact(&mut prefix).map_err(io)?;
    let header_len = u64::from_le_bytes(prefix);
    if header_len > MAX_HEADER || header_len > len - PREFIX {
        return fail(format!(
            "has {len} bytes and promises a header of {header_len}: it was cut short or is no checkpoint; expected \
             at most {MAX_HEADER}, within the file"
        ));
    }
    let mut text = vec![0; header_len as usize];
    reader.read_exact(&mut text).map_err(io)?;
    let layout: Metadata = match serde_json::from_slice(&text) {
        Ok(layout) => layout,
        Err(error) => {
            return fail(format!(
                "is not a safetensors file: {error}; expected a checkpoint of this crate"
            ));
        }
    };
    let Some(about) = layout.metadata().as_ref().and_then(|metadata| metadata.get(KEY)) else {
        return fail(format!(
            "has no `{KEY}` in its metadata; expected a checkpoint of this crate, not weights alone"
        ));
    };
    let header = header(about).map_err(|problem| damaged(path, problem))?;
    let data_start = PREFIX + header_len;
    let expected = data_start.checked_add(layout.data_len() as u64);
    if expected != Some(len) {
        let expected = expected.map_or("more".into(), |bytes| bytes.to_string());
        return fail(format!("was cut short or lengthened: it has {len} bytes; expected {expected}"));
    }
    if !ends_with_checksum(&layout) {
        return fail(format!("has no `{CHECKSUM}` of {CHECKSUM_LEN} bytes at its end"));
    }
    Ok((header, layout, data_start))
}

fn ends_with_checksum(layout: &Metadata) -> bool {
    let end = layout.data_len();
    layout.info(CHECKSUM).is_some_and(|info| {
        info.dtype == Dtype::U8 && info.data_offsets == (end.wrapping_sub(CHECKSUM_LEN), end)
    })
}

fn header(text: &str) -> Result<Header, String> {
    let value: serde_json::Value =
        serde_json::from_str(text).map_err(|e| format!("its `{KEY}` metadata is no JSON: {e}"))?;
    let field = |name: &str| value.get(name).map_or("absent".into(), ToString::to_string);
    match value.get("format_version").and_then(serde_json::Value::as_u64) {
        Some(1..=FORMAT_VERSION) => {}
        Some(newer) if newer > FORMAT_VERSION => {
            return Err(format!(
                "is of format version {newer}, written by wgan {}; expected {FORMAT_VERSION} or less, which is what \
                 wgan {} reads",
                field("wgan_version"),
                env!("CARGO_PKG_VERSION")
            ));
        }
        _ => {
            let version = field("format_version");
            return Err(format!("its format version is {version}; expected 1 to {FORMAT_VERSION}"));
        }
    }
    let header: Header = serde_json::from_value(value)
        .map_err(|e| format!("its `{KEY}` metadata is incomplete: {e}"))?;
    for steps in [header.generator_steps, header.critic_steps] {
        if steps > MAX_STEPS {
            return Err(format!("is of step {steps}; expected {MAX_STEPS} or less"));
        }
    }
    Ok(header)
}

fn damaged(path: &Path, problem: impl Into<String>) -> Error {
    Error::Format { path: path.to_path_buf(), problem: problem.into() }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(read.tensors.keys().collect::<Vec<_>>(), written.tensors.keys().collect::<Vec<_>>());
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
            (forged(|c| c.header.format_version = 2), "format version 2, written by wgan \"0.1.0\"; expected 1"),
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
        let weights = BTreeMap::from([("w".to_owned(), Tensor::zeros(4, DType::F32, &Device::Cpu).unwrap())]);
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
