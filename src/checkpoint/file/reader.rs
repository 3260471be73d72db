//! Reading, on the terms that nothing in a file is to be believed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use sha2::{Digest, Sha256};

use super::super::{Checkpoint, FORMAT_VERSION, Header, history_columns};
use super::{
    CHECKSUM, CHECKSUM_LEN, HISTORY, KEY, SCORE_STEPS, SCORE_VALUES, SCORES, damaged,
    ends_with_checksum, hex,
};
use crate::error::{Error, Result};
use crate::history::History;

/// What JSON's readers agree on; a step a microsecond comes to it in 285 years.
const MAX_STEPS: u64 = 1 << 53;
/// Before the header: its length.
const PREFIX: u64 = 8;
/// Some 100,000 tensors; far above any model's, and what a header may at most cost in memory.
const MAX_HEADER: u64 = 16 << 20;

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
        let mut history: History = steps
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
        self.scores(&mut history)?;
        Ok(history)
    }

    /// Puts what observers measured into the records of its steps.
    fn scores(&mut self, history: &mut History) -> Result<()> {
        let named =
            |name: String| name.strip_prefix(SCORES)?.strip_suffix(SCORE_VALUES).map(str::to_owned);
        let names: Vec<String> = self.layout.tensors().into_keys().filter_map(named).collect();
        for name in names {
            let column = |end: &str| format!("{}{name}{end}", &SCORES[HISTORY.len()..]);
            let steps = self.column(&column(SCORE_STEPS), Dtype::U64)?;
            let values = self.column(&column(SCORE_VALUES), Dtype::F64)?;
            if steps.len() != values.len() {
                let problem =
                    format!("{SCORES}{name} has {} steps, {} values", steps.len(), values.len());
                return Err(damaged(&self.path, problem));
            }
            for (step, bits) in steps.into_iter().zip(values) {
                let Ok(row) = history.binary_search_by_key(&step, |record| record.step) else {
                    let problem =
                        format!("{SCORES}{name} has a step that history.step lacks: {step}");
                    return Err(damaged(&self.path, problem));
                };
                history[row].scores.insert(name.clone(), f64::from_bits(bits));
            }
        }
        Ok(())
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
                let got = other
                    .map_or("absent".into(), |info| format!("{:?} of {}", info.shape, info.dtype));
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
                "is no safetensors file or was damaged: {error}; expected a checkpoint of this crate"
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
        return fail(format!(
            "was cut short or lengthened: it has {len} bytes; expected {expected}"
        ));
    }
    if !ends_with_checksum(&layout) {
        return fail(format!("has no `{CHECKSUM}` of {CHECKSUM_LEN} bytes at its end"));
    }
    Ok((header, layout, data_start))
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
