//! Reading weights from safetensors files.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor, safetensors::Load};
use safetensors::SafeTensors;

use crate::error::{Error, Result};

/// Reads all tensors of a file.
pub(crate) fn read(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, "reading the file", e))?;
    let fail = |error: &dyn std::fmt::Display| Error::Format {
        path: path.to_path_buf(),
        problem: format!(
            "is not a safetensors file: {error}; expected weights saved as safetensors"
        ),
    };
    let file = SafeTensors::deserialize(&bytes).map_err(|error| fail(&error))?;
    file.tensors()
        .into_iter()
        .map(|(name, view)| Ok((name, view.load(&Device::Cpu).map_err(|error| fail(&error))?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::Parameters;
    use candle_core::{DType, Device, Var};

    fn parameters(value: f64) -> Parameters {
        let full = |shape: &[usize]| {
            Var::from_tensor(&Tensor::full(value as f32, shape, &Device::Cpu).unwrap()).unwrap()
        };
        [("fc1.weight", vec![2, 3]), ("fc1.bias", vec![2]), ("bn.running_mean", vec![2])]
            .into_iter()
            .map(|(name, shape)| (name.to_owned(), full(&shape)))
            .collect()
    }

    fn sum(parameters: &Parameters) -> f32 {
        let sum = |t: &Tensor| t.sum_all().unwrap().to_scalar::<f32>().unwrap();
        parameters.tensors().values().map(sum).sum()
    }

    #[test]
    fn a_file_that_does_not_fit_changes_nothing() -> Result<()> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("weights.safetensors");
        let tensor = |shape: &[usize]| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
        let tensors: BTreeMap<_, _> = [
            ("fc1.weight".to_owned(), tensor(&[3, 2])),
            ("fc1.bias".to_owned(), tensor(&[2])),
            ("other".to_owned(), tensor(&[1])),
            ("bn.num_batches_tracked".to_owned(), tensor(&[1])),
        ]
        .into();
        crate::files::write_safetensors(&path, &tensors)?;
        let model = parameters(5.0);
        match model.load(&path) {
            Err(Error::Weights { missing, unexpected, mismatched, .. }) => {
                assert_eq!(missing, ["bn.running_mean"]);
                assert_eq!(unexpected, ["other"]);
                assert_eq!(mismatched.len(), 1);
                assert!(mismatched[0].starts_with("fc1.weight: [3, 2]"), "{mismatched:?}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(sum(&model), 50.0);
        Ok(())
    }

    #[test]
    fn saving_and_loading_gives_the_same_bytes_back() -> Result<()> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("weights.safetensors");
        parameters(7.0).save(&path)?;
        let model = parameters(0.0);
        model.load(&path)?;
        assert_eq!(sum(&model), 70.0);
        for length in [0, 4, 9, 100] {
            let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, "reading", e))?;
            let broken = folder.path().join("broken.safetensors");
            std::fs::write(&broken, &bytes[..length.min(bytes.len() - 1)])
                .expect("a temporary file");
            assert!(matches!(model.load(&broken), Err(Error::Format { .. })));
        }
        assert_eq!(sum(&model), 70.0);
        Ok(())
    }
}
