//! The named tensors of a model: made from a seed, saved and loaded as safetensors.

mod init;
mod store;
mod weights_file;

pub use init::InitScheme;
pub use store::Parameters;
pub(crate) use store::{Seeded, is_buffer, is_statistic, layer_of};
pub(crate) use weights_file::read as read_weights;
