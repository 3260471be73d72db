//! Devices by name.

use candle_core::Device;

use crate::error::{Error, Result};

/// The device called `cpu`, `cuda`, `cuda:N` or `metal`.
///
/// ```
/// assert!(wgan::device("cpu")?.is_cpu());
/// assert!(wgan::device("gpu").is_err());
/// # Ok::<(), wgan::Error>(())
/// ```
///
/// # Errors
/// [`Error::InvalidConfig`] for any other name; [`Error::Device`] for a device that is not built in or not there.
pub fn device(name: &str) -> Result<Device> {
    let unusable = |error: &dyn std::fmt::Display, feature: &str, built_in: bool| Error::Device {
        name: name.into(),
        reason: if built_in {
            error.to_string()
        } else {
            format!("the feature `{feature}` is not built in; build with `--features {feature}`")
        },
    };
    let (kind, index) = match name.split_once(':') {
        Some((kind, index)) => (kind, index.parse::<usize>().ok()),
        None => (name, Some(0)),
    };
    match (kind, index) {
        ("cpu", Some(0)) if name == "cpu" => Ok(Device::Cpu),
        ("cuda", Some(index)) => Device::new_cuda(index)
            .map_err(|error| unusable(&error, "cuda", cfg!(feature = "cuda"))),
        ("metal", Some(0)) if name == "metal" => {
            Device::new_metal(0).map_err(|error| unusable(&error, "metal", cfg!(feature = "metal")))
        }
        _ => Err(Error::config("device", name, "cpu, cuda, cuda:N or metal")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_no_device_are_refused() {
        for name in ["", "CPU", "cpu:0", "cuda:", "cuda:x", "cuda:-1", "metal:1", "tpu"] {
            assert!(matches!(device(name), Err(Error::InvalidConfig { .. })), "{name}");
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_device_that_is_not_built_in_says_how_to_get_it() {
        let error = device("cuda:1").unwrap_err().to_string();
        assert!(error.contains("cuda:1") && error.contains("--features cuda"), "{error}");
    }
}
