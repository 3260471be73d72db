//! A trained generator of the zoo, from a checkpoint or its weights and the settings of its run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use serde::de::DeserializeOwned;
use wgan::checkpoint::Checkpoint;
use wgan::random::Stream;
use wgan::zoo::{
    DcganGenerator, DcganGeneratorConfig, MlpGenerator, MlpGeneratorConfig, ResNet32Config,
    ResNet32Generator, ResNet64Config, ResNet64Generator,
};
use wgan::{Generator, ModelBuilder, Network};

/// A generator in evaluation mode, whose samples follow from a seed.
pub struct Trained {
    network: Network<Box<dyn Generator>>,
    seed: u64,
}

impl Trained {
    /// The generator that a checkpoint is of, or its moving average where there is one. Its settings are in `config`, a
    /// run's config.json.
    pub fn of_checkpoint(path: &Path, config: Option<&Path>, seed: u64) -> Result<Self> {
        let checkpoint = Checkpoint::read(path)?;
        let below = |prefix: &str| -> BTreeMap<String, Tensor> {
            let named = checkpoint.tensors().iter();
            named.filter_map(|(n, x)| Some((n.strip_prefix(prefix)?.into(), x.clone()))).collect()
        };
        // An average has no buffers of its own.
        let mut weights = below("generator.");
        weights.extend(below("average."));
        Self::of_weights(path, &weights, config, seed)
    }

    /// The generator with these tensors of a file, on the same terms.
    pub fn of_weights(
        path: &Path,
        weights: &BTreeMap<String, Tensor>,
        config: Option<&Path>,
        seed: u64,
    ) -> Result<Self> {
        let config = match config {
            Some(config) => config.to_path_buf(),
            None => config_near(path)?,
        };
        let text = std::fs::read(&config).with_context(|| config.display().to_string())?;
        let settings: serde_json::Value = serde_json::from_slice(&text)
            .with_context(|| format!("{}: expected a run's settings as JSON", config.display()))?;
        let network = build(&settings["generator"], weights).with_context(|| {
            format!("{}, with the settings in {}", path.display(), config.display())
        })?;
        Ok(Self { network, seed })
    }

    /// Samples `first..first + count`, each class in turn where the generator has classes.
    pub fn samples(&self, first: usize, count: usize) -> wgan::Result<Tensor> {
        let generator = self.network.model();
        let shape = (count, generator.latent_dim());
        let latent = Stream::new(self.seed, "evaluate/latent", first as u64).normal(
            shape,
            DType::F32,
            &Device::Cpu,
        )?;
        let images = match generator.classes() {
            Some(classes) => {
                let labels: Vec<u32> =
                    (first..first + count).map(|i| (i % classes) as u32).collect();
                let labels = Tensor::from_vec(labels, count, &Device::Cpu)?;
                generator.forward_conditional(&latent, &labels, false)?
            }
            None => generator.forward(&latent, false)?,
        };
        Ok(images.detach())
    }
}

/// The config.json beside the file, or in the folder above, where a run leaves it.
fn config_near(path: &Path) -> Result<PathBuf> {
    let found = path.ancestors().skip(1).take(2).map(|folder| folder.join("config.json"));
    found.into_iter().find(|path| path.is_file()).with_context(|| {
        format!(
            "{}: no config.json beside the file or in the folder above says what generator it is of; name one with --config",
            path.display()
        )
    })
}

/// The first generator of the zoo that has these settings and these tensors.
fn build(
    settings: &serde_json::Value,
    weights: &BTreeMap<String, Tensor>,
) -> Result<Network<Box<dyn Generator>>> {
    let candidates = [
        of::<MlpGeneratorConfig, _>(settings, MlpGenerator::new),
        of::<DcganGeneratorConfig, _>(settings, DcganGenerator::new),
        of::<ResNet32Config, _>(settings, ResNet32Generator::new),
        of::<ResNet64Config, _>(settings, ResNet64Generator::new),
    ];
    let mut refusal = anyhow!("the settings under \"generator\" are of no generator of the zoo");
    for candidate in candidates.into_iter().flatten() {
        let network = candidate?;
        match network.parameters().assign(weights.clone()) {
            Ok(()) => return Ok(network),
            Err(error) => refusal = error.into(),
        }
    }
    Err(refusal)
}

/// The generator with these settings; `None` where they are another's.
fn of<C: DeserializeOwned, G: Generator + 'static>(
    settings: &serde_json::Value,
    new: impl FnOnce(C, VarBuilder) -> wgan::Result<G>,
) -> Option<wgan::Result<Network<Box<dyn Generator>>>> {
    let config = C::deserialize(settings).ok()?;
    let boxed = |vb: VarBuilder| Ok(Box::new(new(config, vb)?) as Box<dyn Generator>);
    Some(ModelBuilder::new(0).generator(boxed))
}
