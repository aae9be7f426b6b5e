//! Scenarios for each rule of workflows.

mod cancelling;
mod failures;
mod growing;
mod keeping;
mod scale;
mod shapes;
mod staging;

pub use cancelling::*;
pub use failures::*;
pub use growing::*;
pub use keeping::*;
pub use scale::*;
pub use shapes::*;
pub use staging::*;

use super::{flows::*, *};
