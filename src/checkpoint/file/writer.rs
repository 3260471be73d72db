//! Writing.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use candle_core::{Device, Tensor};
use safetensors::tensor::{Dtype, View};
use sha2::{Digest, Sha256};

use super::super::{Checkpoint, history_columns};
use super::{
    CHECKSUM, CHECKSUM_LEN, HISTORY, KEY, SCORE_STEPS, SCORE_VALUES, SCORES, ends_with_checksum,
};
use crate::error::{Error, Result};
use crate::files;
use crate::history::History;

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
pub(in crate::checkpoint) fn write(checkpoint: &Checkpoint, path: &Path) -> Result<()> {
    files::write_atomically(path, &to_bytes(checkpoint, path)?)
}

pub(super) fn to_bytes(checkpoint: &Checkpoint, path: &Path) -> Result<Vec<u8>> {
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
    let column = |dtype, numbers: &mut dyn Iterator<Item = [u8; 8]>| {
        let bytes: Vec<u8> = numbers.flatten().collect();
        Column::Bytes { dtype, len: bytes.len() / 8, bytes }
    };
    let mut steps = history.iter().map(|record| record.step.to_le_bytes());
    let mut columns = vec![(format!("{HISTORY}step"), column(Dtype::U64, &mut steps))];
    for (index, name) in history_columns::names().into_iter().enumerate() {
        let mut numbers =
            history.iter().map(|record| history_columns::figures(record).1[index].1.to_le_bytes());
        columns.push((format!("{HISTORY}{name}"), column(Dtype::F64, &mut numbers)));
    }
    let scores: BTreeSet<&String> =
        history.iter().flat_map(|record| record.scores.keys()).collect();
    for name in scores {
        let given = || history.iter().filter_map(|r| Some((r.step, *r.scores.get(name)?)));
        let steps = column(Dtype::U64, &mut given().map(|(step, _)| step.to_le_bytes()));
        let values = column(Dtype::F64, &mut given().map(|(_, value)| value.to_le_bytes()));
        columns.push((format!("{SCORES}{name}{SCORE_STEPS}"), steps));
        columns.push((format!("{SCORES}{name}{SCORE_VALUES}"), values));
    }
    columns
}
