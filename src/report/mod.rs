//! Pictures of a run: grids of samples, learning curves, and figures of your own, as bytes and as files.
//!
//! Nothing here knows of training: the functions take tensors and records. To have the files written during a
//! run, see [`SampleGrid`](crate::observers::SampleGrid) and
//! [`LearningCurve`](crate::observers::LearningCurve).

mod axis;
mod curve;
mod figure;
mod grid;
mod median;
mod picture;
mod plot;

pub use curve::learning_curve_svg;
pub use grid::image_grid;
pub use median::median_filter;
pub use picture::Picture;
pub use plot::{Field, Figure, Panel};
